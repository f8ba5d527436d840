#!/usr/bin/env python3
"""Runs every peer on every workload, interleaved, and appends the JSON lines to a file.

    run_all.py --out results.jsonl --repeats 3 [--only PEER,..] [--workloads W,..]
    run_all.py --out results.jsonl --ours "PATH/wholestep bench" [--ours NEW="OTHER/wholestep bench"]   # interleaved with the peers
    run_all.py --out results.jsonl --table          # the summary, no runs

--ours takes a program with its arguments (the same options, the same JSON line; README.md), labelled "ours" or by LABEL=.
PEERS below names the command of each; edit the paths to where they were installed (README.md).
"""
import argparse
import collections
import json
import os
import re
import shlex
import shutil
import statistics
import subprocess
import time

HERE = os.path.dirname(os.path.abspath(__file__))
P = os.environ.get("PEERS", os.path.expanduser("~/.cache/peers"))
PY = lambda venv, f: [f"{P}/{venv}/bin/python", f"{HERE}/{f}"]  # noqa: E731
TRAIN = ["mlp_b64", "mlp_b512", "tiny_b8", "cnn_b64", "resnet18_b32", "gpt_b16", "lstm_b32", "lbfgs_mlp"]
INFER = ["cnn_infer_b1", "gpt_infer_b1"]
ALL = TRAIN + INFER
# label -> (command, workloads)
PEERS = {
    "torch eager": (PY("venv-torch", "torch_peer.py") + ["--mode", "eager"], ALL),
    "torch eager+fused opt": (PY("venv-torch", "torch_peer.py") + ["--mode", "eager-fused"], [w for w in TRAIN if w != "lbfgs_mlp"]),
    "torch.compile": (PY("venv-torch", "torch_peer.py") + ["--mode", "compile"], ALL),
    "jax jit": (PY("venv-jax", "jax_peer.py") + ["--mode", "jit"], ALL),
    "jax scan x100": (PY("venv-jax", "jax_peer.py") + ["--mode", "scan"], ["tiny_b8", "mlp_b64"]),
    "onnxruntime": (PY("venv-tiny", "ort_peer.py"), INFER),
    "tinygrad": (PY("venv-tiny", "tinygrad_peer.py"), [w for w in ALL if w != "lbfgs_mlp"]),
    "candle": ([f"{P}/bin/candle"], [w for w in ALL if w != "lbfgs_mlp"]),
    "candle+avx512": ([f"{P}/bin/candle-avx512"], [w for w in ALL if w != "lbfgs_mlp"]),
    "burn flex": ([f"{P}/bin/burn", "--mode", "flex"], ALL),
    "burn flex+avx512": ([f"{P}/bin/burn-avx512", "--mode", "flex"], ALL),
    "burn ndarray": ([f"{P}/bin/burn", "--mode", "ndarray"], [w for w in ALL if w not in ("cnn_b64", "resnet18_b32")]),
}


def canary():
    """GFLOP/s of two threads for a moment. A shared host can take half of the machine away for
    minutes at a time without any load showing in here; runs in such minutes are done again."""
    try:
        return float(subprocess.run([f"{P}/bin/peak", "--canary"], capture_output=True, text=True).stdout)
    except (OSError, ValueError):
        return 0.0


def one(cmd, w, timeout):
    try:
        p = subprocess.run(cmd + ["--workload", w], capture_output=True, text=True, timeout=timeout)
        return json.loads(p.stdout.strip().splitlines()[-1])
    except OSError as e:  # a peer that is not installed does not stop the others
        return dict(workload=w, unsupported=f"not installed: {e}")
    except subprocess.TimeoutExpired:
        return dict(workload=w, unsupported=f"not done in {timeout} s")
    except (IndexError, ValueError):
        return dict(workload=w, unsupported="failed: " + p.stderr.strip()[-300:])


def own(specs):
    """label -> (command, workloads) of the programs given with --ours."""
    found = {}
    for spec in specs:
        label, command = re.fullmatch(r"(?:([\w.+-]+)=)?(.+)", spec).groups()
        label, words = label or "ours", shlex.split(command)
        if not shutil.which(words[0]):
            raise SystemExit(f"--ours {spec}: there is no program {words[0]}")
        if label in found or label in PEERS:
            raise SystemExit(f"--ours {spec}: two programs are called {label}; say LABEL=COMMAND")
        found[label] = ([os.path.abspath(shutil.which(words[0]))] + words[1:], ALL)
    return found


def run(args):
    ours = own(args.ours)
    commands = ours | PEERS
    chosen = args.only.split(",") if args.only else []
    unknown = [x for x in chosen if x not in PEERS]
    if unknown:
        raise SystemExit(f"--only {unknown}: the peers are {', '.join(PEERS)}")
    full = max([args.full] + [canary() for _ in range(8)])
    todo = args.workloads.split(",") if args.workloads else ALL
    only = list(ours) + (list(PEERS) if args.only is None else chosen)
    for rep in range(args.repeats):
        for w in todo:
            for label in only:
                cmd, has = commands[label]
                if w not in has:
                    continue
                for attempt in range(args.tries):
                    for _ in range(12):  # wait up to a minute for a quiet machine
                        before = canary()
                        if before >= 0.92 * full:
                            break
                        time.sleep(5)
                    line = one(cmd, w, args.timeout)
                    after = canary()
                    full = max(full, before, after)
                    line.update(label=label, repeat=rep, attempt=attempt, quiet=round(min(before, after) / full, 2) if full else None)
                    with open(args.out, "a") as f:
                        f.write(json.dumps(line) + "\n")
                    print(rep, w, label, line.get("median_ms", line.get("unsupported")), line["quiet"], flush=True)
                    if "unsupported" in line or not full or line["quiet"] >= 0.9:
                        break


def table(args):
    got = collections.defaultdict(list)
    clean = collections.defaultdict(bool)
    why = {}
    for line in open(args.out):
        d = json.loads(line)
        if "median_ms" in d:
            got[d["workload"], d["label"]].append(d)
            clean[d["workload"], d["label"]] |= (d.get("quiet") or 1) >= 0.9
        else:
            why[d["workload"], d["label"]] = d.get("unsupported", "?")
    for w in ALL:
        print(f"\n### {w}\n\n| peer | median ms | min ms | first step / compile s | peak RSS MB | loss first -> last | runs |\n|---|---|---|---|---|---|---|")
        rows = []
        for (ww, label), ds in got.items():
            if ww == w:
                if clean[ww, label]:  # leave out the runs that had half a machine
                    ds = [d for d in ds if (d.get("quiet") or 1) >= 0.9]
                med = statistics.median(d["median_ms"] for d in ds)
                first = max((d.get("compile_s") or 0) + d["first_step_s"] for d in ds)
                rows.append((med, f"| {label}{'' if clean[ww, label] else ' (noisy)'} | {med:.4g} | {min(d['min_ms'] for d in ds):.4g} | {first:.2f} | "
                                  f"{max(d['peak_rss_mb'] for d in ds):.0f} | {ds[-1]['loss_first']:.3f} -> {ds[-1]['loss_last']:.3f}"
                                  f"{' (evals %d)' % ds[-1]['evals'] if 'evals' in ds[-1] else ''} | {len(ds)} |"))
        print("\n".join(r for _, r in sorted(rows)))
        for (ww, label), y in why.items():
            if ww == w and (w, label) not in got:
                print(f"| {label} | - | - | - | - | {y} | |")


p = argparse.ArgumentParser()
p.add_argument("--out", required=True)
p.add_argument("--repeats", type=int, default=3)
p.add_argument("--only", help='comma-separated peers ("" for none)')
p.add_argument("--ours", action="append", default=[], metavar="[LABEL=]COMMAND", help="an own program to run beside the peers")
p.add_argument("--workloads")
p.add_argument("--tries", type=int, default=2, help="attempts when the machine was not quiet")
p.add_argument("--full", type=float, default=0, help="canary GFLOP/s of the whole quiet machine (0: best of 8 now)")
p.add_argument("--timeout", type=int, default=240)
p.add_argument("--table", action="store_true")
a = p.parse_args()
table(a) if a.table else run(a)
