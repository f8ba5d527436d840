"""One model, changing batch sizes: the loss of every step and the final parameters. Nothing may depend on an earlier, larger batch."""
import copy

import torch
import torch.nn as nn
import torch.nn.functional as F

from common import HERE, save_tensors, start, write_json

SIZES = [4, 8, 16, 24, 32, 8, 16, 12, 20]
ROUNDS = 3
# name -> (model, batch sizes): BatchNorm cannot train on one row
MODELS = {
    "bn": (lambda: nn.Sequential(nn.Linear(6, 8, bias=False), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3)), SIZES),
    "plain": (lambda: nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)), SIZES + [1, 13]),
}
RATES = {("SGD", "mean"): 0.1, ("SGD", "sum"): 0.005, ("Adam", "mean"): 0.01, ("Adam", "sum"): 0.01}


def train(model, data, optimizer, reduction):
    opt = getattr(torch.optim, optimizer)(model.parameters(), lr=RATES[optimizer, reduction], foreach=False)
    losses = []
    for x, y in data:
        loss = F.cross_entropy(model(x), y, reduction=reduction)
        opt.zero_grad()
        loss.backward()
        opt.step()
        losses.append(loss.detach())
    return torch.stack(losses), model.state_dict()


if __name__ == "__main__":
    start(707)
    out, cases = {}, []
    for name, (build, sizes) in MODELS.items():
        model = build()
        sizes = sizes * ROUNDS
        teacher = torch.randn(6, 3)
        xs = torch.randn(sum(sizes), 6)
        ys = (xs @ teacher + 0.5 * torch.randn(len(xs), 3)).argmax(1)
        out |= {f"{name}.x": xs, f"{name}.y": ys} | {f"{name}.init.{k}": v.clone() for k, v in model.state_dict().items()}
        data = list(zip(xs.split(sizes), ys.split(sizes)))
        data64 = [(x.double(), y) for x, y in data]
        for optimizer, reduction in RATES:
            run = f"{name}.{optimizer.lower()}_{reduction}"
            losses, state = train(copy.deepcopy(model), data, optimizer, reduction)
            losses64, state64 = train(copy.deepcopy(model).double(), data64, optimizer, reduction)
            gap = max(((state[k].double() - v).abs().max() / v.abs().max()).item() for k, v in state64.items())
            assert gap < 2e-5, (run, gap)
            out[f"{run}.losses"] = losses
            out |= {f"{run}.final.{k}": v.clone() for k, v in state.items()}
            cases.append({"id": run, "model": name, "optimizer": {"kind": optimizer, "lr": RATES[optimizer, reduction]}, "reduction": reduction,
                          "batches": sizes})
            print(run, f"{losses[0]:.3f} -> {losses[-1]:.3f}, f32 to f64 {gap:.1e}")
    save_tensors("dynamic_batch", out)
    write_json("dynamic_batch", {}, cases)
    print(sum(f.stat().st_size for f in HERE.glob("dynamic*")) // 1000, "kB")
