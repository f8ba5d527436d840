"""Optimizers alone: 100 steps on stored gradients, so that only the update rule is compared. No model, no loss.

Lion, LAMB and schedule-free AdamW are not in PyTorch: `papers.py` says them as their papers do.

The gradients have what trips an optimizer: entries that are always zero, one step of zeros, and sizes from 1e-6 to 1e2.
"""
import itertools

import torch

import papers
from common import HERE, save_tensors, start, write_json

SHAPES = [(3, 4), (5,), (1,)]
MORE_SHAPES = [(4, 3), (3, 4), (2, 3, 2)]  # for rules that look at the shape
USED = {"Muon": [0, 1, 2, 3, 4], "Adafactor": [0, 1, 2, 3, 5]}  # others: SHAPES
STEPS, KEEP = 100, (1, 2, 10, 100)


def sgd():
    for momentum, dampening, nesterov, decay in itertools.product((0.0, 0.9), (0.0, 0.1), (False, True), (0.0, 0.01)):
        if (nesterov and (momentum == 0 or dampening != 0)) or (momentum == 0 and dampening != 0):
            continue  # PyTorch refuses the first, and dampening without momentum does nothing
        yield dict(lr=0.05, momentum=momentum, dampening=dampening, nesterov=nesterov, weight_decay=decay, maximize=False)
    yield dict(lr=0.05, momentum=0.9, dampening=0.0, nesterov=True, weight_decay=0.01, maximize=True)
    yield dict(lr=0.5, momentum=0.5, dampening=0.5, nesterov=False, weight_decay=0.1, maximize=False)


def adam(decays):
    for betas, eps, decay, amsgrad in itertools.product(((0.9, 0.999), (0.8, 0.95)), (1e-8, 1e-3), decays, (False, True)):
        yield dict(lr=0.01, betas=list(betas), eps=eps, weight_decay=decay, amsgrad=amsgrad, maximize=False)
    yield dict(lr=0.01, betas=[0.9, 0.999], eps=1e-8, weight_decay=decays[-1], amsgrad=False, maximize=True)
    yield dict(lr=0.01, betas=[0.0, 0.9], eps=1e-8, weight_decay=0.0, amsgrad=False, maximize=False)

def grid(**axes):
    """Every combination of values, as dicts."""
    for values in itertools.product(*axes.values()):
        yield dict(zip(axes, values))


def rmsprop():
    yield from grid(lr=[0.01], alpha=[0.99, 0.9], eps=[1e-8], weight_decay=[0.0, 0.01], momentum=[0.0, 0.9], centered=[False, True],
                    maximize=[False])
    yield dict(lr=0.01, alpha=0.95, eps=1e-3, weight_decay=0.1, momentum=0.5, centered=True, maximize=True)


def adagrad():
    yield from grid(lr=[0.05], lr_decay=[0.0, 0.01], weight_decay=[0.0, 0.01], initial_accumulator_value=[0.0, 0.1], eps=[1e-10],
                    maximize=[False])
    yield dict(lr=0.05, lr_decay=0.1, weight_decay=0.1, initial_accumulator_value=1.0, eps=1e-3, maximize=True)


def adadelta():
    yield from grid(lr=[1.0, 0.1], rho=[0.9, 0.99], eps=[1e-6, 1e-3], weight_decay=[0.0, 0.01], maximize=[False])
    yield dict(lr=1.0, rho=0.9, eps=1e-6, weight_decay=0.1, maximize=True)


def nadam():
    yield from grid(lr=[0.01], betas=[[0.9, 0.999], [0.8, 0.95]], eps=[1e-8], weight_decay=[0.0, 0.05], momentum_decay=[4e-3, 0.1],
                    decoupled_weight_decay=[False, True], maximize=[False])
    yield dict(lr=0.01, betas=[0.9, 0.999], eps=1e-3, weight_decay=0.01, momentum_decay=0.0, decoupled_weight_decay=True, maximize=True)


def radam():
    yield from grid(lr=[0.01], betas=[[0.9, 0.999], [0.8, 0.95]], eps=[1e-8, 1e-3], weight_decay=[0.0, 0.05],
                    decoupled_weight_decay=[False, True], maximize=[False])
    yield dict(lr=0.01, betas=[0.9, 0.9], eps=1e-8, weight_decay=0.01, decoupled_weight_decay=True, maximize=True)


def adamax():
    yield from grid(lr=[0.01], betas=[[0.9, 0.999], [0.8, 0.95]], eps=[1e-8, 1e-3], weight_decay=[0.0, 0.05], maximize=[False])
    yield dict(lr=0.01, betas=[0.9, 0.999], eps=1e-8, weight_decay=0.01, maximize=True)


def adafactor():
    eps1 = torch.finfo(torch.float32).eps
    yield from grid(lr=[0.01, 0.5], beta2_decay=[-0.8, -0.5], eps=[[eps1, 1e-3], [1e-3, 0.1]], d=[1.0, 2.0], weight_decay=[0.0, 0.05],
                    maximize=[False])
    yield dict(lr=0.05, beta2_decay=-0.8, eps=[eps1, 1e-3], d=1.0, weight_decay=0.01, maximize=True)


def muon():
    adamw = dict(adamw_betas=[0.9, 0.999], adamw_eps=1e-8, adamw_lr_scale=1.0)
    usual = dict(ns_coefficients=[3.4445, -4.775, 2.0315], eps=1e-7, **adamw)
    for o in grid(lr=[0.02], weight_decay=[0.0, 0.1], momentum=[0.95, 0.5], nesterov=[False, True],
                  adjust_lr_fn=["original", "match_rms_adamw", "spectral_unclamped"], ns_steps=[5]):
        yield dict(usual, **o)
    yield dict(usual, lr=0.01, weight_decay=0.1, momentum=0.9, nesterov=True, adjust_lr_fn="original", ns_steps=2,
               ns_coefficients=[1.875, -1.25, 0.375], adamw_lr_scale=0.1, adamw_betas=[0.8, 0.95])


def lion():
    yield from grid(lr=[0.01], betas=[[0.9, 0.99], [0.5, 0.8]], weight_decay=[0.0, 0.1])


def lamb():
    yield from grid(lr=[0.01], betas=[[0.9, 0.999], [0.8, 0.95]], eps=[1e-6, 1e-3], weight_decay=[0.0, 0.1])


def schedule_free():
    yield from grid(lr=[0.01], betas=[[0.9, 0.999], [0.8, 0.95]], eps=[1e-8, 1e-3], weight_decay=[0.0, 0.1])


def problem():
    start(202)
    params, grads = [], []
    for shape in SHAPES:
        params.append(torch.randn(shape))
        g = torch.randn(STEPS, *shape) * 10.0 ** torch.empty(STEPS, *shape).uniform_(-2, 1)
        g[40] = 0.0
        grads.append(g)
    grads[0][:, 0, 1] = 0.0  # a weight that never gets a gradient
    grads[0][:, 2, 3] *= 1e-6
    grads[1][:, 4] *= 1e2
    for shape in MORE_SHAPES:
        params.append(torch.randn(shape))
        grads.append(torch.randn(STEPS, *shape) * 10.0 ** torch.empty(STEPS, *shape).uniform_(-2, 1))
    return params, grads


def rules(kind, ps, options):
    """The optimizers that together update `ps`."""
    if kind == "Muon":
        o = dict(options)
        adamw = dict(lr=o["lr"] * o.pop("adamw_lr_scale"), betas=o.pop("adamw_betas"), eps=o.pop("adamw_eps"))
        rest = torch.optim.AdamW([p for p in ps if p.ndim != 2], foreach=False, weight_decay=o["weight_decay"], **adamw)
        return [torch.optim.Muon([p for p in ps if p.ndim == 2], **o), rest]
    if hasattr(papers, kind):
        return [getattr(papers, kind)(ps, **options)]
    if kind == "LBFGS":
        return [torch.optim.LBFGS(ps, **options)]
    return [getattr(torch.optim, kind)(ps, foreach=False, **options)]


def trajectory(kind, options, params, grads, dtype):
    ps = [p.to(dtype).clone().requires_grad_(True) for p in params]
    opts = rules(kind, ps, options)
    kept = []
    for t in range(STEPS):
        for p, g in zip(ps, grads):
            p.grad = g[t].to(dtype).clone()
        for opt in opts:
            opt.step()
        if t + 1 in KEEP:
            kept.append([p.detach().clone() for p in ps])
    return [torch.stack(k) for k in zip(*kept)]


KINDS = [("SGD", sgd()), ("Adam", adam((0.0, 0.01))), ("AdamW", adam((0.0, 0.01, 0.1))), ("RMSprop", rmsprop()), ("Adagrad", adagrad()),
         ("Adadelta", adadelta()), ("NAdam", nadam()), ("RAdam", radam()), ("Adamax", adamax()), ("Adafactor", adafactor()),
         ("Muon", muon()), ("Lion", lion()), ("Lamb", lamb()), ("ScheduleFreeAdamW", schedule_free())]


if __name__ == "__main__":
    params, grads = problem()
    cases = []
    common = {f"p{i}": p for i, p in enumerate(params)} | {f"g{i}": g for i, g in enumerate(grads)}
    save_tensors("optim_problem", common)
    for kind, options in KINDS:
        out = {}
        used = USED.get(kind, [0, 1, 2])
        ps, gs = [params[i] for i in used], [grads[i] for i in used]
        for n, o in enumerate(options):
            case = f"{kind.lower()}_{n:02}"
            kept = trajectory(kind, o, ps, gs, torch.float32)
            exact = trajectory(kind, o, ps, gs, torch.float64)
            worst = max(((a - b).abs().max() / b.abs().max()).item() for a, b in zip(kept, exact))
            assert worst < 1e-5, (case, o, worst)
            out |= {f"{case}.p{i}": k for i, k in zip(used, kept)}
            cases.append({"id": case, "optimizer": kind, "options": o, "file": f"optim_{kind.lower()}.safetensors",
                          "params": [f"{case}.p{i}" for i in used]})
        save_tensors(f"optim_{kind.lower()}", out)
        print(kind, len(out) // len(used), "cases")
    write_json("optim", {"steps": STEPS, "kept_steps": list(KEEP), "problem": "optim_problem.safetensors"}, cases)
    print(sum(f.stat().st_size for f in HERE.glob("optim*")) // 1000, "kB")
