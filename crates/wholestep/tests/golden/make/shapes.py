"""10 000 random pairs of layer configuration and input shape: the output shape, or null where PyTorch raises.

About a third are invalid: one thing is put wrong (rank, channels, a zero stride, a kernel larger than the image, ...). The layers are
run on the CPU, not on the meta device, whose checks are weaker for some of them.
"""
import json
import random
import warnings

import torch
import torch.nn as nn
import torch.nn.functional as F

from common import HERE, start

TOTAL = 10_000
warnings.simplefilter("ignore")
R = random.Random(606)


def ints(n, low, high):
    return [R.randint(low, high) for _ in range(n)]


def image(channels, n, low=1, high=9):
    """[N, C, spatial...], now and then without N."""
    shape = [R.randint(1, 3), channels] + ints(n, low, high)
    return shape[1:] if R.random() < 0.1 else shape


def spoil(shape):
    """The wrong rank, or one other extent."""
    shape = list(shape)
    pick = R.random()
    if pick < 0.3 and len(shape) > 1:
        del shape[R.randrange(len(shape))]
    elif pick < 0.5:
        shape.insert(R.randrange(len(shape) + 1), R.randint(1, 4))
    elif shape:
        shape[R.randrange(len(shape))] = R.randint(1, 9)
    return shape


def conv(n):
    groups = R.choice([1, 1, 1, 2, 3])
    c_in, c_out = groups * R.randint(1, 3), groups * R.randint(1, 3)
    kernel, stride, dilation = ints(n, 1, 4), ints(n, 1, 3), ints(n, 1, 2)
    padding = "same" if R.random() < 0.15 else ints(n, 0, 2)
    if padding == "same" and R.random() < 0.7:
        stride = [1] * n
    wrong = R.random()
    if wrong < 0.05:
        stride[R.randrange(n)] = 0
    elif wrong < 0.08:
        dilation[R.randrange(n)] = 0
    elif wrong < 0.11:
        kernel[R.randrange(n)] = 0
    elif wrong < 0.16:
        c_out += 1
    elif wrong < 0.19:
        c_in += 1
    config = dict(in_channels=c_in, out_channels=c_out, kernel_size=kernel, stride=stride, padding=padding, dilation=dilation, groups=groups)
    return config, image(c_in, n)


def conv_transpose(n):
    groups = R.choice([1, 1, 2])
    c_in, c_out = groups * R.randint(1, 3), groups * R.randint(1, 3)
    stride, dilation = ints(n, 1, 3), ints(n, 1, 2)
    output_padding = [R.randint(0, max(s, d) - 1) for s, d in zip(stride, dilation)] if R.random() < 0.5 else [0] * n
    wrong = R.random()
    if wrong < 0.1:
        output_padding[R.randrange(n)] = R.randint(1, 4)
    elif wrong < 0.14:
        stride[R.randrange(n)] = 0
    elif wrong < 0.18:
        c_out += 1
    config = dict(in_channels=c_in, out_channels=c_out, kernel_size=ints(n, 1, 4), stride=stride, padding=ints(n, 0, 3),
                  output_padding=output_padding, groups=groups, dilation=dilation)
    return config, image(c_in, n, high=6)


def max_pool(n):
    kernel = ints(n, 1, 4)
    padding = [R.randint(0, k // 2) for k in kernel]
    stride, dilation = ints(n, 1, 4), ints(n, 1, 2)
    wrong = R.random()
    if wrong < 0.08:
        padding[R.randrange(n)] += 2
    elif wrong < 0.12:
        stride[R.randrange(n)] = 0
    elif wrong < 0.15:
        dilation[R.randrange(n)] = 0
    return dict(kernel_size=kernel, stride=stride, padding=padding, dilation=dilation, ceil_mode=R.random() < 0.4), image(R.randint(1, 3), n)


def avg_pool(n):
    config, shape = max_pool(n)
    del config["dilation"]
    return config | dict(count_include_pad=R.random() < 0.5), shape


def channels_norm(n):
    c = R.randint(1, 5)
    shape = image(c, n, high=5)
    if n == 1 and R.random() < 0.5:
        shape = [R.randint(1, 4), c]
    return dict(num_features=c), shape


def instance_norm1d():
    c = R.randint(1, 5)
    return dict(num_features=c), image(c, 1, high=5)


def trailing_norm():
    dims = ints(R.randint(1, 2), 1, 5)
    return dict(normalized_shape=dims), ints(R.randint(0, 3), 1, 4) + dims


def group_norm():
    groups = R.randint(1, 4)
    c = groups * R.randint(1, 3) + (1 if R.random() < 0.12 else 0)
    return dict(num_groups=groups, num_channels=c), [R.randint(1, 3), c] + ints(R.randint(0, 3), 1, 4)


def linear():
    n = R.randint(1, 6)
    return dict(in_features=n, out_features=R.randint(1, 6)), ints(R.randint(0, 4), 1, 5) + [n]


def prelu():
    n = R.choice([1, 1, 2, 3])
    return dict(num_parameters=n), ints(1, 1, 3) + [n if R.random() < 0.8 else n + 1] + ints(R.randint(0, 2), 1, 4)


def axis_layer():
    rank = R.randint(1, 4)
    return dict(dim=R.randint(-rank - 1, rank)), ints(rank, 1, 4)


def flatten():
    rank = R.randint(1, 5)
    return dict(start_dim=R.randint(-rank - 1, rank), end_dim=R.randint(-rank - 1, rank)), ints(rank, 1, 4)


def padded():
    return dict(before_after=[ints(2, 0, 3), ints(2, 0, 3)]), image(R.randint(1, 3), 2)


def anything():
    return {}, ints(R.randint(0, 5), 1, 4)


def sized(n):
    return dict(output_size=ints(n, 1, 5)), image(R.randint(1, 3), n)


def permuted():
    rank = R.randint(1, 5)
    axes = R.sample(range(rank), rank)
    if R.random() < 0.2:
        axes[R.randrange(rank)] = R.randint(0, rank)
    return dict(axes=axes), ints(rank, 1, 4)


def unsqueezed():
    rank = R.randint(0, 4)
    return dict(axis=R.randint(-rank - 3, rank + 2)), ints(rank, 1, 4)


def reshaped():
    """A sample of 2 or 3 axes as another one, with or without a hole, sometimes of another size."""
    shape = ints(R.randint(1, 3), 1, 4)
    n = 1
    for d in shape:
        n *= d
    first = R.choice([d for d in range(1, n + 1) if n % d == 0])
    to = [first, n // first]
    if R.random() < 0.5:
        to[R.randrange(2)] = R.choice([-1, -1, -1, 0, 2])
    return dict(shape=to), [R.randint(1, 3)] + shape


# layer -> (generator, weight)
KINDS = {
    "Linear": (linear, 3), "Conv1d": (lambda: conv(1), 3), "Conv2d": (lambda: conv(2), 6), "Conv3d": (lambda: conv(3), 3),
    "ConvTranspose1d": (lambda: conv_transpose(1), 2), "ConvTranspose2d": (lambda: conv_transpose(2), 4),
    "ConvTranspose3d": (lambda: conv_transpose(3), 2), "MaxPool1d": (lambda: max_pool(1), 2), "MaxPool2d": (lambda: max_pool(2), 4),
    "MaxPool3d": (lambda: max_pool(3), 2), "AvgPool1d": (lambda: avg_pool(1), 2), "AvgPool2d": (lambda: avg_pool(2), 4),
    "AvgPool3d": (lambda: avg_pool(3), 2), "AdaptiveAvgPool1d": (lambda: sized(1), 0.7), "AdaptiveAvgPool2d": (lambda: sized(2), 1),
    "AdaptiveAvgPool3d": (lambda: sized(3), 0.7), "AdaptiveMaxPool1d": (lambda: sized(1), 0.7), "AdaptiveMaxPool2d": (lambda: sized(2), 1),
    "AdaptiveMaxPool3d": (lambda: sized(3), 0.7), "GlobalAvgPool": (anything, 0.5), "GlobalMaxPool": (anything, 0.5), "BatchNorm1d": (lambda: channels_norm(1), 2),
    "BatchNorm2d": (lambda: channels_norm(2), 2), "BatchNorm3d": (lambda: channels_norm(3), 1), "InstanceNorm1d": (instance_norm1d, 1),
    "InstanceNorm2d": (lambda: channels_norm(2), 1), "InstanceNorm3d": (lambda: channels_norm(3), 1), "LayerNorm": (trailing_norm, 2),
    "RMSNorm": (trailing_norm, 1), "GroupNorm": (group_norm, 2), "Embedding": (lambda: (dict(num_embeddings=5, embedding_dim=R.randint(1, 4)), anything()[1]), 1),
    "PReLU": (prelu, 1), "ReLU": (anything, 0.3), "GELU": (anything, 0.3), "Softmax": (axis_layer, 1), "LogSoftmax": (axis_layer, 0.5),
    "Flatten": (flatten, 1), "ZeroPad2d": (padded, 0.7), "Permute": (permuted, 0.7), "Unsqueeze": (unsqueezed, 0.7), "Reshape": (reshaped, 0.7),
    "Dropout": (anything, 0.3), "LeakyReLU": (anything, 0.3), "ELU": (anything, 0.3), "SELU": (anything, 0.3), "SiLU": (anything, 0.3),
    "Mish": (anything, 0.3), "Hardswish": (anything, 0.3), "Softplus": (anything, 0.3), "Sigmoid": (anything, 0.3), "Tanh": (anything, 0.3),
}


def expected(layer, config, shape):
    """The output shape in training mode, or None."""
    config = dict(config)
    try:
        if layer == "Embedding":
            return list(nn.Embedding(**config)(torch.zeros(shape, dtype=torch.int64)).shape)
        x = torch.zeros(shape)
        if layer == "ZeroPad2d":
            (top, bottom), (left, right) = config["before_after"]
            return list(nn.ZeroPad2d((left, right, top, bottom))(x).shape)
        if layer == "Permute":
            return list(x.permute(config["axes"]).shape)
        if layer == "Unsqueeze":
            return list(x.unsqueeze(config["axis"]).shape)
        if layer == "Reshape":
            return list(x.reshape(x.shape[0], *config["shape"]).shape)
        if layer in ("GlobalAvgPool", "GlobalMaxPool"):
            # A batch, channels and at least one spatial axis; PyTorch has no layer of this name.
            if x.ndim < 3:
                return None
            return list(getattr(nn, f"Adaptive{layer[6:]}1d")(1)(x.flatten(2)).flatten(1).shape)
        if layer.startswith("InstanceNorm"):
            config["affine"] = True  # without parameters PyTorch only warns about a wrong channel count
        return list(getattr(nn, layer)(**config)(x).shape)
    except (RuntimeError, ValueError, IndexError, ZeroDivisionError, TypeError):
        return None


def on_meta(layer, config, shape):
    try:
        with torch.device("meta"):
            return expected(layer, config, shape)
    except Exception:  # only counted: it says how far the meta device may be trusted
        return None


if __name__ == "__main__":
    start(606)
    torch.backends.mkldnn.enabled = False  # PyTorch's own checks, not whether oneDNN finds a primitive
    names, weights = list(KINDS), [w for _, w in KINDS.values()]
    fields, rows, differ, valid = {}, {k: [] for k in names}, {}, 0
    with torch.no_grad():
        while sum(map(len, rows.values())) < TOTAL:
            layer = R.choices(names, weights)[0]
            config, shape = KINDS[layer][0]()
            if R.random() < 0.25:
                shape = spoil(shape)
            out = expected(layer, config, shape)
            if out is not None and 0 in out:
                continue  # PyTorch allows tensors without elements here; a library may refuse them
            valid += out is not None
            if on_meta(layer, config, shape) != out:
                differ[layer] = differ.get(layer, 0) + 1
            fields[layer] = list(config)
            rows[layer].append([list(config.values()), shape, out])
    layers = ",\n".join(
        f'"{k}":{{"fields":{json.dumps(fields[k])},"cases":[\n' + ",\n".join(json.dumps(r, separators=(",", ":")) for r in rows[k]) + "\n]}" for k in names)
    (HERE / "shapes.json").write_text(f'{{"torch":"{torch.__version__.split("+")[0]}","layers":{{\n{layers}\n}}}}\n')
    print(f"{TOTAL} pairs, {valid} valid; meta device differs:", differ, (HERE / "shapes.json").stat().st_size // 1000, "kB")
    print({k: (len(v), sum(r[2] is not None for r in v)) for k, v in rows.items()})
