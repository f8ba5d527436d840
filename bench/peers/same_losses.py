#!/usr/bin/env python3
"""The same run in PyTorch: same first weights, same batches, same optimizer; are the losses and the trained weights the same?

    wholestep bench --workload resnet18_b32 --steps 40 --record FOLDER [--device cuda] [--precision bf16]
    same_losses.py FOLDER [--device cuda]

Two runs that round differently part (a ReLU near zero is on in one and off in the other), so no fixed tolerance says what is equal. The yardstick is
a run with 64 bits (32 where ours had 16). What counts is how far from it PyTorch itself comes, as ours was trained (f32, or autocast to its 16
bits), from the same weights and from weights that are moved by one rounding, four runs in all. Ours may be at most as far as the farthest of
them, times `--factor`: the losses by the root of the mean square of their relative distances (or one rounding of the type), the weights by the
norm of their distance over that of the way they went.
Prints one JSON line and exits with 1 if ours is farther.
"""
import argparse
import csv
import json
import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.numpy import load_file


class Net:
    """Parameters and buffers by their dotted names, and the layers that use them."""

    def __init__(self, tensors, dtype, device):
        self.all = {k: torch.tensor(v).to(device, dtype) for k, v in tensors.items()}
        for name, value in self.all.items():
            value.requires_grad_("running" not in name)

    def parameters(self):
        return [v for v in self.all.values() if v.requires_grad]

    def linear(self, name, x):
        return F.linear(x, self.all[name + ".weight"], self.all.get(name + ".bias"))

    def conv(self, name, x, stride=1):
        w = self.all[name + ".weight"]
        return F.conv2d(x, w, self.all.get(name + ".bias"), stride, w.shape[-1] // 2)

    def batch_norm(self, name, x):
        get = lambda k: self.all[f"{name}.{k}"]  # noqa: E731
        return F.batch_norm(x, get("running_mean"), get("running_var"), get("weight"), get("bias"), training=True)

    def conv_norm(self, name, x, stride=1):
        return self.batch_norm(name + ".norm", self.conv(name + ".conv", x, stride))

    def layer_norm(self, name, x):
        return F.layer_norm(x, x.shape[-1:], self.all[name + ".weight"], self.all[name + ".bias"])

    def has(self, prefix):
        return any(k.startswith(prefix + ".") for k in self.all)


def mlp(n, x, prefix=""):
    i = 0
    while n.has(f"{prefix}fc{i}"):
        x = F.relu(x) if i else x
        x = n.linear(f"{prefix}fc{i}", x)
        i += 1
    return x


def cnn(n, x):
    for i, stride in enumerate((1, 2, 1, 2)):
        x = F.relu(n.conv(f"conv{i}", x, stride))
    return mlp(n, x.flatten(1), "head.")


def resnet(n, x, large):
    x = F.relu(n.conv_norm("stem", x, 2 if large else 1))
    if large:
        x = F.max_pool2d(x, 3, 2, 1)
    for stage in range(4):
        block = 0
        while n.has(f := f"stage{stage}.{block}"):
            stride = 2 if stage and not block else 1
            if n.has(f + ".third"):
                h = F.relu(n.conv_norm(f + ".first", x))
                h = n.conv_norm(f + ".third", F.relu(n.conv_norm(f + ".second", h, stride)))
            else:
                h = n.conv_norm(f + ".second", F.relu(n.conv_norm(f + ".first", x, stride)))
            x = F.relu(h + (n.conv_norm(f + ".short", x, stride) if n.has(f + ".short") else x))
            block += 1
    return n.linear("fc", x.mean((2, 3)))


def gpt(n, ids, heads):
    x = n.all["tok"][ids] + n.all["pos"]
    layer = 0
    while n.has(f := f"block{layer}"):
        b, t, d = x.shape
        q, k, v = n.linear(f + ".qkv", n.layer_norm(f + ".ln1", x)).view(b, t, 3, heads, d // heads).permute(2, 0, 3, 1, 4)
        a = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + n.linear(f + ".proj", a.transpose(1, 2).reshape(b, t, d))
        h = F.gelu(n.linear(f + ".up", n.layer_norm(f + ".ln2", x)), approximate="tanh")
        x = x + n.linear(f + ".down", h)
        layer += 1
    return (n.layer_norm("ln", x) @ n.all["tok"].T).flatten(0, 1)


def lstm(n, x):
    get = lambda k: n.all["lstm." + k]  # noqa: E731
    state = [x.new_zeros(1, len(x), 128)] * 2
    flat = [get("weight_ih"), get("weight_hh"), get("bias_ih"), get("bias_hh")]
    out, _, _ = torch._VF.lstm(x, state, flat, True, 1, 0.0, True, False, True)
    return n.linear("fc", out[:, -1])


MODELS = {
    "tiny_b8": mlp, "mlp_b64": mlp, "mlp_b512": mlp, "cnn_b64": cnn, "lstm_b32": lstm,
    "resnet18_b32": lambda n, x: resnet(n, x, False), "resnet18_b512": lambda n, x: resnet(n, x, False),
    "resnet50_b128": lambda n, x: resnet(n, x, True),
    "gpt_b16": lambda n, x: gpt(n, x, 4), "gpt2_b32": lambda n, x: gpt(n, x, 12),
}


def optimizer(workload, p):
    if workload == "resnet18_b32":
        return torch.optim.SGD(p, lr=0.01, momentum=0.9)
    if workload.startswith("resnet"):
        return torch.optim.SGD(p, lr=0.05, momentum=0.9, weight_decay=5e-4)
    if workload == "gpt_b16":
        return torch.optim.AdamW(p, lr=3e-4, weight_decay=0.1)
    if workload == "gpt2_b32":
        return torch.optim.AdamW(p, lr=6e-4, betas=(0.9, 0.95), weight_decay=0.1)
    return torch.optim.Adam(p, lr=1e-3)


def nudged(tensors, seed):
    """Each weight one rounding up or down; all as they are for seed 0."""
    random = np.random.default_rng(seed)
    towards = lambda v: random.choice([-np.inf, np.inf], v.shape).astype(v.dtype)  # noqa: E731
    return {k: np.nextafter(v, towards(v)) if seed else v for k, v in tensors.items()}


def train(folder, workload, n_steps, dtype, narrow, device, seed=0):
    """The loss of each step, and the weights after the last."""
    n = Net(nudged(load_file(folder / "start.safetensors"), seed), dtype, device)
    opt = optimizer(workload, n.parameters())
    batches = []
    for i in range(min(n_steps, 8)):
        x, y = (np.load(folder / f"{k}{i}.npy") for k in "xy")
        x = torch.from_numpy(x).to(dtype) if x.dtype == np.float32 else torch.from_numpy(x.astype(np.int64))
        batches.append((x.to(device), torch.from_numpy(y.astype(np.int64)).to(device).flatten()))
    losses = []
    for i in range(n_steps):
        x, y = batches[i % len(batches)]
        with torch.autocast(device.type, dtype=narrow or torch.bfloat16, enabled=narrow is not None):
            loss = F.cross_entropy(MODELS[workload](n, x), y)
        opt.zero_grad()
        loss.backward()
        opt.step()
        losses.append(float(loss.detach()))
    return np.array(losses), {k: v.detach().cpu().double().numpy() for k, v in n.all.items()}


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("folder", type=Path)
    p.add_argument("--device", default="cpu")
    p.add_argument("--factor", type=float, default=2.0)
    a = p.parse_args()
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    what = json.loads((a.folder / "workload.json").read_text())
    with open(a.folder / "losses.csv") as f:
        ours = np.array([float(row["loss"]) for row in csv.DictReader(f)])
    narrow = {"f32": None, "bf16": torch.bfloat16}[what["precision"]]
    args = (a.folder, what["workload"], len(ours))
    device = torch.device(a.device)
    peers = [train(*args, torch.float32, narrow, device, seed) for seed in range(4)]
    wide = train(*args, torch.float32 if narrow else torch.float64, None, device)
    start, end = (load_file(a.folder / f"{name}.safetensors") for name in ("start", "end"))

    def distances(losses, weights):
        way = sum(np.sum((wide[1][k] - start[k]) ** 2) for k in start)
        apart = sum(np.sum((wide[1][k] - weights[k]) ** 2) for k in start)
        return float(np.sqrt(np.mean(((losses - wide[0]) / wide[0]) ** 2))), float(np.sqrt(apart / way))

    result = dict(**what, steps=len(ours), torch=torch.__version__, device=a.device,
                  first=[float(x[0]) for x in (ours, peers[0][0], wide[0])], last=[float(x[-1]) for x in (ours, peers[0][0], wide[0])])
    result["equal"] = True
    spread = [distances(*p) for p in peers]
    for i, (name, distance) in enumerate(zip(("losses", "weights"), distances(ours, end))):
        all_peers = [s[i] for s in spread]
        result[name] = dict(ours=distance, peers=all_peers)
        # A rounding of the loss itself is no difference.
        floor = (2**-8 if narrow else 2**-23) if name == "losses" else 0
        result["equal"] &= distance <= max(a.factor * max(all_peers), floor)
    print(json.dumps(result))
    sys.exit(not result["equal"])


if __name__ == "__main__":
    main()
