"""Fits by scipy.optimize.least_squares (MINPACK's Levenberg-Marquardt), in f64.

Takes nothing; gives least_squares.json: by problem the points, the values, where the fit starts, where it ends, and half the sum of squares there.
"""
import json
import pathlib

import numpy as np
import scipy
from scipy.optimize import least_squares

HERE = pathlib.Path(__file__).resolve().parent.parent


def decay(p, t):
    return p[0] * np.exp(-p[1] * t) + p[2]


def saturation(p, t):
    return p[0] * t / (p[1] + t)


def peak(p, t):
    return p[0] * np.exp(-0.5 * ((t - p[1]) / p[2]) ** 2) + p[3]


def valley(p, t):
    return np.array([10.0 * (p[1] - p[0] ** 2), 1.0 - p[0]])


PROBLEMS = [
    ("decay", decay, np.linspace(0.0, 4.0, 20), [2.5, 1.3, 0.5], [1.0, 1.0, 0.0]),
    ("saturation", saturation, np.linspace(0.1, 8.0, 15), [3.0, 0.8], [1.0, 2.0]),
    ("peak", peak, np.linspace(-3.0, 3.0, 31), [2.0, 0.4, 0.7, 0.1], [1.0, 0.0, 1.0, 0.0]),
    ("valley", valley, np.zeros(2), None, [-1.2, 1.0]),
]


def main():
    rng = np.random.default_rng(3)
    cases = []
    for name, model, t, true, start in PROBLEMS:
        y = np.zeros(2) if true is None else model(true, t) + 0.05 * rng.standard_normal(len(t))
        fit = least_squares(lambda p: model(p, t) - y, start, method="lm", xtol=1e-15, ftol=1e-15, gtol=1e-15)
        cases.append({"id": name, "t": t.tolist(), "y": y.tolist(), "start": start, "x": fit.x.tolist(), "cost": float(fit.cost)})
    head = {"scipy": scipy.__version__, "cases": cases}
    (HERE / "least_squares.json").write_text(json.dumps(head) + "\n")


if __name__ == "__main__":
    main()
