"""Writes metrics.json next to this file: inputs and what scikit-learn says of them.

    pip install scikit-learn==1.9.1 && python metrics.py

The Rust test feeds the same inputs in batches of the listed sizes and compares.
"""

import json
import math
import pathlib
import warnings

import numpy as np
import sklearn
from sklearn import metrics as m

warnings.filterwarnings("ignore")
rng = np.random.default_rng(20240607)


def f32(values):
    """The shortest decimal of each float32, so that the file stays small and reads back to the same bits."""
    return [float(str(v)) for v in np.asarray(values, np.float32).ravel()]


def number(value):
    value = float(value)
    return None if math.isnan(value) else value


def batches(n):
    sizes = []
    while n:
        size = min(n, int(rng.integers(1, max(2, n))))
        sizes.append(size)
        n -= size
    return sizes


def classes_case(name, scores, labels, n_classes):
    scores = np.asarray(scores, np.float32)
    labels = np.asarray(labels)
    every = list(range(n_classes))
    predicted = scores.argmax(axis=1)
    per_class = m.precision_recall_fscore_support(labels, predicted, labels=every, zero_division=0)
    case = {
        "name": name, "n_classes": n_classes, "scores": f32(scores), "labels": labels.tolist(),
        "batches": batches(len(labels)),
        "accuracy": m.accuracy_score(labels, predicted),
        "confusion": m.confusion_matrix(labels, predicted, labels=every).ravel().tolist(),
        "precision": per_class[0].tolist(), "recall": per_class[1].tolist(), "f1": per_class[2].tolist(),
        "support": [int(v) for v in per_class[3]],
    }
    for average in ("macro", "micro", "weighted"):
        case[average] = [
            float(v) for v in m.precision_recall_fscore_support(
                labels, predicted, labels=every, average=average, zero_division=0)[:3]
        ]
    # For two classes scikit-learn wants one score per row, which is another metric than the one of rows of scores.
    case["top_k"] = [] if n_classes < 3 else [
        [k, float(m.top_k_accuracy_score(labels, scores, k=k, labels=every))] for k in (1, 2, 3, 5, n_classes)
    ]
    return case


def one_vs_rest_case(name, logits, labels, n_classes, quantum=None):
    logits = np.asarray(logits, np.float64)
    probs = np.exp(logits - logits.max(axis=1, keepdims=True))
    probs /= probs.sum(axis=1, keepdims=True)
    if quantum:  # ties: a few levels, and the last class takes what is left
        probs = np.floor(probs * quantum) / quantum
        probs[:, -1] = 1 - probs[:, :-1].sum(axis=1)
    probs = probs.astype(np.float32)
    labels = np.asarray(labels)
    every = list(range(n_classes))
    one_hot = (labels[:, None] == np.arange(n_classes)).astype(int)
    present = one_hot.any(axis=0)
    auc = [number(m.roc_auc_score(one_hot[:, c], probs[:, c])) for c in every]
    ap = [number(m.average_precision_score(one_hot[:, c], probs[:, c])) if present[c] else None for c in every]
    auc_macro = m.roc_auc_score(labels, probs.astype(np.float64), multi_class="ovr", average="macro", labels=every) \
        if present.all() and n_classes > 2 else (np.mean(auc) if None not in auc else float("nan"))
    ap_macro = m.average_precision_score(one_hot, probs) if present.all() else float("nan")
    logits32 = logits.astype(np.float32)
    log_probs = logits32.astype(np.float64)
    log_probs -= log_probs.max(axis=1, keepdims=True)
    log_probs -= np.log(np.exp(log_probs).sum(axis=1, keepdims=True))
    of_logits = -log_probs[np.arange(len(labels)), labels].mean()
    if log_probs.min() > -30:  # beyond that scikit-learn clips, and a loss of logits should not
        assert np.isclose(of_logits, m.log_loss(labels, np.exp(log_probs), labels=every), rtol=1e-13)
    return {
        "name": name, "n_classes": n_classes, "probs": f32(probs), "logits": f32(logits32), "labels": labels.tolist(),
        "batches": batches(len(labels)), "roc_auc": auc, "average_precision": ap,
        "roc_auc_macro": number(auc_macro), "average_precision_macro": number(ap_macro),
        "log_loss": float(m.log_loss(labels, probs, labels=every)) if n_classes > 1 else None,
        "log_loss_logits": float(of_logits),
    }


def binary_case(name, scores, labels):
    scores = np.asarray(scores, np.float32)
    labels = np.asarray(labels)
    predicted = (scores > 0.5).astype(int)
    return {
        "name": name, "scores": f32(scores), "labels": labels.tolist(), "batches": batches(len(labels)),
        "roc_auc": number(m.roc_auc_score(labels, scores)) if 0 < labels.sum() < len(labels) else None,
        "average_precision": number(m.average_precision_score(labels, scores)) if labels.any() else None,
        "confusion_above_half": m.confusion_matrix(labels, predicted, labels=[0, 1]).ravel().tolist(),
    }


def regression_case(name, predicted, targets):
    predicted = np.asarray(predicted, np.float32)
    targets = np.asarray(targets, np.float32)
    p, t = predicted.astype(np.float64), targets.astype(np.float64)
    return {
        "name": name, "n_outputs": 1 if p.ndim == 1 else p.shape[1], "predicted": f32(predicted),
        "targets": f32(targets), "batches": batches(len(p)),
        "mae": float(m.mean_absolute_error(t, p)), "mse": float(m.mean_squared_error(t, p)),
        "rmse": float(m.root_mean_squared_error(t, p)), "r2": number(m.r2_score(t, p)),
    }


def grid(shape, levels):
    """Scores on few levels: many ties."""
    return rng.integers(0, levels, shape) / levels


classes = []
for n_classes, n in ((2, 1), (2, 57), (3, 40), (5, 90), (10, 120), (37, 60)):
    labels = rng.integers(0, n_classes, n)
    scores = rng.standard_normal((n, n_classes)) + 1.5 * np.eye(n_classes)[labels]
    classes.append(classes_case(f"random {n_classes} classes, {n} rows", scores.astype(np.float16), labels, n_classes))
    classes.append(classes_case(f"ties {n_classes} classes, {n} rows", grid((n, n_classes), 3), labels, n_classes))
classes.append(classes_case("all scores equal", np.zeros((12, 4)), rng.integers(0, 4, 12), 4))
classes.append(classes_case("one class only, always right", np.eye(3)[[1] * 6], [1] * 6, 3))
classes.append(classes_case("never predicts class 2", grid((30, 5), 9) * [1, 1, 0, 1, 1], rng.integers(0, 5, 30), 5))
classes.append(classes_case("always wrong", np.eye(4)[[1, 2, 3, 0]], [0, 1, 2, 3], 4))
classes.append(classes_case("large scores", (grid((25, 6), 50) - 0.5) * 1e30, rng.integers(0, 6, 25), 6))
classes.append(classes_case("skewed", grid((80, 3), 7) + [0.9, 0, 0], rng.choice(3, 80, p=[0.9, 0.08, 0.02]), 3))

one_vs_rest = []
for n_classes, n in ((3, 30), (4, 75), (10, 90)):
    labels = np.concatenate([np.arange(n_classes), rng.integers(0, n_classes, n - n_classes)])
    logits = (rng.standard_normal((n, n_classes)) + np.eye(n_classes)[labels]).astype(np.float16)
    one_vs_rest.append(one_vs_rest_case(f"random {n_classes} classes", logits, labels, n_classes))
    one_vs_rest.append(one_vs_rest_case(f"ties {n_classes} classes", logits, labels, n_classes, quantum=8))
one_vs_rest.append(one_vs_rest_case("class 3 never occurs", rng.standard_normal((20, 4)), rng.integers(0, 3, 20), 4))
one_vs_rest.append(one_vs_rest_case("sure of itself", 60 * np.eye(3)[[0, 1, 2, 0, 1, 2]], [0, 1, 2, 1, 1, 2], 3))
one_vs_rest.append(one_vs_rest_case("large logits", 100 * rng.standard_normal((20, 3)) / 8,
                                    np.concatenate([[0, 1, 2], rng.integers(0, 3, 17)]), 3))

binary = []
for n in (2, 3, 10, 60, 200):
    labels = np.concatenate([[0, 1], rng.integers(0, 2, n - 2)])
    noise = rng.standard_normal(n) + labels
    binary.append(binary_case(f"random {n} rows", noise, labels))
    binary.append(binary_case(f"ties {n} rows", grid(n, 4) + 0.25 * labels, labels))
labels = np.array([0, 1] * 10)
binary.append(binary_case("all equal", np.full(20, 0.5), labels))
binary.append(binary_case("perfect", labels * 0.8 + 0.1, labels))
binary.append(binary_case("upside down", 0.9 - labels * 0.8, labels))
binary.append(binary_case("one positive among ties", [0.5] * 9 + [0.2], [0, 0, 1, 0, 0, 0, 0, 0, 0, 0]))
binary.append(binary_case("no positive", grid(9, 5), [0] * 9))
binary.append(binary_case("no negative", grid(9, 5), [1] * 9))
binary.append(binary_case("both zeros are one score", [0.0, -0.0, 0.0, -0.0, 1.0, -1.0], [1, 0, 0, 1, 0, 1]))
binary.append(binary_case("neighbours in float32", 0.5 + np.arange(8) * 2.0**-24, [0, 1, 0, 1, 1, 0, 1, 1]))

regression = []
for n in (1, 2, 3, 50, 150):
    t = rng.standard_normal(n) * 3 + 1
    regression.append(regression_case(f"random {n} rows", t + rng.standard_normal(n), t))
t = rng.standard_normal((40, 3)) * [1, 10, 100]
regression.append(regression_case("three outputs", t + rng.standard_normal((40, 3)), t))
regression.append(regression_case("targets far from zero", 1e6 + grid(60, 64), 1e6 + grid(60, 64)))
regression.append(regression_case("worse than the mean", -t[:, 0] * 4, t[:, 0]))
regression.append(regression_case("constant target, exact", [2.5] * 7, [2.5] * 7))
regression.append(regression_case("constant target, wrong", [2.5, 2.25, 3.0], [0.1, 0.1, 0.1]))
regression.append(regression_case("exact", t[:, 1], t[:, 1]))
mixed = np.stack([np.full(9, 4.0), np.arange(9.0)], axis=1)
regression.append(regression_case("one of two targets constant", mixed + 0.5, mixed))

out = {"scikit_learn": sklearn.__version__, "classes": classes, "one_vs_rest": one_vs_rest, "binary": binary,
       "regression": regression}
path = pathlib.Path(__file__).with_name("metrics.json")
lines = ['{"scikit_learn": ' + json.dumps(sklearn.__version__)]
for key in ("classes", "one_vs_rest", "binary", "regression"):
    rows = ",\n".join(json.dumps(case, allow_nan=False, separators=(",", ":")) for case in out[key])
    lines.append(f',"{key}": [\n{rows}\n]')
path.write_text("\n".join(lines) + "\n}\n")
print(path.name, path.stat().st_size, "bytes")
