"""Trajectories of torch.optim.LBFGS on a small network in f64, and objectives that SciPy's L-BFGS-B ends at.

Takes nothing; gives lbfgs.json: settings as our options, and after each call of step() the parameters, the loss before it, and the counts.
It never stores what the network computes: that is the matter of the layers' own files.
"""
import csv
import gzip
import json
import pathlib

import numpy as np
import scipy
import torch
from scipy.optimize import minimize

from common import HERE, start, write_json

ROWS, IN, HIDDEN, OUT, BATCHES, STEPS = 24, 5, 8, 3, 3, 20
TABLES = HERE.parent.parent.parent.parent / "data" / "tables"


def network():
    return torch.nn.Sequential(torch.nn.Linear(IN, HIDDEN), torch.nn.Tanh(), torch.nn.Linear(HIDDEN, OUT))


def rounded(t):
    """What f32 holds, as f64."""
    return t.float().double()


def trajectory(case, init, x, y):
    net = network().double()
    net.load_state_dict(init)
    torch_options = {k: v for k, v in case["rule"].items() if k not in ("type", "line_search", "weight_decay")}
    wolfe = case["rule"].get("line_search", "strong_wolfe") == "strong_wolfe"
    opt = torch.optim.LBFGS(net.parameters(), line_search_fn="strong_wolfe" if wolfe else None, **torch_options)
    decay = case["rule"].get("weight_decay", 0.0)
    losses, params, evals, iters = [], [], [], []
    for step in range(case["steps"]):
        batch = step % BATCHES if case["batches"] else 0

        def closure():
            opt.zero_grad()
            loss = torch.nn.functional.cross_entropy(net(x[batch]), y[batch])
            loss = loss + sum(0.5 * decay * p.square().sum() for p in net.parameters())
            loss.backward()
            return loss

        losses.append(opt.step(closure).item())
        state = opt.state[next(net.parameters())]
        evals.append(state["func_evals"])
        iters.append(state["n_iter"])
        params.append([v for p in net.parameters() for v in p.detach().flatten().tolist()])
    return dict(case, losses=losses, params=params, evals=evals, iters=iters)


def table(name, classes):
    """Standardized features (f64) and labels of the last column."""
    path = TABLES / name
    opened = gzip.open(path, "rt") if path.suffix == ".gz" else open(path)
    rows = list(csv.reader(opened))
    rows = rows[1:] if len(rows[0]) != len(rows[1]) else rows  # the first line of some says what is in the table
    data = np.array([[float(v) for v in row[:-1]] for row in rows])
    names = sorted({row[-1] for row in rows})
    labels = np.array([names.index(row[-1]) for row in rows])
    assert len(names) == classes, names
    std = data.std(0)
    return (data - data.mean(0)) / np.where(std == 0, 1, std), labels


def objective(name, classes, decay):
    """The least mean cross-entropy of a linear model with decay on all its parameters."""
    x, labels = table(name, classes)
    n, features = x.shape
    hot = np.eye(classes)[labels]

    def value(p):
        w, b = p[: classes * features].reshape(classes, features), p[classes * features :]
        z = x @ w.T + b
        z -= z.max(1, keepdims=True)
        log = z - np.log(np.exp(z).sum(1, keepdims=True))
        d = (np.exp(log) - hot) / n
        grad = np.concatenate([(d.T @ x).ravel(), d.sum(0)]) + decay * p
        return -(log * hot).sum() / n + 0.5 * decay * p @ p, grad

    found = minimize(value, np.zeros(classes * (features + 1)), jac=True, method="L-BFGS-B",
                     options=dict(maxcor=10, maxiter=5000, maxfun=20000, ftol=1e-15, gtol=1e-9))
    return dict(table=name, classes=classes, decay=decay, objective=float(found.fun), evals=int(found.nfev))


def main():
    start(11)
    x = rounded(torch.randn(BATCHES, ROWS, IN))
    y = torch.randint(0, OUT, (BATCHES, ROWS))
    init = {k: rounded(v) for k, v in network().state_dict().items()}
    tight = dict(tolerance_grad=0.0, tolerance_change=0.0)
    wolfe = dict(type="lbfgs", lr=1.0, max_iter=1, max_eval=25, history_size=10, line_search="strong_wolfe", **tight)
    fixed = dict(type="lbfgs", lr=0.5, max_iter=1, max_eval=25, history_size=10, line_search="fixed", **tight)
    cases = [
        dict(id="wolfe", rule=wolfe, batches=False, steps=STEPS),
        dict(id="wolfe_short_history", rule=dict(wolfe, history_size=2), batches=False, steps=STEPS),
        dict(id="wolfe_several_iterations", rule=dict(wolfe, max_iter=4, max_eval=7), batches=False, steps=8),
        dict(id="wolfe_long_first_step", rule=dict(wolfe, lr=30.0), batches=False, steps=STEPS),
        dict(id="wolfe_batches", rule=wolfe, batches=True, steps=12),
        dict(id="wolfe_decay", rule=dict(wolfe, weight_decay=0.01), batches=False, steps=STEPS),
        dict(id="wolfe_few_evaluations", rule=dict(wolfe, lr=8.0, max_eval=2), batches=False, steps=STEPS),
        dict(id="wolfe_until_it_converges", batches=False, steps=1,
             rule=dict(wolfe, max_iter=100, max_eval=125, weight_decay=0.01, tolerance_grad=1e-6, tolerance_change=1e-9)),
        dict(id="fixed", rule=fixed, batches=False, steps=STEPS),
        dict(id="fixed_several_iterations", rule=dict(fixed, max_iter=5), batches=False, steps=4),
        dict(id="fixed_batches", rule=dict(fixed, lr=0.05), batches=True, steps=12),
    ]
    head = dict(
        scipy=scipy.__version__,
        x=x.tolist(), y=y.tolist(),
        init={k: v.flatten().tolist() for k, v in init.items()},
        objectives=[objective("breast_cancer.csv", 2, 1e-3), objective("digits.csv.gz", 10, 1e-3)],
    )
    write_json("lbfgs", head, [trajectory(c, init, x, y) for c in cases])


if __name__ == "__main__":
    main()
