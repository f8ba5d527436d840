#!/usr/bin/env python3
"""PyTorch on a GPU: one JSON line per (workload, variant).

  python3 torch_bench.py --workload mlp --steps 500
  python3 torch_bench.py --workload gpt2 --variant compile --batch 32 --steps 20

Workloads
  mlp       784-512-256-10 ReLU MLP, cross-entropy, Adam(1e-3), batch 64 (--batch), fp32 (--tf32 for TF32)
  tiny      10-16-2 tanh MLP, cross-entropy, Adam(1e-3), batch 8
  lbfgs     the mlp, full batch 1024, torch.optim.LBFGS(history 10, strong_wolfe)
  resnet18  CIFAR ResNet-18 (3x3 stem, no max-pool), 3x32x32, batch 512, bf16 autocast, channels_last, SGD momentum
  resnet50  torchvision ResNet-50, 3x224x224, batch 128, bf16 autocast, channels_last, SGD momentum
  gpt2      GPT-2 124M (12x768x12, context 1024, vocabulary 50304, tied), bf16 autocast, fused AdamW, batch 32
  conv      the bf16 channels_last convolutions of ResNet-18 and one 1x1, forward and backward
  gemm      matmul rates, bf16 / TF32 / fp32, at 1024, 4096 and 8192 cubed, random data
  copy      GB/s at several sizes: within the device (read and write), to the device from pinned and from other memory

Variants (--variant a,b,... or all)
  eager          plain loop, default optimizer
  eager-fused    plain loop, fused optimizer
  graph          the whole eager step captured in one CUDA graph (fused, capturable optimizer)
  compile        torch.compile of model and loss (--mode, default max-autotune; --conv-mode for resnet and gpt2) and fused optimizer
  compile-whole  one torch.compile around forward, torch.func gradient and Adam (mlp and tiny)
  compile-graph  torch.compile (max-autotune-no-cudagraphs) and the whole step captured in one CUDA graph

Batches are device-resident and rotate; nothing is read back inside the timed loop. A round is `steps` steps
between two synchronizations; the figure is the median round.
"""

import argparse
import json
import statistics
import time

import torch
import torch.nn as nn
import torch.nn.functional as F

A = None
DEV = None


def sync():
    if DEV.type == "cuda":
        torch.cuda.synchronize()


def emit(workload, variant, **kw):
    d = dict(
        framework="torch",
        version=torch.__version__,
        device=torch.cuda.get_device_name() if DEV.type == "cuda" else "cpu",
        workload=workload,
        variant=variant,
    )
    d.update({k: (float(f"{v:.6g}") if isinstance(v, float) else v) for k, v in kw.items()})
    print(json.dumps(d), flush=True)


def rounds(step, steps, n=5, warm=None):
    t = time.perf_counter()
    for i in range(warm if warm is not None else 10):
        step(i)
    sync()
    first = time.perf_counter() - t
    out = []
    k = 0
    for _ in range(n):
        sync()
        t = time.perf_counter()
        for _ in range(steps):
            step(k)
            k += 1
        sync()
        out.append((time.perf_counter() - t) / steps)
    return dict(
        us_per_step=statistics.median(out) * 1e6, us_min=min(out) * 1e6, us_max=max(out) * 1e6, steps=steps, rounds=n, warmup_s=first
    )


def mem():
    return dict(peak_mib=torch.cuda.max_memory_allocated() / 2**20) if DEV.type == "cuda" else {}


def mlp(sizes, act):
    layers = []
    for i in range(len(sizes) - 1):
        layers.append(nn.Linear(sizes[i], sizes[i + 1]))
        if i + 2 < len(sizes):
            layers.append(act())
    return nn.Sequential(*layers)


def class_data(n, d, c, batch):
    g = torch.Generator().manual_seed(1)
    x = torch.randn(n, d, generator=g)
    y = (x @ torch.randn(d, c, generator=g)).argmax(1)
    return [(a.contiguous().to(DEV), b.contiguous().to(DEV)) for a, b in zip(x.split(batch), y.split(batch))]


def capture(fn):
    s = torch.cuda.Stream()
    s.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(s):
        for _ in range(4):
            fn()
    torch.cuda.current_stream().wait_stream(s)
    g = torch.cuda.CUDAGraph()
    with torch.cuda.graph(g):
        out = fn()
    return g, out


def supervised(
    name, make, make_opt, data, variants, steps, images=None, autocast=False, extra=None, warm=None, nrounds=5, compile_mode=None
):
    """the eager / eager-fused / graph / compile / compile-graph variants of one supervised training step"""
    for v in variants:
        if v == "compile-whole" or (DEV.type == "cpu" and "graph" in v):
            continue
        torch.manual_seed(0)
        torch._dynamo.reset()
        if DEV.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        model = make()
        fused = v != "eager"
        opt = make_opt(model, fused=fused and DEV.type == "cuda", capturable="graph" in v)
        ctx = (lambda: torch.autocast(DEV.type, dtype=torch.bfloat16)) if autocast else torch.enable_grad

        def net(x, y):  # forward and loss
            with ctx():
                out = model(x)
                return F.cross_entropy(out.view(-1, out.shape[-1]), y.view(-1))

        mode = compile_mode or A.mode
        if v == "compile":
            net = torch.compile(net, mode=None if mode == "default" else mode)
        elif v == "compile-graph":
            net = torch.compile(net, mode="max-autotune-no-cudagraphs" if mode == "max-autotune" else None)

        def train(x, y):
            loss = net(x, y)
            loss.backward()
            opt.step()
            opt.zero_grad(set_to_none=True)
            return loss

        if "graph" in v:
            sx, sy = (t.clone() for t in data[0])
            l0 = float(train(sx, sy).detach())
            g, last = capture(lambda: train(sx, sy))

            def step(i):
                x, y = data[i % len(data)]
                sx.copy_(x, non_blocking=True)
                sy.copy_(y, non_blocking=True)
                g.replay()
                return last
        else:
            l0 = None

            def step(i):
                nonlocal l0
                if v == "compile":
                    torch.compiler.cudagraph_mark_step_begin()
                l = train(*data[i % len(data)])
                if l0 is None:
                    l0 = float(l.detach())
                return l

        try:
            r = rounds(step, steps, warm=warm, n=nrounds)
            l1 = float(step(0).detach())
        except Exception as e:
            emit(name, v, error=f"{type(e).__name__}: {str(e)[:200]}")
            continue
        if images:
            r["per_second"] = images / r["us_per_step"] * 1e6
        emit(name, v, loss_first=l0, loss_last=l1, **r, **mem(), **(extra(r) if extra else {}))
        del model, opt, net


def whole(name, make, data, steps):
    """forward, gradient and Adam in one torch.compile"""
    torch.manual_seed(0)
    torch._dynamo.reset()
    model = make()
    p = {k: v.detach().clone() for k, v in model.named_parameters()}
    m = {k: torch.zeros_like(v) for k, v in p.items()}
    s = {k: torch.zeros_like(v) for k, v in p.items()}
    t = torch.zeros((), device=DEV)
    for d in (p, m, s):
        for v in d.values():
            torch._dynamo.mark_static_address(v)
    torch._dynamo.mark_static_address(t)

    def loss_fn(pp, x, y):
        return F.cross_entropy(torch.func.functional_call(model, pp, (x,)), y)

    def one(x, y):
        g, loss = torch.func.grad_and_value(loss_fn)(p, x, y)
        t.add_(1)
        c1, c2 = 1 - 0.9**t, 1 - 0.999**t
        for k in p:
            m[k].mul_(0.9).add_(g[k], alpha=0.1)
            s[k].mul_(0.999).addcmul_(g[k], g[k], value=0.001)
            p[k].sub_(1e-3 * (m[k] / c1) / ((s[k] / c2).sqrt() + 1e-8))
        return loss

    f = torch.compile(one, mode=None if A.mode == "default" else A.mode, fullgraph=True)
    first = []

    def step(i):
        torch.compiler.cudagraph_mark_step_begin()
        with torch.no_grad():
            l = f(*data[i % len(data)])
        if not first:
            first.append(float(l))
        return l

    try:
        r = rounds(step, steps)
        emit(name, "compile-whole", loss_first=first[0], loss_last=float(step(0)), **r, **mem())
    except Exception as e:
        emit(name, "compile-whole", error=f"{type(e).__name__}: {str(e)[:300]}")


def dense(name, sizes, act, batch, variants, **said):
    b = A.batch or batch
    data = class_data(b * 100, sizes[0], sizes[-1], b)
    make = lambda: mlp(sizes, act).to(DEV)
    mo = lambda m, fused, capturable: torch.optim.Adam(m.parameters(), lr=1e-3, fused=fused or None, capturable=capturable)
    supervised(name, make, mo, data, variants, A.steps or 500, extra=lambda r: dict(batch=b, **said))
    if "compile-whole" in variants:
        whole(name, make, data, A.steps or 500)


def run_mlp(variants):
    dense("mlp", [784, 512, 256, 10], nn.ReLU, 64, variants, tf32=A.tf32)


def run_tiny(variants):
    dense("tiny", [10, 16, 2], nn.Tanh, 8, variants)


def run_lbfgs(variants):
    for v in variants:
        if v not in ("eager", "compile"):
            continue
        torch.manual_seed(0)
        torch._dynamo.reset()
        n = A.batch or 1024
        ((x, y),) = class_data(n, 784, 10, n)
        model = mlp([784, 512, 256, 10], nn.ReLU).to(DEV)
        net = torch.compile(model, mode="default") if v == "compile" else model
        opt = torch.optim.LBFGS(
            model.parameters(),
            lr=1,
            max_iter=A.steps or 40,
            history_size=10,
            line_search_fn="strong_wolfe",
            tolerance_grad=0,
            tolerance_change=0,
        )
        evals = [0]

        def closure():
            opt.zero_grad(set_to_none=True)
            loss = F.cross_entropy(net(x), y)
            loss.backward()
            evals[0] += 1
            return loss

        out = []
        l0 = float(closure().detach())
        for _ in range(4):
            with torch.no_grad():
                torch.manual_seed(0)
                for l in model:
                    if hasattr(l, "reset_parameters"):
                        l.reset_parameters()
            opt.state.clear()
            evals[0] = 0
            sync()
            t = time.perf_counter()
            opt.step(closure)
            sync()
            dt = time.perf_counter() - t
            it = opt.state[opt._params[0]]["n_iter"]
            out.append((dt / it, it, evals[0]))
        ms = statistics.median(o[0] for o in out[1:]) * 1e3
        emit(
            "lbfgs",
            v,
            ms_per_iteration=ms,
            iterations=out[-1][1],
            evaluations=out[-1][2],
            batch=n,
            loss_first=l0,
            loss_last=float(closure().detach()),
        )


def images(n, hw, classes, batch):
    g = torch.Generator().manual_seed(1)
    return [
        (
            torch.randn(batch, 3, hw, hw, generator=g).to(DEV, memory_format=torch.channels_last),
            torch.randint(0, classes, (batch,), generator=g).to(DEV),
        )
        for _ in range(n)
    ]


def sgd(m, fused, capturable):
    return torch.optim.SGD(m.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4, fused=fused or None)


def residual(name, make, batch, hw, classes, batches, macs, variants, steps, warm):
    """bf16, channels_last, SGD; `macs` are those of one image's forward pass, of which a step has three times as many"""
    b = A.batch or batch
    torch.backends.cudnn.benchmark = True
    supervised(
        name,
        lambda: make().to(DEV, memory_format=torch.channels_last),
        sgd,
        images(batches, hw, classes, b),
        variants,
        A.steps or steps,
        images=b,
        autocast=True,
        warm=warm,
        nrounds=3,
        compile_mode=A.conv_mode,
        extra=lambda r: dict(batch=b, tflops=b * 3 * 2 * macs / (r["us_per_step"] * 1e-6) / 1e12),
    )


def run_resnet18(variants):
    import torchvision

    def make():
        m = torchvision.models.resnet18(num_classes=10)
        m.conv1 = nn.Conv2d(3, 64, 3, 1, 1, bias=False)
        m.maxpool = nn.Identity()
        return m

    residual("resnet18", make, 512, 32, 10, 4, 0.5559e9, variants, steps=30, warm=6)


def run_resnet50(variants):
    import torchvision

    make = lambda: torchvision.models.resnet50(num_classes=1000)
    residual("resnet50", make, 128, 224, 1000, 2, 4.089e9, variants, steps=20, warm=5)


class Block(nn.Module):
    def __init__(s, c, h):
        super().__init__()
        s.h = h
        s.ln1, s.ln2 = nn.LayerNorm(c), nn.LayerNorm(c)
        s.qkv, s.proj = nn.Linear(c, 3 * c), nn.Linear(c, c)
        s.fc, s.out = nn.Linear(c, 4 * c), nn.Linear(4 * c, c)

    def forward(s, x):
        b, t, c = x.shape
        q, k, v = s.qkv(s.ln1(x)).split(c, 2)
        q, k, v = (z.view(b, t, s.h, c // s.h).transpose(1, 2) for z in (q, k, v))
        x = x + s.proj(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(b, t, c))
        return x + s.out(F.gelu(s.fc(s.ln2(x)), approximate="tanh"))


class GPT2(nn.Module):
    def __init__(s, layers=12, c=768, heads=12, ctx=1024, vocab=50304):
        super().__init__()
        s.wte, s.wpe = nn.Embedding(vocab, c), nn.Embedding(ctx, c)
        s.blocks = nn.ModuleList(Block(c, heads) for _ in range(layers))
        s.lnf = nn.LayerNorm(c)
        s.head = nn.Linear(c, vocab, bias=False)
        for n, p in s.named_parameters():
            if p.dim() == 2:
                nn.init.normal_(p, std=0.02)
        s.head.weight = s.wte.weight

    def forward(s, i):
        x = s.wte(i) + s.wpe(torch.arange(i.shape[1], device=i.device))
        for b in s.blocks:
            x = b(x)
        return s.head(s.lnf(x))


def run_gpt2(variants):
    b = A.batch or 32
    torch.set_float32_matmul_precision("high")
    small = DEV.type == "cpu"
    cfg = dict(layers=2, c=64, heads=2, ctx=64, vocab=512) if small else {}
    ctx, vocab = cfg.get("ctx", 1024), cfg.get("vocab", 50304)
    L, C = cfg.get("layers", 12), cfg.get("c", 768)
    data = [(torch.randint(0, vocab, (b, ctx), device=DEV), torch.randint(0, vocab, (b, ctx), device=DEV)) for _ in range(4)]
    n = sum(p.numel() for p in GPT2(**cfg).parameters())
    flop = 6 * n + 12 * L * C * ctx  # per token, PaLM's count (position embedding included, as nanoGPT's total does)
    mo = lambda m, fused, capturable: torch.optim.AdamW(
        m.parameters(), lr=6e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=fused or None, capturable=capturable
    )

    def ex(r):
        tps = b * ctx / r["us_per_step"] * 1e6
        return dict(batch=b, context=ctx, parameters=n, tokens_per_s=tps, tflops=tps * flop / 1e12, mfu=tps * flop / 989.4e12)

    supervised(
        "gpt2",
        lambda: GPT2(**cfg).to(DEV),
        mo,
        data,
        variants,
        A.steps or 20,
        autocast=True,
        extra=ex,
        warm=5,
        nrounds=3,
        compile_mode=A.conv_mode,
    )


def run_gemm(variants):
    for dt, name in ((torch.bfloat16, "bf16"), (torch.float32, "tf32"), (torch.float32, "fp32")):
        torch.set_float32_matmul_precision("high" if name == "tf32" else "highest")
        for n in (1024, 4096, 8192):
            sets = [(torch.randn(n, n, device=DEV, dtype=dt), torch.randn(n, n, device=DEV, dtype=dt)) for _ in range(3)]
            out = torch.empty(n, n, device=DEV, dtype=dt)
            if n < 4096 and DEV.type == "cuda":  # captured, so that launches do not hide the kernel
                g, _ = capture(lambda: [torch.mm(*sets[i % 3], out=out) for i in range(50)])
                r = rounds(lambda i: g.replay(), 20)
                r["us_per_step"] /= 50
            else:
                r = rounds(lambda i: torch.mm(*sets[i % 3], out=out), A.steps or 20, warm=20)
            emit("gemm", f"{name}-{n}", tflops=2 * n**3 / r["us_per_step"] / 1e6, us_per_step=r["us_per_step"])


def run_conv(variants):
    """one 3x3 (or 1x1) bf16 channels_last convolution, forward and forward+backward"""
    torch.backends.cudnn.benchmark = True
    for n, c, hw, k, r in (
        (512, 64, 32, 64, 3),
        (512, 128, 16, 128, 3),
        (512, 256, 8, 256, 3),
        (512, 512, 4, 512, 3),
        (128, 256, 56, 64, 1),
    ):
        x = torch.randn(n, c, hw, hw, device=DEV, dtype=torch.bfloat16).to(memory_format=torch.channels_last).requires_grad_()
        w = (torch.randn(k, c, r, r, device=DEV, dtype=torch.bfloat16) * 0.05).to(memory_format=torch.channels_last).requires_grad_()
        gy = torch.randn(n, k, hw, hw, device=DEV, dtype=torch.bfloat16).to(memory_format=torch.channels_last)
        fwd = lambda: F.conv2d(x, w, padding=r // 2)
        bwd = lambda: torch.ops.aten.convolution_backward(
            gy, x, w, None, [1, 1], [r // 2] * 2, [1, 1], False, [0, 0], 1, [True, True, False]
        )
        out = {}
        for nm, f in (("fwd", fwd), ("bwd", bwd)):
            with torch.no_grad():
                for _ in range(3):
                    f()
                g, _ = capture(lambda: [f() for _ in range(20)])
                out[nm] = rounds(lambda i: g.replay(), 10)["us_per_step"] / 20
        fl = 2 * n * k * hw * hw * c * r * r / 1e6
        emit(
            "conv",
            f"n{n} c{c} {hw}x{hw} k{k} {r}x{r}",
            fwd_us=out["fwd"],
            fwd_tflops=fl / out["fwd"],
            bwd_us=out["bwd"],
            bwd_tflops=2 * fl / out["bwd"],
        )


def run_copy(variants):
    for mib in (1, 4, 16, 64, 256, 2048):
        n = mib << 18
        to, within = torch.empty(n, device=DEV), torch.randn(n, device=DEV)
        other = torch.randn(n)
        pinned = other.pin_memory() if DEV.type == "cuda" else other
        for variant, source, moved in (("within-device", within, 2), ("pinned-to-device", pinned, 1), ("other-to-device", other, 1)):
            r = rounds(lambda i, source=source: to.copy_(source, non_blocking=True), A.steps or 20)
            emit("copy", variant, mib=mib, gb_per_s=moved * n * 4 / r["us_per_step"] / 1e3, **r)


def main():
    global A, DEV
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--workload", required=True)
    p.add_argument("--steps", type=int, default=0)
    p.add_argument("--batch", type=int, default=0)
    p.add_argument("--variant", default="all")
    p.add_argument("--mode", default="max-autotune", help="torch.compile mode of the mlp and tiny variants")
    p.add_argument("--conv-mode", default="default", help="torch.compile mode of resnet and gpt2")
    p.add_argument("--tf32", action="store_true")
    p.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    A = p.parse_args()
    DEV = torch.device(A.device)
    if A.tf32:
        torch.set_float32_matmul_precision("high")
    allv = {
        "mlp": "eager,eager-fused,graph,compile,compile-whole,compile-graph",
        "tiny": "eager,eager-fused,graph,compile-whole,compile-graph",
        "lbfgs": "eager,compile",
        "resnet18": "eager,compile,compile-graph",
        "resnet50": "eager,compile",
        "gpt2": "eager-fused,compile",
    }
    for w in A.workload.split(","):
        v = allv.get(w, "") if A.variant == "all" else A.variant
        globals()["run_" + w](v.split(","))


if __name__ == "__main__":
    main()
