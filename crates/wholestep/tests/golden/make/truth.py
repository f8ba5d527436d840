"""Training truth: three small networks, 100 steps with four optimizers, every number a training library must reproduce.

No layer before a BatchNorm has a bias: the true gradient of such a bias is zero, so its rounding noise would be all
that Adam sees, and two correct programs would part after one step. The seeds are chosen so that no ReLU or maximum sits
on an edge: the same run in f64, and runs whose gradients carry rounding-sized noise, must end at the same parameters
(`DRIFT`). `truth.py seeds` searches for such seeds: for most seeds two correct programs part within 100 steps.

So that nothing rests on the choice of a seed, `steps` has single steps of runs from the first seed, taken as it is: parameters, buffers and
optimizer state before a step, and all of them after it.
"""
import copy
import sys

import torch
import torch.nn as nn
import torch.nn.functional as F

from common import HERE, save_tensors, start, write_json

STEPS, POOL = 100, 5
NOISE, NOISY_RUNS = 1e-6, 30  # ten times what f32 rounding does; of four runs none may meet an edge that two of thirty do
DRIFT = 2e-5  # largest parameter difference after 100 steps, over the largest parameter of its tensor


class BasicBlock(nn.Module):
    def __init__(self, c_in, c_out, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(c_in, c_out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(c_out)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(c_out)
        self.down = None
        if stride != 1 or c_in != c_out:
            self.down = nn.Sequential(nn.Conv2d(c_in, c_out, 1, stride, bias=False), nn.BatchNorm2d(c_out))

    def forward(self, x):
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + (x if self.down is None else self.down(x)))


class ResNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, 2, 1, bias=False)
        self.bn = nn.BatchNorm2d(6)
        self.block1 = BasicBlock(6, 6, 1)
        self.block2 = BasicBlock(6, 10, 2)
        self.fc = nn.Linear(10, 4)

    def forward(self, x):
        x = self.block2(self.block1(F.relu(self.bn(self.conv(x)))))
        return self.fc(x.mean((2, 3)))


def mlp():
    return nn.Sequential(nn.Linear(10, 16), nn.ReLU(), nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 4))


def cnn():
    return nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6), nn.ReLU(),
        nn.Conv2d(6, 8, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
        nn.MaxPool2d(2), nn.Flatten(), nn.Linear(8 * 3 * 3, 4))


# name -> (builder, sample shape, batch, layers in words)
NETS = {
    "mlp": (mlp, (10,), 16, "0 Linear(10,16) 1 ReLU 2 Linear(16,12) 3 ReLU 4 Linear(12,4)"),
    "cnn": (cnn, (1, 12, 12), 8,
            "0 Conv2d(1,6,k3,p1,no bias) 1 BatchNorm2d(6) 2 ReLU 3 Conv2d(6,8,k3,s2,p1,no bias) 4 BatchNorm2d(8) "
            "5 ReLU 6 MaxPool2d(2) 7 Flatten 8 Linear(72,4)"),
    "resnet": (ResNet, (3, 12, 12), 8,
               "relu(bn(conv(x))) with conv=Conv2d(3,6,k3,s2,p1,no bias); block1=BasicBlock(6,6,stride 1); "
               "block2=BasicBlock(6,10,stride 2); mean over H,W; fc=Linear(10,4). BasicBlock: "
               "relu(bn2(conv2(relu(bn1(conv1(x))))) + x or down(x)); conv1 k3 p1 with the stride, conv2 k3 p1, "
               "down.0=Conv2d k1 with the stride, down.1=BatchNorm2d; no conv has a bias"),
}
SEEDS = {"mlp": 100, "cnn": 102, "resnet": 101}
# name -> (typed optimizer description, clip norm or None)
RUNS = {
    "sgd": (dict(kind="SGD", lr=0.02, momentum=0.9, dampening=0.0, weight_decay=1e-4, nesterov=True), None),
    "sgd_clip": (dict(kind="SGD", lr=0.02, momentum=0.9, dampening=0.0, weight_decay=1e-4, nesterov=True), 1.0),
    "adam": (dict(kind="Adam", lr=1e-3, betas=[0.9, 0.999], eps=1e-8, weight_decay=0.0), None),
    "adamw": (dict(kind="AdamW", lr=1e-3, betas=[0.9, 0.999], eps=1e-8, weight_decay=0.01), None),
}


def optimizer(params, spec):
    options = {k: v for k, v in spec.items() if k != "kind"}
    return getattr(torch.optim, spec["kind"])(params, foreach=False, **options)


def buffers(model):
    return {k: v.clone() for k, v in model.named_buffers()}


def train(model, data, spec, clip, noise=None):
    """100 steps; returns what was seen on the way. `noise` is a generator for rounding-sized errors in the gradients."""
    opt = optimizer(model.parameters(), spec)
    seen = {"losses": [], "grad_norms": []}
    for i in range(STEPS):
        x, y = data[i % POOL]
        logits = model(x)
        loss = F.cross_entropy(logits, y)
        opt.zero_grad()
        loss.backward()
        seen["losses"].append(loss.detach().clone())
        if noise is not None:
            for p in model.parameters():
                p.grad *= 1 + NOISE * torch.randn(p.shape, generator=noise)
        if i == 0:
            seen["logits"] = logits.detach().clone()
            seen["grads"] = {k: p.grad.clone() for k, p in model.named_parameters()}
        if clip is not None:
            seen["grad_norms"].append(nn.utils.clip_grad_norm_(model.parameters(), clip, foreach=False).detach().clone())
        opt.step()
        if i == 0:
            seen["buffers1"] = buffers(model)
            seen["params1"] = {k: p.detach().clone() for k, p in model.named_parameters()}
    seen["buffers100"] = buffers(model)
    seen["params100"] = {k: p.detach().clone() for k, p in model.named_parameters()}
    return seen


def gap(seen, other):
    """(parameters, losses): how far two runs are apart."""
    a, b = seen["params100"], other["params100"]
    params = max(((a[k].double() - b[k]).abs().max() / b[k].abs().max()).item() for k in a)
    return params, max(abs(x.double() - y).item() for x, y in zip(seen["losses"], other["losses"]))


def problem(name, seed):
    build, shape, batch, _ = NETS[name]
    start(seed)
    model = build()
    xs = torch.randn(POOL, batch, *shape) * (3.0 if name == "mlp" else 1.0)
    teacher = torch.randn(xs[0, 0].numel(), 4)
    ys = (xs.flatten(2) @ teacher).argmax(-1)
    return model, xs, ys


def runs(name, seed):
    """Yields (run, what was seen in f32, in f64, drift of parameters, drift of losses)."""
    model, xs, ys = problem(name, seed)
    data = list(zip(xs, ys))
    data64 = list(zip(xs.double(), ys))
    for run, (spec, clip) in RUNS.items():
        seen = train(copy.deepcopy(model), data, spec, clip)
        seen64 = train(copy.deepcopy(model).double(), data64, spec, clip)
        gaps = [gap(seen, seen64)]
        for n in range(NOISY_RUNS):
            noise = torch.Generator().manual_seed(n)
            gaps.append(gap(seen, train(copy.deepcopy(model), data, spec, clip, noise)))
        yield run, seen, seen64, max(g[0] for g in gaps), max(g[1] for g in gaps)


def make(name):
    _, _, batch, words = NETS[name]
    model, xs, ys = problem(name, SEEDS[name])
    out = {"x": xs, "y": ys}
    out |= {f"init.{k}": v.clone() for k, v in model.state_dict().items()}
    record = {"id": f"truth_{name}", "layers": words, "batch": batch, "steps": STEPS, "batches": POOL, "runs": {}}
    for run, seen, seen64, params_gap, losses_gap in runs(name, SEEDS[name]):
        spec, clip = RUNS[run]
        assert params_gap < DRIFT, (name, run, params_gap)
        if run == "sgd":  # what the first step computes before the optimizer is the same for every run
            out |= {"logits": seen["logits"], "loss": seen["losses"][0]}
            out |= {f"grad.{k}": v for k, v in seen["grads"].items()}
        out[f"{run}.losses"] = torch.stack(seen["losses"])
        if clip is not None:
            out[f"{run}.grad_norms"] = torch.stack(seen["grad_norms"])
        for step in (1, 100):
            out |= {f"{run}.step{step}.{k}": v for k, v in seen[f"params{step}"].items()}
            out |= {f"{run}.step{step}.{k}": v for k, v in seen[f"buffers{step}"].items()}
        record["runs"][run] = {"optimizer": spec, "clip_grad_norm": clip,
                               "rounding": {"params": float(f"{params_gap:.2g}"), "losses": float(f"{losses_gap:.2g}")}}
        norms = out.get(f"{run}.grad_norms")
        print(f"{name} {run}: loss {seen['losses'][0]:.4f} -> {seen['losses'][-1]:.4f}, rounding: params {params_gap:.1e}, "
              f"losses {losses_gap:.1e}" + (f", clipped {int((norms > clip).sum())} of {STEPS}" if norms is not None else ""))
    save_tensors(f"truth_{name}", {k: v.detach().contiguous() for k, v in out.items()})
    return record


FIRST_SEED = 1
STEP_RUNS = ("sgd", "adamw")
AT = (0, 30, 99)


def make_steps(name, out):
    """Single steps of a run that no search has touched, after `AT` steps each."""
    model, xs, ys = problem(name, FIRST_SEED)
    out |= {f"{name}.x": xs, f"{name}.y": ys}
    for run in STEP_RUNS:
        net = copy.deepcopy(model)
        opt = optimizer(net.parameters(), RUNS[run][0])
        for i in range(STEPS):
            key = f"{name}.{run}.{i}"
            if i in AT:
                out |= {f"{key}.before.{k}": v.clone() for k, v in net.state_dict().items() if v.is_floating_point()}
                for k, p in net.named_parameters():
                    state = {s: v for s, v in opt.state[p].items() if v is not None and v.shape == p.shape and s != "step"}
                    out |= {f"{key}.state.{k}.{s}": v.clone() for s, v in state.items()}
            x, y = xs[i % POOL], ys[i % POOL]
            loss = F.cross_entropy(net(x), y)
            opt.zero_grad()
            loss.backward()
            opt.step()
            if i in AT:
                out[f"{key}.loss"] = loss.detach().clone()
                out |= {f"{key}.after.{k}": v.clone() for k, v in net.state_dict().items() if v.is_floating_point()}


def search():
    for name in NETS:
        for seed in range(100, 200):
            worst = 0.0
            for _, _, _, params_gap, _ in runs(name, seed):
                worst = max(worst, params_gap)
                if worst > DRIFT / 2:
                    break
            print(name, seed, f"{worst:.1e}", flush=True)
            if worst <= DRIFT / 2:
                break


if __name__ == "__main__":
    if sys.argv[1:] == ["seeds"]:
        search()
    else:
        write_json("truth", {}, [make(name) for name in NETS])
        steps = {}
        for name in NETS:
            make_steps(name, steps)
        save_tensors("truth_steps", {k: v.detach().contiguous() for k, v in steps.items()})
        print(sum(f.stat().st_size for f in HERE.glob("truth*")) // 1000, "kB")
