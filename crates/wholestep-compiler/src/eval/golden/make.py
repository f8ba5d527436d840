"""Writes oracle.txt: primitive ops and their gradients as PyTorch computes them in f64.

    python3 -m venv venv && venv/bin/pip install torch numpy && venv/bin/python make.py > oracle.txt

One tensor a line: `case/name dims : values`. Layouts are Wholestep's: channels last, convolution weights [k.., c_in/groups, c_out].
"""

import torch
import torch.nn.functional as F

torch.set_default_dtype(torch.float64)
torch.set_num_threads(1)
gen = torch.Generator().manual_seed(7)


def put(key, t):
    t = t.detach()
    values = " ".join(repr(v) for v in t.reshape(-1).tolist())
    print(f"{key} {','.join(map(str, t.shape))} : {values}")


def rand(*shape):
    # Few digits keep the file small and the numbers exact.
    return (torch.randint(-64, 65, shape, generator=gen) / 32.0).double()


def case(name, f, xs, argument_grads=True):
    """Stores inputs x0.., the result y, an upstream gradient v and the gradients d_x0.. (nothing where PyTorch gives none)."""
    xs = [x.clone().requires_grad_(x.is_floating_point() and argument_grads) for x in xs]
    y = f(*xs)
    for i, x in enumerate(xs):
        put(f"{name}/x{i}", x)
    put(f"{name}/y", y)
    if not argument_grads or not y.requires_grad:
        return
    v = rand(*y.shape)
    put(f"{name}/v", v)
    grads = torch.autograd.grad(y, [x for x in xs if x.requires_grad], v, allow_unused=True)
    for i, g in zip([i for i, x in enumerate(xs) if x.requires_grad], grads):
        if g is not None:
            put(f"{name}/d_x{i}", g)


def first(x):  # channels last -> first
    return x.movedim(-1, 1)


def last(x):
    return x.movedim(1, -1)


inf, nan = float("inf"), float("nan")
any_ = torch.tensor([-30.0, -3.5, -2.5, -1.0, -0.5, -1e-3, -1e-9, 0.0, 1e-9, 1e-3, 0.5, 1.0, 1.5, 2.5, 6.0, 30.0])
positive = torch.tensor([1e-9, 1e-3, 0.5, 1.0, 1.5, 2.5, 30.0, 1e9])
for name, f, x in [
    ("neg", torch.neg, any_), ("abs", torch.abs, any_), ("sign", torch.sign, any_), ("exp", torch.exp, any_),
    ("expm1", torch.expm1, any_), ("log", torch.log, positive), ("log1p", torch.log1p, positive),
    ("sqrt", torch.sqrt, positive), ("rsqrt", torch.rsqrt, positive), ("recip", torch.reciprocal, positive),
    ("sin", torch.sin, any_), ("cos", torch.cos, any_), ("tanh", torch.tanh, any_), ("sigmoid", torch.sigmoid, any_),
    ("erf", torch.erf, any_), ("floor", torch.floor, any_), ("ceil", torch.ceil, any_), ("round", torch.round, any_),
]:
    case(f"unary.{name}", f, [x])

a = torch.tensor([-3.0, -1.5, -1.0, 0.0, 0.0, 0.5, 1.0, 1.0, 2.5, 5.0, -5.0])
b = torch.tensor([2.0, 2.0, -1.0, 1.0, 2.0, 0.5, -0.5, 1.0, 2.5, -3.0, 3.0])
for name, f in [
    ("add", torch.add), ("sub", torch.sub), ("mul", torch.mul), ("div", torch.div), ("rem", torch.remainder),
    ("maximum", torch.maximum), ("minimum", torch.minimum),
]:
    case(f"binary.{name}", f, [a, b])
base = torch.tensor([0.0, 0.0, 0.0, 0.0, 0.5, 1.0, 2.0, 3.0])
exponent = torch.tensor([0.0, 1.0, 2.0, 3.5, -1.5, 0.0, 0.0, 2.0])
case("binary.pow", torch.pow, [base, exponent])
for name, f in [("eq", torch.eq), ("ne", torch.ne), ("lt", torch.lt), ("le", torch.le), ("gt", torch.gt), ("ge", torch.ge)]:
    case(f"compare.{name}", lambda p, q, f=f: f(p, q).double(), [torch.cat([a, torch.tensor([nan])]), torch.cat([b, torch.tensor([nan])])], False)
nans = torch.tensor([1.0, nan, nan, 2.0])
case("nan.maximum", torch.maximum, [nans, nans.flip(0)], False)
case("nan.minimum", torch.minimum, [nans, nans.flip(0)], False)
rows = torch.tensor([[1.0, 3.0, 3.0, 2.0], [nan, 1.0, nan, 0.0], [-1.0, -1.0, -2.0, -1.0]])
case("reduce.nan_max", lambda x: torch.amax(x, 1, keepdim=True), [rows], False)
case("reduce.nan_min", lambda x: torch.amin(x, 1, keepdim=True), [rows], False)
case("reduce.argmax", lambda x: torch.stack([torch.argmax(r) for r in x])[:, None].double(), [rows], False)
ties = torch.tensor([[1.0, 3.0, 3.0, 2.0], [0.5, 0.5, 0.5, 0.5], [-1.0, -2.0, -2.0, -1.0]])
case("reduce.max", lambda x: torch.amax(x, 1, keepdim=True), [ties])
case("reduce.min", lambda x: torch.amin(x, 1, keepdim=True), [ties])
case("reduce.sum", lambda x: torch.sum(x, (0, 2), keepdim=True), [rand(3, 2, 4)])
case("reduce.cumsum", lambda x: torch.cumsum(x, 1), [rand(2, 4, 3)])
case("reduce.cumsum_reverse", lambda x: x.flip(1).cumsum(1).flip(1), [rand(2, 4, 3)])
order = torch.tensor([[2.0, 1.0, nan, 1.0, 3.0, 2.0], [0.0, -1.0, 5.0, 5.0, -1.0, 0.0]])
case("index.argsort", lambda x: torch.sort(x, stable=True, dim=1)[1].double(), [order], False)
case("index.argsort_down", lambda x: torch.sort(x, stable=True, dim=1, descending=True)[1].double(), [order], False)
index = torch.tensor([[0, 4, 4], [2, 0, 1]])
case("index.take", lambda x, i: x[:, i], [rand(2, 5, 3), index])
case("index.gather", lambda x, i: torch.gather(x, 1, i), [rand(2, 5), index])
case("index.scatter_add", lambda x, i: torch.zeros(2, 5).scatter_add(1, i, x), [rand(2, 3), index])
case("move.pad", lambda x: F.pad(x, (1, 2, 0, 3), value=0.5), [rand(2, 3)])
case("move.slice", lambda x: x[1:5:3, 2:9:2], [rand(6, 10)])
case("move.permute", lambda x: x.permute(2, 0, 1), [rand(2, 3, 4)])
case("move.concat", lambda x, y: torch.cat([x, y], 1), [rand(2, 3, 2), rand(2, 1, 2)])
case("move.flip", lambda x: x.flip(0, 2), [rand(2, 3, 4)])
case("contract.matmul", torch.matmul, [rand(2, 3, 4), rand(2, 4, 5)])


def conv(dims, stride, padding, dilation, groups):
    f = [F.conv1d, F.conv2d, F.conv3d][dims - 1]
    to_torch = (dims + 1, dims, *range(dims))  # [k.., ci, co] -> [co, ci, k..]
    return lambda x, w: last(f(first(x), w.permute(to_torch), None, stride, padding, dilation, groups))


case("contract.conv1", conv(1, 2, 2, 2, 1), [rand(2, 9, 2), rand(3, 2, 2)])
case("contract.conv2", conv(2, (2, 1), (1, 0), (1, 2), 2), [rand(2, 5, 6, 4), rand(3, 2, 2, 6)])
case("contract.conv2_depthwise", conv(2, 1, 1, 1, 3), [rand(2, 4, 4, 3), rand(3, 3, 1, 6)])
case("contract.conv3", conv(3, (1, 2, 1), (0, 1, 1), 1, 1), [rand(1, 3, 3, 4, 2), rand(2, 2, 3, 2, 2)])
pooled = torch.randperm(2 * 6 * 7 * 2, generator=gen).reshape(2, 6, 7, 2) / 8.0
case("window.max", lambda x: last(F.max_pool2d(first(x), (3, 2), (2, 2), (1, 0), (1, 2), True)), [pooled])
tied = torch.randint(0, 2, (1, 4, 4, 1), generator=gen).double()
case("window.max_ties", lambda x: last(F.max_pool2d(first(x), 2, 1)), [tied])
case("window.sum", lambda x: last(F.avg_pool2d(first(x), (3, 2), (2, 2), (1, 0), True, True, 1)), [rand(2, 6, 7, 2)])

i32 = torch.int32
p = torch.tensor([7, -7, 7, -7, 2**31 - 1, -(2**31), 123456789, -5], dtype=i32)
q = torch.tensor([2, 2, -2, -2, 3, 7, -98765, 3], dtype=i32)
for name, f in [
    ("add", torch.add), ("sub", torch.sub), ("mul", torch.mul), ("rem", torch.remainder), ("and", torch.bitwise_and),
    ("or", torch.bitwise_or), ("xor", torch.bitwise_xor), ("div", lambda x, y: torch.div(x, y, rounding_mode="trunc")),
]:
    case(f"i32.{name}", f, [p, q], False)
count = torch.tensor([0, 1, 2, 3, 4, 5, 6, 31], dtype=i32)
case("i32.shl", torch.bitwise_left_shift, [p, count], False)
case("i32.shr", torch.bitwise_right_shift, [p, count], False)
case("cast.f64_i32", lambda x: x.to(i32), [torch.tensor([-2.7, -0.5, 0.0, 0.5, 2.7, 1e6])], False)
unit = torch.tensor([-1.0, -0.999, -0.5, -1e-3, -1e-9, 0.0, 1e-9, 0.25, 0.75, 0.999, 1.0])
for name, f, x in [
    ("asin", torch.asin, unit), ("acos", torch.acos, unit), ("atan", torch.atan, any_), ("asinh", torch.asinh, any_),
]:
    case(f"unary.{name}", f, [x])
case("binary.atan2", torch.atan2, [a, b])
case("cast.i32_u8", lambda x: x.to(torch.uint8), [torch.tensor([-1, -257, 0, 255, 256, 1000], dtype=i32)], False)
