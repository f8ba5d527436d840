"""Schedules: 50 updates of a matrix and a vector on stored gradients (`p0`, `p1` of optim_problem) by each optimizer under each schedule.

Every case has the schedule in our words (`schedule`) and is made by PyTorch's scheduler beside it; where PyTorch has none (inverse square
root, WSD), by `LambdaLR` with the paper's formula. Optimizers that PyTorch has not are those of `papers.py`, under PyTorch's schedulers all the same.
"""
import math

import torch
import torch.optim.lr_scheduler as lrs

import optim
from common import Group

STEPS, KEEP = 50, (1, 10, 30, 50)
STEPS_PER_EPOCH = 5
METRICS = [1.0, 0.9, 0.8999, 0.95, 0.91, 0.9, 0.7, 0.69999, 0.71, 0.7, 0.72, 0.70, 0.5, 0.6, 0.6, 0.49999, 0.6, 0.6, 0.6, 0.6, 0.6, 0.6, 0.6, 0.6, 0.6]


def inverse_sqrt(warmup):
    return lambda s: min((s + 1) / warmup, math.sqrt(warmup / (s + 1)))


def wsd(warmup, stable, decay, cosine):
    def factor(s):
        if s < warmup:
            return s / warmup
        x = min(max(s - warmup - stable, 0) / decay, 1)
        return (1 + math.cos(math.pi * x)) / 2 if cosine else 1 - x
    return factor


def plateau(opt, **options):
    return lrs.ReduceLROnPlateau(opt, **options)


def sequential(opt, *parts):
    """(scheduler, milestone) pairs, the last without one."""
    made = [make(opt) for make, _ in parts]
    return lrs.SequentialLR(opt, made, milestones=[m for _, m in parts[:-1]])


LINEAR = {"type": "linear", "steps": 20, "start_factor": 0.25, "end_factor": 1.0}
# name -> (ours, PyTorch's); "per_epoch" cases step once in STEPS_PER_EPOCH updates
CASES = {
    "constant": ({"type": "constant"}, lambda o: lrs.LambdaLR(o, lambda s: 1.0)),
    "step": ({"type": "step", "size": 7, "gamma": 0.5}, lambda o: lrs.StepLR(o, 7, 0.5)),
    "multi_step": ({"type": "multi_step", "milestones": [3, 20, 41], "gamma": 0.3}, lambda o: lrs.MultiStepLR(o, [3, 20, 41], 0.3)),
    "exponential": ({"type": "exponential", "gamma": 0.93}, lambda o: lrs.ExponentialLR(o, 0.93)),
    "cosine": ({"type": "cosine", "steps": 40, "min": 0.001}, lambda o: lrs.CosineAnnealingLR(o, 40, 0.001)),
    "restarts": ({"type": "cosine_warm_restarts", "first": 8, "min": 0.002}, lambda o: lrs.CosineAnnealingWarmRestarts(o, 8, 1, 0.002)),
    "restarts_growing": ({"type": "cosine_warm_restarts", "first": 6, "mult": 2}, lambda o: lrs.CosineAnnealingWarmRestarts(o, 6, 2)),
    "linear": (LINEAR, lambda o: lrs.LinearLR(o, 0.25, 1.0, 20)),
    "linear_down": ({"type": "linear", "steps": 45}, lambda o: lrs.LinearLR(o, 1.0, 0.0, 45)),
    "polynomial": ({"type": "polynomial", "steps": 40, "power": 1.5}, lambda o: lrs.PolynomialLR(o, 40, 1.5)),
    "warmup_cosine": ({"type": "warmup", "steps": 10, "start_factor": 0.1, "then": {"type": "cosine", "steps": 40}},
                      lambda o: sequential(o, (lambda o: lrs.LinearLR(o, 0.1, 1.0, 10), 10), (lambda o: lrs.CosineAnnealingLR(o, 40), None))),
    "one_cycle": ({"type": "one_cycle", "steps": 50}, lambda o: lrs.OneCycleLR(o, o.base, 50, cycle_momentum=False)),
    "one_cycle_momentum": ({"type": "one_cycle", "steps": 50, "momentum": [0.85, 0.95], "pct_start": 0.4, "anneal": "linear",
                            "div_factor": 10.0, "final_div_factor": 100.0},
                           lambda o: lrs.OneCycleLR(o, o.base, 50, pct_start=0.4, anneal_strategy="linear", div_factor=10.0, final_div_factor=100.0)),
    "one_cycle_three": ({"type": "one_cycle", "steps": 50, "three_phase": True, "momentum": [0.8, 0.9]},
                        lambda o: lrs.OneCycleLR(o, o.base, 50, three_phase=True, base_momentum=0.8, max_momentum=0.9)),
    "triangular": ({"type": "cyclic", "max": 0.2, "up": 6, "down": 10},
                   lambda o: lrs.CyclicLR(o, o.base, 0.2, 6, 10, "triangular", cycle_momentum=False)),
    "triangular2": ({"type": "cyclic", "max": 0.2, "up": 6, "down": 6, "mode": "triangular2", "momentum": [0.8, 0.9]},
                    lambda o: lrs.CyclicLR(o, o.base, 0.2, 6, 6, "triangular2")),
    "exp_range": ({"type": "cyclic", "max": 0.2, "up": 6, "down": 4, "mode": {"exp_range": 0.97}},
                  lambda o: lrs.CyclicLR(o, o.base, 0.2, 6, 4, "exp_range", gamma=0.97, cycle_momentum=False)),
    "inverse_sqrt": ({"type": "inverse_sqrt", "warmup": 12}, lambda o: lrs.LambdaLR(o, inverse_sqrt(12))),
    "wsd": ({"type": "wsd", "warmup": 10, "stable": 20, "decay": 15}, lambda o: lrs.LambdaLR(o, wsd(10, 20, 15, False))),
    "wsd_rest_cos": ({"type": "wsd", "warmup": 5, "decay": 20, "anneal": "cos"}, lambda o: lrs.LambdaLR(o, wsd(5, 25, 20, True))),
    "sequential": ({"type": "sequential", "parts": [{"steps": 8, "schedule": {"type": "constant"}}, {"steps": 20, "schedule": {"type": "exponential", "gamma": 0.9}}],
                    "last": {"type": "step", "size": 5, "gamma": 0.5}},
                   lambda o: sequential(o, (lambda o: lrs.ConstantLR(o, 1.0), 8), (lambda o: lrs.ExponentialLR(o, 0.9), 28), (lambda o: lrs.StepLR(o, 5, 0.5), None))),
    "chained": ({"type": "chained", "schedules": [LINEAR, {"type": "exponential", "gamma": 0.95}]},
                lambda o: lrs.ChainedScheduler([lrs.LinearLR(o, 0.25, 1.0, 20), lrs.ExponentialLR(o, 0.95)])),
    "lambda": (None, lambda o: lrs.LambdaLR(o, lambda s: 1 / (1 + 0.1 * s))),
    "per_epoch": ({"type": "per_epoch", "schedule": {"type": "exponential", "gamma": 0.6}}, lambda o: lrs.ExponentialLR(o, 0.6)),
    "per_epoch_cosine": ({"type": "per_epoch", "schedule": {"type": "cosine"}}, lambda o: lrs.CosineAnnealingLR(o, 10)),
    "plateau": ({"type": "plateau", "factor": 0.5, "patience": 2, "threshold": {"rel": 1e-3}},
                lambda o: plateau(o, factor=0.5, patience=2, threshold=1e-3)),
    "plateau_abs": ({"type": "plateau", "factor": 0.3, "patience": 1, "threshold": {"abs": 0.02}, "cooldown": 3, "min": 0.0005},
                    lambda o: plateau(o, factor=0.3, patience=1, threshold=0.02, threshold_mode="abs", cooldown=3, min_lr=0.0005)),
    "plateau_max": ({"type": "plateau", "metric": "accuracy", "factor": 0.5, "patience": 0, "threshold": {"rel": 0.01}, "eps": 1e-3},
                    lambda o: plateau(o, mode="max", factor=0.5, patience=0, threshold=0.01, eps=1e-3)),
    "plateau_max_abs": ({"type": "plateau", "metric": "accuracy", "factor": 0.5, "patience": 3, "threshold": {"abs": 0.01}, "cooldown": 1},
                        lambda o: plateau(o, mode="max", factor=0.5, patience=3, threshold=0.01, threshold_mode="abs", cooldown=1)),
}


# our name -> (class, options in PyTorch's words, in ours where they differ); bases of 0.1 and 0.01 share their tables of rates
RULES = {
    "sgd": ("SGD", dict(lr=0.1, momentum=0.9), {}),
    "adam": ("Adam", dict(lr=0.01, weight_decay=0.01), {}),
    "adamw": ("AdamW", dict(lr=0.01, weight_decay=0.1), {}),
    "amsgrad": ("Adam", dict(lr=0.01, amsgrad=True), {"type": "adam"}),
    "rmsprop": ("RMSprop", dict(lr=0.01, alpha=0.95, momentum=0.9, centered=True), {}),
    "adagrad": ("Adagrad", dict(lr=0.1, lr_decay=0.01), {}),
    "adadelta": ("Adadelta", dict(lr=0.1), {}),
    "nadam": ("NAdam", dict(lr=0.01), {}),
    "radam": ("RAdam", dict(lr=0.01), {}),
    "adamax": ("Adamax", dict(lr=0.01), {}),
    "adafactor": ("Adafactor", dict(lr=0.1, eps=[torch.finfo(torch.float32).eps, 1e-3], weight_decay=0.01), {}),
    "muon": ("Muon", dict(lr=0.1, weight_decay=0.1, momentum=0.95, nesterov=True, adamw_betas=[0.9, 0.999], adamw_eps=1e-8,
                          adamw_lr_scale=1.0), {}),
    "lion": ("Lion", dict(lr=0.01, betas=[0.9, 0.99], weight_decay=0.1), {}),
    "lamb": ("Lamb", dict(lr=0.01, betas=[0.9, 0.999], eps=1e-6, weight_decay=0.1), {}),
    "schedule_free_adamw": ("ScheduleFreeAdamW", dict(lr=0.01, betas=[0.9, 0.999], eps=1e-8, weight_decay=0.1), {}),
    "lbfgs": ("LBFGS", dict(lr=0.1, max_iter=1, history_size=3), {"line_search": "fixed"}),
}


def trajectory(make, rule, params, grads, per_epoch, dtype):
    """The parameters after each kept step, and the rate of each; None where the scheduler wants a momentum and the optimizer has none."""
    kind, options, _ = RULES[rule]
    ps = [p.to(dtype).clone().requires_grad_(True) for p in params]
    opts, schedulers = optim.rules(kind, ps, options), []
    for opt in opts:
        opt.base = options["lr"]
        try:
            schedulers.append(make(opt))
        except ValueError as e:
            assert "optimizer must support momentum" in str(e), e
            return None
    kept, rates = [], []
    for t in range(STEPS):
        rates.append(opts[0].param_groups[0]["lr"])

        def loss():
            for p, g in zip(ps, grads):
                p.grad = g[t].to(dtype).clone()
            return sum((p * p.grad).sum() for p in ps).detach()
        loss()
        for opt in opts:
            opt.step(*[loss] if kind == "LBFGS" else [])
        for scheduler in schedulers:
            if isinstance(scheduler, lrs.ReduceLROnPlateau):
                if t % 2 == 1:
                    scheduler.step(METRICS[t // 2])
            elif not per_epoch or (t + 1) % STEPS_PER_EPOCH == 0:
                scheduler.step()
        if t + 1 in KEEP:
            kept.append([p.detach().clone() for p in ps])
    return [torch.stack(k) for k in zip(*kept)], torch.tensor(rates, dtype=torch.float32)


if __name__ == "__main__":
    params, grads = (tensors[:2] for tensors in optim.problem())
    ours = {rule: {"type": rule, **options, **ours} for rule, (_, options, ours) in RULES.items()}
    group = Group("schedules", steps=STEPS, kept_steps=list(KEEP), steps_per_epoch=STEPS_PER_EPOCH, metrics=METRICS, optimizers=ours)
    ends, rates_of = {}, {}
    for name, (schedule, make) in CASES.items():
        refused = []
        for rule, (_, options, _) in RULES.items():
            per_epoch = name.startswith("per_epoch")
            found = trajectory(make, rule, params, grads, per_epoch, torch.float32)
            if found is None:
                refused.append(rule)
                kept = [torch.full((len(KEEP), *p.shape), torch.nan) for p in params]
            else:
                kept, rates = found
                exact, _ = trajectory(make, rule, params, grads, per_epoch, torch.float64)
                worst = max(((a - b).abs().max() / b.abs().max()).item() for a, b in zip(kept, exact))
                assert worst < 1e-5, (name, rule, worst)
                assert torch.equal(rates_of.setdefault((name, options["lr"]), rates), rates), (name, rule)
            for i, k in enumerate(kept):
                ends.setdefault(f"{rule}.p{i}", []).append(k)
        group.case(id=name, schedule=schedule, refused=refused)
    for key, kept in ends.items():
        group.put(key, torch.stack(kept))
    for base in (0.1, 0.01):
        group.put(f"lr.{base}", torch.stack([rates_of[name, base] for name in CASES]))
    group.save()
