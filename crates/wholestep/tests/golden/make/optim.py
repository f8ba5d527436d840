"""Optimizers alone: 100 steps on stored gradients, so that only the update rule is compared. No model, no loss.

The gradients have what trips an optimizer: entries that are always zero, one step of zeros, and sizes from 1e-6 to 1e2.
"""
import itertools

import torch

from common import HERE, save_tensors, start, write_json

SHAPES = [(3, 4), (5,), (1,)]
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
    return params, grads


def trajectory(kind, options, params, grads, dtype):
    ps = [p.to(dtype).clone().requires_grad_(True) for p in params]
    opt = getattr(torch.optim, kind)(ps, foreach=False, **options)
    kept = []
    for t in range(STEPS):
        for p, g in zip(ps, grads):
            p.grad = g[t].to(dtype).clone()
        opt.step()
        if t + 1 in KEEP:
            kept.append([p.detach().clone() for p in ps])
    return [torch.stack(k) for k in zip(*kept)]


if __name__ == "__main__":
    params, grads = problem()
    cases = []
    common = {f"p{i}": p for i, p in enumerate(params)} | {f"g{i}": g for i, g in enumerate(grads)}
    save_tensors("optim_problem", common)
    for kind, options in (("SGD", sgd()), ("Adam", adam((0.0, 0.01))), ("AdamW", adam((0.0, 0.01, 0.1)))):
        out = {}
        for n, o in enumerate(options):
            case = f"{kind.lower()}_{n:02}"
            kept = trajectory(kind, o, params, grads, torch.float32)
            exact = trajectory(kind, o, params, grads, torch.float64)
            worst = max(((a - b).abs().max() / b.abs().max()).item() for a, b in zip(kept, exact))
            assert worst < 1e-5, (case, worst)
            out |= {f"{case}.p{i}": k for i, k in enumerate(kept)}
            cases.append({"id": case, "optimizer": kind, "options": o, "file": f"optim_{kind.lower()}.safetensors",
                          "params": [f"{case}.p{i}" for i in range(len(params))]})
        save_tensors(f"optim_{kind.lower()}", out)
        print(kind, len(out) // len(params), "cases")
    write_json("optim", {"steps": STEPS, "kept_steps": list(KEEP), "problem": "optim_problem.safetensors"}, cases)
    print(sum(f.stat().st_size for f in HERE.glob("optim*")) // 1000, "kB")
