"""Every layer kind with many configurations: output, and the gradients of input and parameters for a random upstream gradient."""
import copy

import torch
import torch.nn as nn
import torch.nn.functional as F

from common import Group, assert_close, start

G = Group("layers")


def explicit(pads):
    """Padding as one [before, after] pair per spatial axis."""
    return {"explicit": [list(p) for p in pads]}


def shake(module):
    """Parameters and running statistics that are not the defaults, so that forgetting one shows."""
    for name, p in module.named_parameters():
        if p.ndim == 1:
            p.data = torch.randn_like(p) * 0.3 + (1.0 if name == "weight" and isinstance(module, NORMS) else 0.0)
    for name, b in module.named_buffers():
        if name == "running_mean":
            b.copy_(torch.randn_like(b) * 0.5)
        if name == "running_var":
            b.copy_(torch.rand_like(b) + 0.5)


NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.LayerNorm, nn.GroupNorm, nn.InstanceNorm1d,
         nn.InstanceNorm2d, nn.InstanceNorm3d, nn.RMSNorm)


def run(module, forward, x, d_y):
    x = x.clone().requires_grad_(True) if x.is_floating_point() else x
    y = forward(module, x)
    d_y = torch.randn(y.shape) if d_y is None else d_y
    params = dict(module.named_parameters())
    leaves = ([x] if x.is_floating_point() else []) + list(params.values())
    grads = list(torch.autograd.grad(y, leaves, d_y.to(y.dtype), allow_unused=True))
    d_x = grads.pop(0) if x.is_floating_point() else None
    return y, d_y, d_x, dict(zip(params, grads))


def add(layer, config, module, x, train=True, forward=lambda m, x: m(x), note=None):
    shake(module)
    module.train(train)
    case = G.new_id(layer.lower())
    record = dict(id=case, layer=layer, config=config, train=train, input=G.put(f"{case}.x", x),
                  params={k: G.put(f"{case}.{k}", p) for k, p in module.named_parameters()})
    stats = {k: b.clone() for k, b in module.named_buffers() if k.startswith("running") and b is not None}
    double = copy.deepcopy(module).double()
    y, d_y, d_x, d_params = run(module, forward, x, None)
    y64, _, d_x64, d_params64 = run(double, forward, x.double() if x.is_floating_point() else x, d_y)
    assert_close(case, [y, d_x, *d_params.values()], [y64, d_x64, *d_params64.values()])
    record.update(output=G.put(f"{case}.y", y), d_output=G.put(f"{case}.d_y", d_y),
                  d_input=None if d_x is None else G.put(f"{case}.d_x", d_x),
                  d_params={k: G.put(f"{case}.d_{k}", g) for k, g in d_params.items()})
    if stats:
        after = dict(module.named_buffers())
        record.update(buffers_before={k: G.put(f"{case}.{k}.before", b) for k, b in stats.items()},
                      buffers_after={k: G.put(f"{case}.{k}.after", after[k]) for k in stats})
    if note:
        record["note"] = note
    G.case(**record)


def linear():
    for shape in ((7,), (3, 7), (2, 3, 7), (2, 3, 2, 7)):
        for bias in (True, False):
            add("Linear", dict(in_features=7, out_features=5, bias=bias), nn.Linear(7, 5, bias), torch.randn(shape))
    add("Linear", dict(in_features=1, out_features=1, bias=True), nn.Linear(1, 1), torch.randn(1, 1))
    add("Linear", dict(in_features=17, out_features=33, bias=True), nn.Linear(17, 33), torch.randn(13, 17))


def conv(n, c_in, c_out, kernel, size, batch=2, stride=1, padding=0, dilation=1, groups=1, bias=True):
    """`padding` is "same", one number or one per axis (both sides), or one (before, after) pair per axis."""
    per_axis = lambda v: [v] * n if isinstance(v, int) else list(v)  # noqa: E731
    kernel, stride, dilation = per_axis(kernel), per_axis(stride), per_axis(dilation)
    forward = lambda m, x: m(x)  # noqa: E731
    if padding == "same":
        torch_padding, spec = "same", "same"
    else:
        pairs = [(p, p) if isinstance(p, int) else tuple(p) for p in per_axis(padding)]
        spec = explicit(pairs)
        if all(a == b for a, b in pairs):
            torch_padding = [a for a, _ in pairs]
        else:
            torch_padding = 0
            flat = [v for pair in reversed(pairs) for v in pair]  # F.pad starts at the last axis
            forward = lambda m, x: m(F.pad(x, flat))  # noqa: E731
    module = getattr(nn, f"Conv{n}d")(c_in, c_out, kernel, stride, torch_padding, dilation, groups, bias)
    config = dict(in_channels=c_in, out_channels=c_out, kernel_size=kernel, stride=stride, padding=spec, dilation=dilation,
                  groups=groups, bias=bias)
    add(f"Conv{n}d", config, module, torch.randn(batch, c_in, *size), forward=forward)


def convs():
    conv(1, 3, 4, 3, [9])
    conv(1, 3, 4, 3, [9], padding=1, bias=False)
    conv(1, 4, 6, 5, [11], stride=2, padding=2, groups=2)
    conv(1, 2, 3, 3, [10], padding="same", dilation=2)
    conv(1, 2, 2, 4, [9], padding="same")
    conv(1, 3, 3, 3, [8], padding=[(2, 0)], groups=3)
    conv(1, 3, 6, 3, [13], batch=1, stride=3, dilation=2, padding=[(1, 3)], groups=3)

    conv(2, 2, 3, 3, [5, 5])
    conv(2, 2, 3, 3, [7, 5], padding=1)
    conv(2, 3, 4, 3, [9, 8], padding=1, stride=2)
    conv(2, 3, 4, 3, [9, 8], padding=1, stride=2, bias=False)
    conv(2, 3, 5, 1, [4, 6])
    conv(2, 4, 6, 1, [7, 5], stride=2, bias=False)
    conv(2, 3, 2, [3, 5], [8, 9], padding=[1, 2])
    conv(2, 3, 2, [1, 4], [5, 9], stride=[1, 3])
    conv(2, 2, 3, [2, 3], [8, 7], stride=[2, 1], padding=[1, 0], dilation=[1, 2])
    conv(2, 2, 3, 3, [7, 6], padding="same")
    conv(2, 2, 3, [4, 2], [7, 6], padding="same")
    conv(2, 2, 3, 3, [8, 9], padding="same", dilation=[2, 3])
    conv(2, 2, 3, 3, [6, 7], padding=[(0, 1), (2, 1)])
    conv(2, 3, 4, 3, [8, 8], stride=2, padding=[(0, 1), (0, 1)])
    conv(2, 4, 4, 3, [6, 5], padding=1, groups=4)
    conv(2, 4, 8, 3, [6, 5], padding=1, groups=4, bias=False)
    conv(2, 4, 4, 3, [7, 7], padding=1, stride=2, groups=4)
    conv(2, 4, 6, 3, [5, 6], padding=1, groups=2)
    conv(2, 6, 4, [3, 2], [9, 8], stride=[2, 3], padding=[1, 1], dilation=[2, 1], groups=2)
    conv(2, 3, 3, 5, [5, 5], batch=1)
    conv(2, 1, 1, 2, [2, 2], batch=1)
    conv(2, 1, 7, 3, [3, 13], batch=1, padding=[1, 0])
    conv(2, 2, 3, 3, [10, 10], dilation=3, padding=3)
    conv(2, 2, 2, 2, [7, 7], stride=4, padding=1)
    conv(2, 2, 3, 1, [4, 4], padding=1)
    conv(2, 5, 17, 3, [7, 11], batch=3, padding=1)

    conv(3, 2, 3, 3, [4, 5, 6], padding=1)
    conv(3, 2, 2, [1, 2, 3], [4, 5, 6], stride=[1, 2, 2], padding=[0, 1, 1], bias=False)
    conv(3, 4, 4, 2, [5, 4, 5], batch=1, groups=4, stride=2)
    conv(3, 2, 4, [2, 1, 3], [5, 4, 7], dilation=[2, 1, 2], groups=2)
    conv(3, 1, 2, 3, [4, 3, 5], batch=1, padding="same")


def conv_transpose(c_in, c_out, kernel, size, batch=2, stride=1, padding=0, output_padding=0, groups=1, bias=True, dilation=1):
    n = len(size)
    per_axis = lambda v: [v] * n if isinstance(v, int) else list(v)  # noqa: E731
    config = dict(in_channels=c_in, out_channels=c_out, kernel_size=per_axis(kernel), stride=per_axis(stride),
                  padding=per_axis(padding), output_padding=per_axis(output_padding), groups=groups, bias=bias,
                  dilation=per_axis(dilation))
    add(f"ConvTranspose{n}d", config, getattr(nn, f"ConvTranspose{n}d")(**config), torch.randn(batch, c_in, *size))


def conv_transposes():
    conv_transpose(2, 3, 3, [4, 5])
    conv_transpose(2, 3, 2, [4, 3], stride=2, bias=False)
    conv_transpose(3, 2, 3, [4, 5], stride=2, padding=1, output_padding=1)
    conv_transpose(3, 2, 4, [3, 4], stride=2, padding=1)
    conv_transpose(2, 3, [3, 2], [4, 3], stride=[2, 3], padding=[1, 0], output_padding=[1, 2])
    conv_transpose(4, 6, 3, [4, 3], groups=2, padding=1)
    conv_transpose(4, 4, 3, [4, 3], groups=4, stride=2)
    conv_transpose(2, 2, 3, [4, 4], dilation=2)
    conv_transpose(2, 4, 3, [3, 5], dilation=[2, 1], stride=[1, 2], padding=[2, 1], output_padding=[1, 0], groups=2)
    conv_transpose(1, 1, 1, [3, 3], batch=1, stride=2)
    conv_transpose(3, 5, 1, [2, 3], bias=False)
    conv_transpose(2, 3, 5, [1, 1], batch=1)


def pool(layer, x, **config):
    add(layer, config, getattr(nn, layer)(**config), x)


def pools():
    m = dict(ceil_mode=False)
    pool("MaxPool1d", torch.randn(2, 3, 9), kernel_size=[3], stride=[2], padding=[0], dilation=[1], **m)
    pool("MaxPool1d", torch.randn(2, 2, 10), kernel_size=[3], stride=[1], padding=[1], dilation=[2], **m)
    pool("MaxPool1d", torch.randn(1, 2, 8), kernel_size=[3], stride=[3], padding=[1], dilation=[1], ceil_mode=True)
    x = torch.randn(2, 3, 8, 9)
    for k, s, p, d in (((2, 2), (2, 2), (0, 0), (1, 1)), ((3, 3), (2, 2), (1, 1), (1, 1)), ((3, 2), (1, 3), (1, 0), (1, 1)),
                       ((2, 3), (2, 1), (0, 1), (2, 2)), ((3, 3), (3, 3), (0, 0), (1, 2)), ((1, 1), (2, 2), (0, 0), (1, 1)),
                       ((2, 2), (3, 3), (1, 1), (1, 1))):
        for ceil in (False, True):
            pool("MaxPool2d", x + 0.01 * torch.randn_like(x), kernel_size=list(k), stride=list(s), padding=list(p),
                 dilation=list(d), ceil_mode=ceil)
    ties = torch.randint(-1, 2, (1, 2, 6, 7)).float()
    add("MaxPool2d", dict(kernel_size=[3, 3], stride=[2, 2], padding=[1, 1], dilation=[1, 1], ceil_mode=False),
        nn.MaxPool2d(3, 2, 1), ties, note="ties: the first maximum of a window, row by row, gets the gradient")
    pool("AvgPool1d", torch.randn(2, 3, 9), kernel_size=[3], stride=[2], padding=[1], ceil_mode=False, count_include_pad=True)
    pool("AvgPool1d", torch.randn(2, 3, 8), kernel_size=[2], stride=[3], padding=[1], ceil_mode=True, count_include_pad=False)
    for k, s, p in (((2, 2), (2, 2), (0, 0)), ((3, 3), (2, 2), (1, 1)), ((3, 2), (1, 3), (1, 1)), ((2, 3), (2, 1), (0, 1))):
        for ceil in (False, True):
            for include in (False, True):
                pool("AvgPool2d", torch.randn(2, 2, 7, 8), kernel_size=list(k), stride=list(s), padding=list(p),
                     ceil_mode=ceil, count_include_pad=include)
    for size, out in (((6, 6), (3, 2)), ((7, 5), (3, 3)), ((5, 8), (1, 1)), ((4, 4), (4, 4)), ((3, 4), (5, 7)), ((7, 9), (2, 4))):
        pool("AdaptiveAvgPool2d", torch.randn(2, 2, *size), output_size=list(out))
        pool("AdaptiveMaxPool2d", torch.randn(2, 2, *size), output_size=list(out))
    for shape in ((2, 3, 4, 5), (1, 2, 7, 1)):
        add("GlobalAvgPool2d", {}, nn.Identity(), torch.randn(shape), forward=lambda m, x: x.mean((2, 3)))
        add("GlobalMaxPool2d", {}, nn.Identity(), torch.randn(shape), forward=lambda m, x: x.amax((2, 3)))


def batch_norm(layer, shape, train, **options):
    config = dict(num_features=shape[1], eps=1e-5, momentum=0.1, affine=True, track_running_stats=True) | options
    add(layer, config, getattr(nn, layer)(**config), torch.randn(shape) * 1.5 + 0.7, train)


def norms():
    for train in (True, False):
        for layer, shape in (("BatchNorm1d", (6, 5)), ("BatchNorm1d", (3, 4, 7)), ("BatchNorm1d", (2, 3)),
                             ("BatchNorm2d", (3, 4, 5, 6)), ("BatchNorm2d", (1, 2, 3, 3)), ("BatchNorm2d", (8, 3, 1, 1))):
            batch_norm(layer, shape, train)
        batch_norm("BatchNorm1d", (5, 3), train, momentum=0.3, eps=1e-3)
        batch_norm("BatchNorm2d", (4, 3, 3, 2), train, momentum=0.9)
        batch_norm("BatchNorm2d", (4, 3, 3, 2), train, affine=False)
        batch_norm("BatchNorm2d", (4, 3, 3, 2), train, track_running_stats=False)
    batch_norm("BatchNorm2d", (4, 3, 3, 2), True, momentum=None)
    for shape, dims in (((4, 6), [6]), ((2, 3, 7), [7]), ((2, 3, 5), [3, 5]), ((2, 2, 3, 4), [4]), ((5,), [5]), ((1, 1), [1])):
        for affine, bias, eps in ((True, True, 1e-5), (True, False, 1e-5), (False, False, 1e-3)):
            add("LayerNorm", dict(normalized_shape=dims, eps=eps, elementwise_affine=affine, bias=bias),
                nn.LayerNorm(dims, eps, affine, bias), torch.randn(shape) * 2 + 0.5)
    for groups, shape in ((1, (2, 4, 3)), (2, (2, 4, 3, 5)), (4, (1, 4, 2, 3)), (3, (3, 6)), (2, (2, 4, 2, 2, 3))):
        for affine in (True, False):
            if shape == (3, 6) and not affine:
                continue
            add("GroupNorm", dict(num_groups=groups, num_channels=shape[1], eps=1e-5, affine=affine),
                nn.GroupNorm(groups, shape[1], 1e-5, affine), torch.randn(shape) * 1.3 - 0.4)
    for affine, track in ((True, False), (False, False), (True, True)):
        for train in (True, False):
            config = dict(num_features=3, eps=1e-5, momentum=0.1, affine=affine, track_running_stats=track)
            add("InstanceNorm2d", config, nn.InstanceNorm2d(**config), torch.randn(2, 3, 4, 5) + 0.3, train)
    for shape, dims in (((4, 6), [6]), ((2, 3, 7), [7]), ((2, 3, 5), [3, 5])):
        for affine in (True, False):
            add("RMSNorm", dict(normalized_shape=dims, eps=1e-6, elementwise_affine=affine),
                nn.RMSNorm(dims, 1e-6, affine), torch.randn(shape))


def embeddings():
    for shape in ((), (5,), (2, 4), (2, 2, 3)):
        add("Embedding", dict(num_embeddings=6, embedding_dim=3), nn.Embedding(6, 3), torch.randint(0, 6, shape))
    add("Embedding", dict(num_embeddings=2, embedding_dim=1), nn.Embedding(2, 1), torch.tensor([1, 1, 1]))


def activations():
    edges = torch.tensor([0.0, -0.0, 1e-4, -1e-4, 1e-30, -1e-30, 1.0, -1.0, 3.0, -3.0, 6.0, -6.0, 19.9, 20.1, -20.0, 50.0, -50.0,
                          88.0, -88.0, 100.0, -100.0, 1e4, -1e4])
    plain = [("ReLU", {}), ("LeakyReLU", dict(negative_slope=0.01)), ("LeakyReLU", dict(negative_slope=0.3)),
             ("ELU", dict(alpha=1.0)), ("ELU", dict(alpha=0.5)), ("SELU", {}), ("GELU", dict(approximate="none")),
             ("GELU", dict(approximate="tanh")), ("SiLU", {}), ("Mish", {}), ("Hardswish", {}),
             ("Softplus", dict(beta=1.0, threshold=20.0)), ("Softplus", dict(beta=2.5, threshold=5.0)), ("Sigmoid", {}),
             ("Tanh", {})]
    for layer, config in plain:
        for shape in ((4, 5), (1, 3, 2, 7)):
            add(layer, config, getattr(nn, layer)(**config), torch.randn(shape) * 2)
        add(layer, config, getattr(nn, layer)(**config), edges, note="edges")
    for n, shape in ((1, (3, 4)), (4, (3, 4)), (3, (2, 3, 2, 5))):
        add("PReLU", dict(num_parameters=n), nn.PReLU(n), torch.randn(shape))
    for layer in ("Softmax", "LogSoftmax"):
        for shape, dim in (((4, 5), -1), ((3, 4), 0), ((2, 3, 4), 1), ((2, 3, 4), -1), ((2, 3, 2, 3), 1), ((5,), 0), ((3, 1), 1)):
            add(layer, dict(dim=dim), getattr(nn, layer)(dim), torch.randn(shape) * 2)
        big = torch.tensor([[1000.0, 999.0, -1000.0], [-1e4, -1e4, -1e4], [0.0, 80.0, 90.0]])
        add(layer, dict(dim=-1), getattr(nn, layer)(-1), big, note="edges")


def volumes_and_sequences():
    """Last, so that the random numbers of what stands above stay what they were."""
    x = torch.randn(2, 2, 5, 4, 6)
    for k, s, p, d in (((2, 2, 2), (2, 2, 2), (0, 0, 0), (1, 1, 1)), ((3, 2, 3), (1, 2, 2), (1, 0, 1), (1, 1, 1)),
                       ((2, 1, 2), (2, 3, 1), (1, 0, 0), (2, 1, 3))):
        for ceil in (False, True):
            pool("MaxPool3d", x + 0.01 * torch.randn_like(x), kernel_size=list(k), stride=list(s), padding=list(p),
                 dilation=list(d), ceil_mode=ceil)
            for include in (False, True):
                pool("AvgPool3d", torch.randn(2, 2, 5, 4, 6), kernel_size=list(k), stride=list(s), padding=list(p),
                     ceil_mode=ceil, count_include_pad=include)
    for size, out in (((4, 6, 2), (2, 3, 2)), ((5, 3, 4), (3, 2, 1)), ((2, 3, 3), (3, 3, 4))):
        pool("AdaptiveAvgPool3d", torch.randn(1, 2, *size), output_size=list(out))
        pool("AdaptiveMaxPool3d", torch.randn(1, 2, *size), output_size=list(out))
    for size, out in ((8, 4), (7, 3), (3, 5)):
        pool("AdaptiveAvgPool1d", torch.randn(2, 3, size), output_size=[out])
        pool("AdaptiveMaxPool1d", torch.randn(2, 3, size), output_size=[out])
    for train in (True, False):
        batch_norm("BatchNorm3d", (2, 3, 2, 3, 2), train)


def transposes_and_instances_of_sequences_and_volumes():
    """After what stands above, for the same reason."""
    conv_transpose(2, 3, 3, [5])
    conv_transpose(3, 2, 4, [6], stride=2, padding=1, output_padding=1, bias=False)
    conv_transpose(4, 6, 3, [5], groups=2, dilation=2, padding=2)
    conv_transpose(1, 2, 2, [4], batch=1, stride=3)
    conv_transpose(2, 3, 2, [3, 2, 4])
    conv_transpose(3, 2, [2, 3, 1], [2, 3, 2], stride=[2, 1, 2], padding=[0, 1, 0], output_padding=[1, 0, 1], bias=False)
    conv_transpose(4, 4, 2, [2, 3, 2], groups=4, stride=2, batch=1)
    conv_transpose(2, 2, [1, 2, 3], [2, 2, 3], dilation=[1, 2, 1], padding=[0, 0, 2])
    for layer, shape in (("InstanceNorm1d", (2, 3, 7)), ("InstanceNorm3d", (2, 3, 2, 3, 2))):
        for affine, track in ((True, False), (False, False), (True, True)):
            for train in (True, False):
                config = dict(num_features=3, eps=1e-5, momentum=0.1, affine=affine, track_running_stats=track)
                add(layer, config, getattr(nn, layer)(**config), torch.randn(shape) + 0.3, train)


if __name__ == "__main__":
    start(303)
    linear()
    convs()
    conv_transposes()
    pools()
    norms()
    embeddings()
    activations()
    volumes_and_sequences()
    transposes_and_instances_of_sequences_and_volumes()
    G.save()
