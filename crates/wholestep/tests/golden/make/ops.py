"""Single operations: outputs, and input gradients for random upstream gradients where the operation has them."""
import itertools

import torch
import torch.nn.functional as F

from common import Group, probe, start

G = Group("ops")
SHARED = {}


def add(op, args, inputs, fn, d_inputs=True, note=None):
    """An input is a tensor, or a (key, tensor) pair where several cases use the same tensor."""
    case = G.new_id(op)
    keys, tensors = [], []
    for i, x in enumerate(inputs):
        if isinstance(x, tuple):
            key, x = x
            if key not in SHARED:
                SHARED[key] = G.put(key, x)
        else:
            key = G.put(f"{case}.x{i}", x)
        keys.append(key)
        tensors.append(x)
    if d_inputs:
        outs, d_outs, grads = probe(fn, tensors)
        assert any(g is not None for g in grads), case
    else:
        with torch.no_grad():
            out = fn(*tensors)
        outs, d_outs, grads = (list(out) if isinstance(out, (tuple, list)) else [out]), [], [None] * len(tensors)
    live = iter(d_outs)
    record = dict(id=case, op=op, args=args, inputs=keys, outputs=[G.put(f"{case}.y{i}", o.detach()) for i, o in enumerate(outs)],
                  d_outputs=[G.put(f"{case}.d_y{i}", next(live)) if d_inputs and o.requires_grad else None for i, o in enumerate(outs)],
                  d_inputs=[None if g is None else G.put(f"{case}.d_x{i}", g) for i, g in enumerate(grads)])
    if note:
        record["note"] = note
    G.case(**record)


def unary():
    anything = ("unary.any", torch.cat([torch.randn(11) * 2, torch.tensor([0.0, 1.0, -1.0])]))
    positive = ("unary.positive", torch.cat([torch.rand(11) * 4 + 0.05, torch.tensor([1.0, 1e-6, 1e6])]))
    inside = ("unary.inside", torch.rand(12) * 1.9 - 0.95)
    halves = ("unary.halves", torch.tensor([-3.5, -2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 3.5, 0.4999999, -0.0, 7.0, 1e9]))
    for op in ("neg", "exp", "expm1", "sin", "cos", "tan", "tanh", "sigmoid", "relu", "square", "erf", "abs", "sign", "atan", "sinh", "cosh"):
        add(op, {}, [anything], getattr(torch, op))
    for op in ("log", "log2", "log10", "log1p", "sqrt", "rsqrt", "reciprocal"):
        add(op, {}, [positive], getattr(torch, op))
    add("log1p", {}, [("unary.tiny", torch.tensor([1e-8, -1e-8, 1e-4, -0.5, 0.0, -0.999]))], torch.log1p)
    add("expm1", {}, [("unary.small", torch.tensor([1e-8, -1e-8, 1e-4, -20.0, 0.0, 5.0]))], torch.expm1)
    for op in ("asin", "acos", "atanh"):
        add(op, {}, [inside], getattr(torch, op))
    for op in ("floor", "ceil", "round", "trunc"):
        add(op, {}, [halves], getattr(torch, op), note="round: half to even" if op == "round" else None)
    extreme = ("unary.extreme", torch.tensor([88.0, -88.0, 100.0, -104.0, 1e-38, 0.0, float("inf"), -float("inf")]))
    for op in ("exp", "tanh", "sigmoid", "erf"):
        add(op, {}, [extreme], getattr(torch, op), d_inputs=False, note="values only: overflow, underflow, infinities")
    for lo, hi in ((-1.0, 1.0), (None, 0.5), (-0.5, None)):
        add("clamp", {"min": lo, "max": hi}, [anything], lambda x, lo=lo, hi=hi: x.clamp(lo, hi), note="the gradient is 1 on the bounds")
    for e in (2.0, 3.0, 0.5, -1.0, 0.0, 1.0):
        base = positive if e == 0.5 or e < 0 else anything
        add("pow_scalar", {"exponent": e}, [base], lambda x, e=e: x ** e)


BROADCASTS = [((3, 4), (3, 4)), ((2, 3, 4), (4,)), ((2, 1, 4), (3, 1)), ((5,), ()), ((1,), (2, 3)), ((2, 3, 1), (2, 1, 4))]


def binary():
    operations = {"add": torch.add, "sub": torch.sub, "mul": torch.mul, "div": torch.div, "maximum": torch.maximum, "minimum": torch.minimum,
                  "atan2": torch.atan2}
    for (op, fn), (a, b) in itertools.product(operations.items(), BROADCASTS):
        y = torch.randn(b)
        add(op, {}, [torch.randn(a), y.sign() * (y.abs() + 0.3) if op == "div" else y], fn)
    for a, b in BROADCASTS:
        add("pow", {}, [torch.rand(a) * 3 + 0.1, torch.randn(b)], torch.pow)
    add("pow", {}, [torch.tensor([-2.0, -2.0, 0.0, 0.0, 1.0, -1.5]), torch.tensor([2.0, 3.0, 0.0, 2.0, 5.0, -1.0])], torch.pow, d_inputs=False,
        note="values only: negative and zero bases")
    for op in ("maximum", "minimum"):
        add(op, {}, [torch.tensor([1.0, 2.0, -1.0, 0.0]), torch.tensor([1.0, 1.0, -1.0, -0.0])], operations[op],
            note="ties: each side gets half of the gradient")
    for op in ("remainder", "fmod"):
        add(op, {}, [torch.randn(3, 4) * 5, torch.tensor([2.0, -2.0, 0.7, -0.7])], getattr(torch, op), d_inputs=False)
    x, y = torch.randint(-2, 3, (3, 4)).float(), torch.randint(-2, 3, (4,)).float()
    for op in ("eq", "ne", "lt", "le", "gt", "ge"):
        add(op, {}, [("compare.x", x), ("compare.y", y)], getattr(torch, op), d_inputs=False)
    for op in ("logical_and", "logical_or", "logical_xor"):
        add(op, {}, [("compare.x", x), ("compare.y", y)], getattr(torch, op), d_inputs=False)
    add("logical_not", {}, [("compare.x", x)], torch.logical_not, d_inputs=False)
    for c, a, b in (((3, 4), (3, 4), (3, 4)), ((3, 1), (4,), (2, 3, 4)), ((4,), (), (3, 4))):
        add("where", {}, [torch.randint(0, 2, c), torch.randn(a), torch.randn(b)], lambda c, a, b: torch.where(c != 0, a, b))


def reductions():
    x = ("reduce.x", torch.randn(3, 4, 5))
    sets = [[0], [1], [2], [0, 1], [0, 2], [1, 2], [0, 1, 2]]
    for axes, keep in itertools.product(sets, (False, True)):
        where = {"axes": axes, "keepdim": keep}
        for op in ("sum", "mean", "amax", "amin", "logsumexp"):
            add(op, where, [x], lambda t, op=op, axes=axes, keep=keep: getattr(torch, op)(t, axes, keep))
        for correction in (0, 1):
            for op in ("var", "std"):
                add(op, {**where, "correction": correction}, [x],
                    lambda t, op=op, axes=axes, keep=keep, c=correction: getattr(torch, op)(t, axes, correction=c, keepdim=keep))
    for axis, keep in itertools.product(range(3), (False, True)):
        where = {"axes": [axis], "keepdim": keep}
        add("prod", where, [x], lambda t, axis=axis, keep=keep: t.prod(axis, keep))
        for op in ("argmax", "argmin"):
            add(op, where, [x], lambda t, op=op, axis=axis, keep=keep: getattr(t, op)(axis, keep), d_inputs=False)
    zeros = torch.randn(3, 4)
    zeros[0, 1] = zeros[1, 0] = zeros[1, 3] = 0.0
    add("prod", {"axes": [1], "keepdim": False}, [zeros], lambda t: t.prod(1), note="one zero, two zeros, none in a row")
    ties = torch.tensor([[1.0, 3.0, 3.0], [2.0, 2.0, 2.0], [0.0, -1.0, 0.0]])
    for op in ("amax", "amin"):
        add(op, {"axes": [1], "keepdim": False}, [("reduce.ties", ties)], lambda t, op=op: getattr(t, op)(1), note="ties share the gradient evenly")
    for op in ("argmax", "argmin"):
        add(op, {"axes": [1], "keepdim": False}, [("reduce.ties", ties)], lambda t, op=op: getattr(t, op)(1), d_inputs=False,
            note="ties: the first index")
    large = torch.tensor([[1000.0, 1000.5, -1000.0], [-1e4, -1e4, -1e4]])
    add("logsumexp", {"axes": [1], "keepdim": False}, [large], lambda t: t.logsumexp(1))
    for axis in range(3):
        add("cumsum", {"axis": axis}, [x], lambda t, axis=axis: t.cumsum(axis))
        add("cumprod", {"axis": axis}, [x], lambda t, axis=axis: t.cumprod(axis))
        add("softmax", {"axis": axis}, [x], lambda t, axis=axis: t.softmax(axis))
        add("log_softmax", {"axis": axis}, [x], lambda t, axis=axis: t.log_softmax(axis))


def ordering():
    x = ("order.x", torch.randn(4, 6))
    ties = ("order.ties", torch.randint(-2, 3, (4, 9)).float())
    for t, axis, down in itertools.product((x, ties), (0, 1), (False, True)):
        args = {"axis": axis, "descending": down, "stable": True}
        add("sort", args, [t], lambda v, axis=axis, down=down: torch.sort(v, dim=axis, descending=down, stable=True))
        add("argsort", args, [t], lambda v, axis=axis, down=down: torch.argsort(v, dim=axis, descending=down, stable=True), d_inputs=False)
    for k, axis, largest in ((1, 1, True), (3, 1, True), (3, 1, False), (2, 0, True), (4, 0, False), (6, 1, True)):
        add("topk", {"k": k, "axis": axis, "largest": largest, "sorted": True}, [x],
            lambda v, k=k, axis=axis, largest=largest: torch.topk(v, k, axis, largest, sorted=True))


def indexing():
    x = ("index.x", torch.randn(3, 4, 5))
    for axis, shape in ((0, (2, 4, 5)), (1, (3, 7, 5)), (2, (3, 4, 1)), (1, (2, 3, 2))):
        index = torch.randint(0, (3, 4, 5)[axis], shape)
        add("gather", {"axis": axis}, [x, index], lambda t, i, axis=axis: t.gather(axis, i))
        add("scatter_add", {"axis": axis}, [x, index, torch.randn(shape)], lambda t, i, s, axis=axis: t.scatter_add(axis, i, s))
    for axis, index in ((0, [2, 0, 2, 2]), (1, [3, 3]), (2, [0]), (2, [4, 3, 2, 1, 0])):
        add("index_select", {"axis": axis}, [x, torch.tensor(index)], lambda t, i, axis=axis: t.index_select(axis, i))
    for start_stop_step in ([[0, 3, 1], [1, 3, 1], [0, 5, 1]], [[0, 3, 2], [0, 4, 3], [1, 5, 2]], [[2, 3, 1], [0, 4, 1], [4, 5, 1]],
                            [[0, 3, 1], [3, 4, 5], [0, 5, 4]]):
        cut = tuple(slice(*s) for s in start_stop_step)
        add("slice", {"start_stop_step": start_stop_step}, [x], lambda t, cut=cut: t[cut])
    for axes in ([0], [1, 2], [0, 1, 2]):
        add("flip", {"axes": axes}, [x], lambda t, axes=axes: t.flip(axes))
    for shifts, axes in (([1], [0]), ([-2], [2]), ([3, -1], [1, 2]), ([7], [1])):
        add("roll", {"shifts": shifts, "axes": axes}, [x], lambda t, s=shifts, a=axes: t.roll(s, a))
    for pads, value in (([[1, 0], [0, 0], [2, 3]], 0.0), ([[0, 0], [1, 1], [0, 0]], -1.5), ([[2, 1], [0, 3], [1, 0]], 7.0)):
        flat = [v for pair in reversed(pads) for v in pair]
        add("pad", {"before_after": pads, "value": value}, [x], lambda t, flat=flat, v=value: F.pad(t, flat, value=v))


def movement():
    x = ("index.x", SHARED and G.tensors["index.x"])
    for axis in range(3):
        sizes = [(3, 4, 5), (3, 4, 5), (3, 4, 5)]
        sizes = [s[:axis] + (n,) + s[axis + 1:] for s, n in zip(sizes, (2, 1, 3))]
        add("concat", {"axis": axis}, [torch.randn(s) for s in sizes], lambda *t, axis=axis: torch.cat(t, axis))
        add("stack", {"axis": axis}, [torch.randn(2, 3) for _ in range(3)], lambda *t, axis=axis: torch.stack(t, axis))
    for sizes, axis in (([1, 3], 1), ([2, 2, 1], 2), ([3], 0)):
        add("split", {"sizes": sizes, "axis": axis}, [x], lambda t, s=sizes, axis=axis: torch.split(t, s, axis))
    for axes in ([2, 0, 1], [1, 0, 2], [2, 1, 0]):
        add("permute", {"axes": axes}, [x], lambda t, axes=axes: t.permute(axes))
    for shape in ([12, 5], [60], [5, 3, 4, 1]):
        add("reshape", {"shape": shape}, [x], lambda t, s=shape: t.reshape(s))
    for shape, out in (((3, 1), [3, 4]), ((4,), [2, 3, 4]), ((1, 1, 2), [3, 2, 2]), ((), [2, 2])):
        add("broadcast_to", {"shape": out}, [torch.randn(shape)], lambda t, s=out: t.broadcast_to(s))


def contractions():
    pairs = [((4,), (4,)), ((4,), (4, 3)), ((2, 4), (4,)), ((2, 4), (4, 3)), ((4,), (2, 4, 3)), ((2, 3, 4), (4,)), ((2, 3, 4), (4, 5)),
             ((3, 4), (2, 4, 5)), ((2, 3, 4), (2, 4, 5)), ((1, 3, 4), (2, 4, 5)), ((2, 3, 4), (1, 4, 5)), ((2, 2, 3, 4), (4, 5)),
             ((2, 2, 3, 4), (2, 4, 5)), ((2, 1, 3, 4), (1, 3, 4, 2)), ((2, 2, 3, 4), (2, 2, 4, 1)), ((2, 2, 3, 4), (4,)), ((4,), (2, 2, 4, 3)),
             ((1, 1), (1, 1)), ((17, 33), (33, 9))]
    for a, b in pairs:
        add("matmul", {}, [torch.randn(a), torch.randn(b)], torch.matmul)
    for equation, *shapes in (("ij,jk->ik", (2, 3), (3, 4)), ("bij,bjk->bik", (2, 3, 4), (2, 4, 5)), ("ij->ji", (2, 3)), ("ijk->ik", (2, 3, 4)),
                              ("i,j->ij", (3,), (4,)), ("bhqd,bhkd->bhqk", (2, 2, 3, 4), (2, 2, 5, 4)), ("ijk,ilk->jl", (2, 3, 4), (2, 5, 4)),
                              ("bij,bij->b", (2, 3, 4), (2, 3, 4)), ("ij,jk,kl->il", (2, 3), (3, 4), (4, 2)), ("ii->", (4, 4)), ("ii->i", (4, 4)),
                              ("bi,oij,bj->bo", (2, 3), (4, 3, 5), (2, 5))):
        add("einsum", {"equation": equation}, [torch.randn(s) for s in shapes], lambda *t, e=equation: torch.einsum(e, *t))


def casts():
    x = torch.tensor([0.0, -0.0, 0.5, -0.5, 1.99, -1.99, 3.0, 255.0, 1e6, -7.7])
    add("cast", {"to": "i64"}, [("cast.x", x)], lambda t: t.to(torch.int64), d_inputs=False, note="towards zero")
    add("cast", {"to": "i32"}, [("cast.x", x)], lambda t: t.to(torch.int32), d_inputs=False, note="towards zero; stored as i64")
    add("cast", {"to": "bool"}, [("cast.x", x)], lambda t: t.to(torch.bool), d_inputs=False, note="stored as i64 0/1")
    add("cast", {"to": "f32"}, [torch.tensor([0, 1, -5, 16777217, -(2 ** 40) - 1, 2 ** 62])], lambda t: t.to(torch.float32), d_inputs=False)
    fine = torch.cat([torch.randn(20), torch.tensor([1.0009765625, 1.00048828125, 1.001464843750, 65504.0, 65519.0, 65520.0, 1e-7, 6e-8, 2.98e-8, 1e-40,
                                                     3.3e38, 1.00390625, 1.01171875, float("inf"), -0.0])])
    for to, dtype in (("f16", torch.float16), ("bf16", torch.bfloat16)):
        add("cast", {"to": to}, [("cast.fine", fine)], lambda t, dtype=dtype: t.to(dtype).to(torch.float32), d_inputs=False,
            note="to nearest even, overflow to infinity; the output is cast back to f32")


def later():
    """Last, so that the random numbers of what stands above stay what they were."""
    wide = torch.cat([torch.randn(9) * 3, torch.tensor([0.0, 1e-6, -1e-6, 1e6, -1e6])])
    add("asinh", {}, [wide], torch.asinh)
    add("acosh", {}, [1 + torch.cat([torch.rand(9) * 4, torch.tensor([1e-5, 1e6])])], torch.acosh)
    add("asin", {}, [torch.tensor([1.0, -1.0, 2.0])], torch.asin, d_inputs=False, note="ends and outside")
    add("acos", {}, [torch.tensor([1.0, -1.0, -2.0])], torch.acos, d_inputs=False, note="ends and outside")
    for a, b in BROADCASTS:
        add("hypot", {}, [torch.randn(a), torch.randn(b)], torch.hypot)
        add("logaddexp", {}, [torch.randn(a) * 4, torch.randn(b) * 4], torch.logaddexp)
    inf = float("inf")
    add("logaddexp", {}, [torch.tensor([800.0, -inf, inf, -inf]), torch.tensor([801.0, 2.0, 1.0, -inf])], torch.logaddexp, d_inputs=False)
    add("lerp", {}, [torch.randn(3, 4), torch.randn(4), torch.rand(3, 1)], torch.lerp)
    odd = torch.tensor([1.5, float("nan"), inf, -inf, -2.0, 0.0])
    add("nan_to_num", {"nan": 0.5, "posinf": 7.0, "neginf": -7.0}, [odd], lambda t: t.nan_to_num(0.5, 7.0, -7.0))
    add("isnan", {}, [odd], torch.isnan, d_inputs=False)
    add("isfinite", {}, [odd], torch.isfinite, d_inputs=False)
    x = ("later.x", torch.randn(3, 4, 5))
    for a, b in ((0, 2), (2, 0), (1, -1), (-1, 1)):
        add("movedim", {"from_to": [a, b]}, [x], lambda t, a=a, b=b: t.movedim(a, b))
    for a, b in ((0, 1), (1, 0), (0, 2), (2, 1), (-1, -3)):
        add("diagonal", {"axes": [a, b]}, [x], lambda t, a=a, b=b: t.diagonal(0, a, b))
    add("trace", {}, [torch.randn(3, 5)], torch.trace)
    for shape in ((4,), (2, 3)):
        add("diag_embed", {}, [torch.randn(shape)], torch.diag_embed)
    for axis, size, step in ((0, 2, 1), (1, 3, 1), (2, 2, 3), (2, 5, 1), (-2, 1, 2)):
        add("unfold", {"axis": axis, "size_step": [size, step]}, [x], lambda t, axis=axis, size=size, step=step: t.unfold(axis, size, step))
    for mode in ("reflect", "replicate", "circular"):
        for pads in ([[1, 2]], [[0, 3]], [[3, 1], [4, 0]], [[0, 0], [2, 2]]):
            flat = [v for pair in reversed(pads) for v in pair]
            shape = x[1].unsqueeze(0)  # PyTorch pads the last axis of 3, the last two of 4
            add("pad_with", {"before_after": pads, "mode": mode}, [shape if len(pads) == 2 else x[1]],
                lambda t, flat=flat, mode=mode: F.pad(t, flat, mode=mode))


if __name__ == "__main__":
    start(505)
    unary()
    binary()
    reductions()
    ordering()
    indexing()
    movement()
    contractions()
    casts()
    later()
    G.save()
