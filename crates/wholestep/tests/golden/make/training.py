"""A small network with each optimizer for 100 steps; parameter groups, averages of the weights, gradient norms and the noise scale.

The network is smooth (tanh), so that rounding does not decide which side of an edge a run takes. `rule` and `groups` are in our words.
"""
import fnmatch

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from common import Group, start
from optim import rules

BATCH, POOL, STEPS = 12, 3, 100
# our type -> (PyTorch's or the paper's class, options)
RULES = {
    "sgd": ("SGD", dict(lr=0.1, momentum=0.9, dampening=0.0, weight_decay=1e-3, nesterov=True)),
    "adam": ("Adam", dict(lr=0.01, weight_decay=1e-3, amsgrad=True)),
    "adamw": ("AdamW", dict(lr=0.01, weight_decay=0.1, amsgrad=True)),
    "rmsprop": ("RMSprop", dict(lr=0.002, alpha=0.95, eps=1e-5, momentum=0.5, centered=True, weight_decay=1e-3)),
    "adagrad": ("Adagrad", dict(lr=0.05, lr_decay=0.01, initial_accumulator_value=0.1, weight_decay=1e-3)),
    "adadelta": ("Adadelta", dict(lr=1.0, rho=0.9, eps=1e-5, weight_decay=1e-3)),
    "nadam": ("NAdam", dict(lr=0.01, weight_decay=0.05, decoupled_weight_decay=True)),
    "radam": ("RAdam", dict(lr=0.01, weight_decay=0.05, decoupled_weight_decay=True)),
    "adamax": ("Adamax", dict(lr=0.01, weight_decay=1e-3)),
    "adafactor": ("Adafactor", dict(lr=0.1, eps=[torch.finfo(torch.float32).eps, 1e-3], weight_decay=1e-2)),
    "muon": ("Muon", dict(lr=0.02, weight_decay=0.1, momentum=0.9, nesterov=True, adjust_lr_fn="match_rms_adamw", adamw_betas=[0.9, 0.999],
                          adamw_eps=1e-8, adamw_lr_scale=0.5)),
    "lion": ("Lion", dict(lr=0.003, betas=[0.9, 0.99], weight_decay=0.1)),
    "lamb": ("Lamb", dict(lr=0.02, betas=[0.9, 0.999], eps=1e-6, weight_decay=0.01)),
    "schedule_free_adamw": ("ScheduleFreeAdamW", dict(lr=0.02, betas=[0.9, 0.999], eps=1e-8, weight_decay=0.05)),
}
# name -> groups in our words; PyTorch gets a list for each
GROUPS = {
    "rates": [{"params": "0/*", "lr_scale": 0.1}, {"params": "*/bias", "lr": 0.3, "weight_decay": 0.0}],
    "frozen": [{"params": "?/bias", "frozen": True}, {"params": "2/*", "weight_decay": 0.5}],
}
AVERAGES = {"ema": {"type": "ema", "decay": 0.9}, "swa": {"type": "swa", "start": 10, "every": 4}}


def net(init, dtype):
    m = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3)).to(dtype)
    m.load_state_dict({k: v.to(dtype) for k, v in init.items()})
    return m


def gradient(m, x, y):
    m.zero_grad()
    loss = F.cross_entropy(m(x), y)
    loss.backward()
    return loss.item()


def run(init, xs, ys, make, steps, dtype, after=lambda m: None, scheduler=None):
    m = net(init, dtype)
    opts = make(m)
    scheds = [scheduler(o) for o in opts] if scheduler else []
    losses, norms = [], []
    for t in range(steps):
        losses.append(gradient(m, xs[t % POOL].to(dtype), ys[t % POOL]))
        norms.append(sum((p.grad**2).sum() for p in m.parameters() if p.grad is not None).sqrt().item())
        for o in opts + scheds:
            o.step()
        after(m)
    return torch.tensor(losses), torch.tensor(norms), {k: v.detach().clone() for k, v in m.state_dict().items()}


def both(group, key, run_of, limit=2e-5):
    """In f32, after checking that f64 ends at the same place."""
    (losses, norms, end), (_, _, exact) = run_of(torch.float32), run_of(torch.float64)
    for k in end:
        drift = ((end[k] - exact[k]).abs().max() / exact[k].abs().max()).item()
        assert drift < limit, (key, k, drift)
        group.put(f"{key}.end.{k}", end[k])
    return losses, norms


def torch_groups(m, groups, base):
    """First match wins; names have / for ."""
    named = [(k.replace(".", "/"), p) for k, p in m.named_parameters()]
    lists = [dict(params=[]) for _ in groups] + [dict(params=[])]
    for name, p in named:
        at = next((i for i, g in enumerate(groups) if fnmatch.fnmatchcase(name, g["params"])), len(groups))
        if at < len(groups) and groups[at].get("frozen"):
            p.requires_grad_(False)
            continue
        lists[at]["params"].append(p)
    for g, made in zip(groups, lists):
        if "lr" in g or "lr_scale" in g:
            made["lr"] = g.get("lr", base * g.get("lr_scale", 1.0))
        if "weight_decay" in g:
            made["weight_decay"] = g["weight_decay"]
    return [made for made in lists if made["params"]]


def noise_scale(init, xs, ys, k, updates):
    """McCandlish and others 2018, appendix A.1, in f64; averages with decay 0.99 of both parts."""
    m = net(init, torch.float64)
    opt = torch.optim.SGD(m.parameters(), 0.1)
    signal = noise = 0.0
    out = []
    for t in range(updates):
        x, y = xs[t % POOL].double(), ys[t % POOL]
        micro = []
        for a, b in zip(x.chunk(k), y.chunk(k)):
            gradient(m, a, b)
            micro.append(torch.cat([p.grad.flatten() for p in m.parameters()]))
        big_b, small_b = len(x), len(x) // k
        small = sum((g**2).sum() for g in micro).item() / k
        big = (sum(micro) / k).square().sum().item()
        signal = 0.99 * signal + 0.01 * (big_b * big - small_b * small) / (big_b - small_b)
        noise = 0.99 * noise + 0.01 * (small - big) / (1 / small_b - 1 / big_b)
        out.append(noise / signal)
        gradient(m, x, y)
        opt.step()
    return torch.tensor(out)


if __name__ == "__main__":
    start(303)
    group = Group("training", batch=BATCH, batches=POOL, steps=STEPS)
    init = {k: v.clone() for k, v in nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3)).state_dict().items()}
    xs, ys = torch.randn(POOL, BATCH, 5), torch.randint(0, 3, (POOL, BATCH))
    group.put("x", xs), group.put("y", ys)
    for k, v in init.items():
        group.put(f"init.{k}", v)
    for kind, (cls, options) in RULES.items():
        losses, norms = both(group, kind, lambda dtype: run(init, xs, ys, lambda m: rules(cls, list(m.parameters()), options), STEPS, dtype))
        ours = {"rate" if k == "adjust_lr_fn" else k: v for k, v in options.items()}
        group.case(id=kind, rule={"type": kind, **ours}, losses=group.put(f"{kind}.losses", losses), norms=group.put(f"{kind}.norms", norms))
    for name, groups in GROUPS.items():
        def made(m):
            return [torch.optim.SGD(torch_groups(m, groups, 0.1), 0.1, momentum=0.9, weight_decay=0.01)]
        both(group, f"groups_{name}", lambda dtype: run(init, xs, ys, made, 20, dtype, scheduler=lambda o: torch.optim.lr_scheduler.ExponentialLR(o, 0.95)))
        group.case(id=f"groups_{name}", groups=groups)
    for name, average in AVERAGES.items():
        ends = {}
        for dtype in (torch.float32, torch.float64):
            state = {"t": 0, "model": None}

            def after(m):
                state["t"] += 1
                t = state["t"]
                if state["model"] is None:
                    multi = get_ema_multi_avg_fn(average["decay"]) if name == "ema" else None
                    state["model"] = AveragedModel(m, multi_avg_fn=multi)
                if name == "ema" or (t > average["start"] and (t - average["start"]) % average["every"] == 0):
                    state["model"].update_parameters(m)
                if dtype == torch.float32 and t in (1, 13, 14, 18, 50):
                    shown = state["model"].module if name == "ema" or t >= average["start"] + average["every"] else m
                    for k, v in shown.state_dict().items():
                        group.put(f"{name}.{t}.{k}", v.clone())
            run(init, xs, ys, lambda m: [torch.optim.Adam(m.parameters(), 0.02)], 50, dtype, after)
            ends[dtype] = state["model"].module.state_dict()
        assert all(((ends[torch.float32][k] - v).abs().max() / v.abs().max()) < 2e-5 for k, v in ends[torch.float64].items())
        group.case(id=name, average=average, at=[1, 13, 14, 18, 50])
    group.case(id="noise_scale", micro=4, lr=0.1, values=group.put("noise_scale", noise_scale(init, xs, ys, 4, 10)))
    group.save()
