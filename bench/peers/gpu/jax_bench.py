#!/usr/bin/env python3
"""JAX on a GPU: one JSON line per (workload, variant). Same command line as torch_bench.py.

  python3 jax_bench.py --workload mlp --steps 500

Workloads
  mlp       784-512-256-10 ReLU MLP, cross-entropy, Adam(1e-3), batch 64, fp32 (--tf32 for TF32)
  tiny      10-16-2 tanh MLP, batch 8
  gpt2      GPT-2 124M, context 1024, bf16 compute, fp32 parameters, AdamW, cuDNN flash attention, batch 32
  resnet18  CIFAR ResNet-18 (batch norm in training mode), NHWC, bf16, batch 512, SGD momentum
  lbfgs     the mlp, full batch 1024, optax.lbfgs (memory 10, zoom line search), whole iteration jitted

Variants
  jit    one jitted, donated step a call
  scan   100 steps a call in lax.scan (mlp and tiny)
"""

import argparse
import json
import os
import statistics
import time

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import optax  # noqa: E402

A = None


def emit(workload, variant, **kw):
    d = dict(framework="jax", version=jax.__version__, device=jax.devices()[0].device_kind, workload=workload, variant=variant)
    d.update({k: (float(f"{v:.6g}") if isinstance(v, float) else v) for k, v in kw.items()})
    print(json.dumps(d), flush=True)


def rounds(step, state, data, steps, per=1, n=5, warm=10):
    t = time.perf_counter()
    l0 = None
    for i in range(warm):
        state, l = step(state, *data[i % len(data)])
        if l0 is None:
            l0 = float(jnp.ravel(l)[0])
    jax.block_until_ready((state, l))
    first = time.perf_counter() - t
    out, k, calls = [], 0, max(1, steps // per)
    for _ in range(n):
        jax.block_until_ready(state)
        t = time.perf_counter()
        for _ in range(calls):
            state, l = step(state, *data[k % len(data)])
            k += 1
        jax.block_until_ready((state, l))
        out.append((time.perf_counter() - t) / (calls * per))
    return dict(
        us_per_step=statistics.median(out) * 1e6,
        us_min=min(out) * 1e6,
        us_max=max(out) * 1e6,
        steps=calls * per,
        rounds=n,
        warmup_s=first,
        loss_first=l0,
        loss_last=float(jnp.ravel(l)[-1]),
    )


def class_data(n, d, c, batch):
    k1, k2 = jax.random.split(jax.random.key(1))
    x = jax.random.normal(k1, (n, d))
    y = jnp.argmax(x @ jax.random.normal(k2, (d, c)), 1)
    return [(x[i : i + batch], y[i : i + batch]) for i in range(0, n, batch)]


def dense_init(key, sizes):
    p = []
    for i in range(len(sizes) - 1):
        key, a, b = jax.random.split(key, 3)
        s = 1 / sizes[i] ** 0.5
        p.append(
            (
                jax.random.uniform(a, (sizes[i], sizes[i + 1]), minval=-s, maxval=s),
                jax.random.uniform(b, (sizes[i + 1],), minval=-s, maxval=s),
            )
        )
    return p


def dense(p, x, act):
    for w, b in p[:-1]:
        x = act(x @ w + b)
    return x @ p[-1][0] + p[-1][1]


def xent(z, y):
    return optax.softmax_cross_entropy_with_integer_labels(z.astype(jnp.float32), y).mean()


def net(name, sizes, act, batch, variants, steps):
    data = class_data(batch * 100, sizes[0], sizes[-1], batch)
    opt = optax.adam(1e-3)

    def one(state, x, y):
        p, o = state
        l, g = jax.value_and_grad(lambda p: xent(dense(p, x, act), y))(p)
        u, o = opt.update(g, o, p)
        return (optax.apply_updates(p, u), o), l

    for v in variants:
        p = dense_init(jax.random.key(0), sizes)
        state = (p, opt.init(p))
        if v == "jit":
            r = rounds(jax.jit(one, donate_argnums=0), state, data, steps)
        else:
            xs, ys = jnp.stack([d[0] for d in data]), jnp.stack([d[1] for d in data])
            many = jax.jit(lambda s, x, y: jax.lax.scan(lambda s, b: one(s, *b), s, (x, y)), donate_argnums=0)
            r = rounds(many, state, [(xs, ys)], steps, per=100, warm=2)
        emit(name, v, batch=batch, tf32=A.tf32, **r)


def run_mlp(v):
    net("mlp", [784, 512, 256, 10], jax.nn.relu, A.batch or 64, v, A.steps or 500)


def run_tiny(v):
    net("tiny", [10, 16, 2], jnp.tanh, A.batch or 8, v, A.steps or 500)


def run_lbfgs(v):
    n = A.batch or 1024
    ((x, y),) = class_data(n, 784, 10, n)
    f = lambda p: xent(dense(p, x, jax.nn.relu), y)
    opt = optax.lbfgs(memory_size=10)
    vg = optax.value_and_grad_from_state(f)

    def one(state, *_):
        p, o = state
        l, g = vg(p, state=o)
        u, o = opt.update(g, o, p, value=l, grad=g, value_fn=f)
        return (optax.apply_updates(p, u), o), l

    p = dense_init(jax.random.key(0), [784, 512, 256, 10])
    r = rounds(jax.jit(one, donate_argnums=0), jax.tree.map(jnp.copy, (p, opt.init(p))), [()], A.steps or 20, n=3, warm=2)
    emit("lbfgs", "jit", ms_per_iteration=r["us_per_step"] / 1e3, batch=n, **r)


def run_gpt2(v):
    small = jax.devices()[0].platform == "cpu"
    L, C, H, T, V = (2, 64, 2, 64, 512) if small else (12, 768, 12, 1024, 50304)
    b = A.batch or 32
    key = jax.random.key(0)
    nrm = lambda k, *s: 0.02 * jax.random.normal(k, s)
    ks = jax.random.split(key, 6)
    p = dict(
        wte=nrm(ks[0], V, C),
        wpe=nrm(ks[1], T, C),
        lnf=(jnp.ones(C), jnp.zeros(C)),
        blocks=dict(
            ln1=(jnp.ones((L, C)), jnp.zeros((L, C))),
            ln2=(jnp.ones((L, C)), jnp.zeros((L, C))),
            qkv=(nrm(ks[2], L, C, 3 * C), jnp.zeros((L, 3 * C))),
            proj=(nrm(ks[3], L, C, C), jnp.zeros((L, C))),
            fc=(nrm(ks[4], L, C, 4 * C), jnp.zeros((L, 4 * C))),
            out=(nrm(ks[5], L, 4 * C, C), jnp.zeros((L, C))),
        ),
    )
    n = sum(a.size for a in jax.tree.leaves(p))

    def ln(x, g):
        x = x.astype(jnp.float32)
        m = x.mean(-1, keepdims=True)
        s = jax.lax.rsqrt(((x - m) ** 2).mean(-1, keepdims=True) + 1e-5)
        return ((x - m) * s * g[0] + g[1]).astype(jnp.bfloat16)

    def block(x, q):
        h = ln(x, q["ln1"])
        z = h @ q["qkv"][0].astype(jnp.bfloat16) + q["qkv"][1].astype(jnp.bfloat16)
        a, k, w = (t.reshape(b, T, H, C // H) for t in jnp.split(z, 3, -1))
        y = jax.nn.dot_product_attention(a, k, w, is_causal=True, implementation=None if small else "cudnn").reshape(b, T, C)
        x = x + y @ q["proj"][0].astype(jnp.bfloat16) + q["proj"][1].astype(jnp.bfloat16)
        h = jax.nn.gelu(ln(x, q["ln2"]) @ q["fc"][0].astype(jnp.bfloat16) + q["fc"][1].astype(jnp.bfloat16), approximate=True)
        return x + h @ q["out"][0].astype(jnp.bfloat16) + q["out"][1].astype(jnp.bfloat16), None

    def loss(p, i, y):
        w = p["wte"].astype(jnp.bfloat16)
        x = w[i] + p["wpe"].astype(jnp.bfloat16)
        for l in range(L):
            x, _ = block(x, jax.tree.map(lambda a: a[l], p["blocks"]))
        return xent(ln(x, p["lnf"]) @ w.T, y)

    opt = optax.adamw(6e-4, b1=0.9, b2=0.95, weight_decay=0.1)

    def one(state, i, y):
        p, o = state
        l, g = jax.value_and_grad(loss)(p, i, y)
        u, o = opt.update(g, o, p)
        return (optax.apply_updates(p, u), o), l

    data = [tuple(jax.random.randint(k, (b, T), 0, V) for k in jax.random.split(jax.random.key(s))) for s in range(4)]
    r = rounds(jax.jit(one, donate_argnums=0), (p, opt.init(p)), data, A.steps or 20, n=3, warm=4)
    tps = b * T / r["us_per_step"] * 1e6
    flop = 6 * n + 12 * L * C * T
    emit("gpt2", "jit", batch=b, context=T, parameters=int(n), tokens_per_s=tps, tflops=tps * flop / 1e12, mfu=tps * flop / 989.4e12, **r)


def run_resnet18(v):
    b = A.batch or 512
    key = iter(jax.random.split(jax.random.key(0), 64))

    def cw(k, i, o):
        return jax.random.normal(next(key), (k, k, i, o)) * (2 / (k * k * o)) ** 0.5

    def bn(c):
        return dict(g=jnp.ones(c), b=jnp.zeros(c))

    p = dict(stem=cw(3, 3, 64), stem_bn=bn(64), fc=(jax.random.normal(next(key), (512, 10)) * 0.04, jnp.zeros(10)), blocks=[])
    plan, cin = [], 64
    for c, s in ((64, 1), (64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), (512, 1)):
        d = dict(c1=cw(3, cin, c), n1=bn(c), c2=cw(3, c, c), n2=bn(c))
        if s != 1 or cin != c:
            d["cd"], d["nd"] = cw(1, cin, c), bn(c)
        p["blocks"].append(d)
        plan.append(s)
        cin = c

    def conv(x, w, s=1):
        return jax.lax.conv_general_dilated(x, w.astype(jnp.bfloat16), (s, s), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    def norm(x, q):
        f = x.astype(jnp.float32)
        m = f.mean((0, 1, 2))
        v = (f * f).mean((0, 1, 2)) - m * m
        return ((f - m) * jax.lax.rsqrt(v + 1e-5) * q["g"] + q["b"]).astype(jnp.bfloat16)

    def fwd(p, x):
        x = jax.nn.relu(norm(conv(x, p["stem"]), p["stem_bn"]))
        for d, s in zip(p["blocks"], plan):
            h = jax.nn.relu(norm(conv(x, d["c1"], s), d["n1"]))
            h = norm(conv(h, d["c2"]), d["n2"])
            x = jax.nn.relu(h + (norm(conv(x, d["cd"], s), d["nd"]) if "cd" in d else x))
        return x.astype(jnp.float32).mean((1, 2)) @ p["fc"][0] + p["fc"][1]

    opt = optax.sgd(0.05, momentum=0.9)

    def one(state, x, y):
        p, o = state
        l, g = jax.value_and_grad(lambda p: xent(fwd(p, x), y))(p)
        u, o = opt.update(g, o, p)
        return (optax.apply_updates(p, u), o), l

    data = [
        (jax.random.normal(jax.random.key(s), (b, 32, 32, 3), jnp.bfloat16), jax.random.randint(jax.random.key(s + 9), (b,), 0, 10))
        for s in range(4)
    ]
    r = rounds(jax.jit(one, donate_argnums=0), (p, opt.init(p)), data, A.steps or 30, n=3, warm=4)
    emit(
        "resnet18",
        "jit",
        batch=b,
        per_second=b / r["us_per_step"] * 1e6,
        tflops=b * 3 * 2 * 0.5559e9 / (r["us_per_step"] * 1e-6) / 1e12,
        **r,
    )


def main():
    global A
    q = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    q.add_argument("--workload", required=True)
    q.add_argument("--steps", type=int, default=0)
    q.add_argument("--batch", type=int, default=0)
    q.add_argument("--variant", default="all")
    q.add_argument("--tf32", action="store_true")
    A = q.parse_args()
    # like PyTorch, full fp32 products unless --tf32 is given (JAX's own default on this GPU is TF32)
    jax.config.update("jax_default_matmul_precision", "tensorfloat32" if A.tf32 else "float32")
    for w in A.workload.split(","):
        if w in ("gpt2", "resnet18"):
            jax.config.update("jax_default_matmul_precision", None)
        v = {"mlp": "jit,scan", "tiny": "jit,scan"}.get(w, "jit") if A.variant == "all" else A.variant
        try:
            globals()["run_" + w](v.split(","))
        except Exception as e:
            emit(w, v, error=f"{type(e).__name__}: {str(e)[:300]}")


if __name__ == "__main__":
    main()
