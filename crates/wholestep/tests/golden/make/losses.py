"""Loss functions: value and gradient to every floating input, for each option, and for a list of batch sizes."""
import torch
import torch.nn.functional as F

from common import Group, probe, start

G = Group("losses")
BATCHES = [4, 8, 16, 24, 32, 8, 16, 12, 20, 1, 13]
REDUCTIONS = ("mean", "sum", "none")


def reduce(x, how):
    return {"mean": torch.mean, "sum": torch.sum, "none": lambda v: v}[how](x)


def cosine(x1, x2, t, margin, reduction):
    return F.cosine_embedding_loss(x1, x2, t, margin=margin, reduction=reduction)


def hinge(x, t, reduction):
    """max(0, 1 - t x) with t = -1 or 1."""
    return reduce(F.relu(1 - t * x), reduction)


def focal(x, t, alpha, gamma, reduction):
    """Lin et al. 2017, equation 5, on logits; alpha < 0 means no class balance (as torchvision's sigmoid_focal_loss)."""
    p = torch.sigmoid(x)
    ce = F.binary_cross_entropy_with_logits(x, t, reduction="none")
    p_t = p * t + (1 - p) * (1 - t)
    loss = ce * (1 - p_t) ** gamma
    if alpha >= 0:
        loss = (alpha * t + (1 - alpha) * (1 - t)) * loss
    return reduce(loss, reduction)


# loss -> (function of floating inputs and target, names of the floating inputs)
LOSSES = {
    "CrossEntropy": (F.cross_entropy, ["input"]),
    "BCE": (F.binary_cross_entropy, ["input"]),
    "BCEWithLogits": (F.binary_cross_entropy_with_logits, ["input"]),
    "NLL": (F.nll_loss, ["input"]),
    "MSE": (F.mse_loss, ["input"]),
    "L1": (F.l1_loss, ["input"]),
    "Huber": (F.huber_loss, ["input"]),
    "SmoothL1": (F.smooth_l1_loss, ["input"]),
    "KLDiv": (F.kl_div, ["input"]),
    "CosineEmbedding": (cosine, ["input1", "input2"]),
    "MultiMargin": (F.multi_margin_loss, ["input"]),
    "HingeEmbedding": (F.hinge_embedding_loss, ["input"]),
    "Hinge": (hinge, ["input"]),
    "SigmoidFocal": (focal, ["input"]),
}


def add(loss, inputs, target, reduction, config=None, weights=None, keys=None, group=None):
    """`weights` are tensors among the options (class weights, pos_weight); `keys` are those of tensors stored before."""
    function, names = LOSSES[loss]
    config, weights = config or {}, weights or {}
    case = G.new_id(loss.lower())

    def f(*xs):
        extra = {k: w.to(xs[0].dtype) for k, w in weights.items()}
        t = target.to(xs[0].dtype) if target.is_floating_point() else target
        return function(*xs, t, reduction=reduction, **extra, **config)
    outs, d_outs, grads = probe(f, inputs)
    if keys is None:
        keys = {"inputs": {n: G.put(f"{case}.{n}", x) for n, x in zip(names, inputs)}, "target": G.put(f"{case}.target", target),
                "weights": {k: G.put(f"{case}.{k}", w) for k, w in weights.items()}}
    record = dict(id=case, loss=loss, config=config, reduction=reduction, **keys, output=G.put(f"{case}.loss", outs[0]),
                  d_output=G.put(f"{case}.d_loss", d_outs[0]) if reduction == "none" else None,
                  d_inputs={n: G.put(f"{case}.d_{n}", g) for n, g in zip(names, grads)})
    if group:
        record["batches"] = group
    G.case(**record)
    return keys


def each(loss, inputs, target, config=None, weights=None, reductions=REDUCTIONS):
    keys = None
    for reduction in reductions:
        keys = add(loss, inputs, target, reduction, config, weights, keys)


def classes():
    x, y, w = torch.randn(6, 5) * 2, torch.tensor([0, 4, 2, 1, 3, 2]), torch.rand(5) + 0.2
    for smoothing in (0.0, 0.1):
        for weights in ({}, {"weight": w}):
            each("CrossEntropy", [x], y, dict(label_smoothing=smoothing), weights)
            ignored = torch.tensor([0, 2, 2, 1, -100, 2])
            each("CrossEntropy", [x], ignored, dict(label_smoothing=smoothing, ignore_index=-100), weights)
    each("CrossEntropy", [x], torch.tensor([0, 2, 2, 1, 3, 2]), dict(label_smoothing=0.0, ignore_index=2), {"weight": w})
    each("CrossEntropy", [torch.randn(3, 4, 5)], torch.randint(0, 4, (3, 5)), dict(label_smoothing=0.0))
    each("CrossEntropy", [torch.randn(2, 3, 4, 2)], torch.randint(0, 3, (2, 4, 2)), dict(label_smoothing=0.2), {"weight": torch.rand(3) + 0.1})
    big = torch.tensor([[1000.0, 0.0, -1000.0], [-1e4, 1e4, 0.0], [90.0, 89.0, 88.0]])
    each("CrossEntropy", [big], torch.tensor([0, 0, 2]), dict(label_smoothing=0.0))
    probabilities = torch.softmax(torch.randn(6, 5), 1)
    for smoothing in (0.0, 0.1):
        for weights in ({}, {"weight": w}):
            each("CrossEntropy", [x], probabilities, dict(label_smoothing=smoothing), weights)
    each("CrossEntropy", [torch.randn(3, 4, 5)], torch.softmax(torch.randn(3, 4, 5), 1), dict(label_smoothing=0.0))
    logp = torch.log_softmax(torch.randn(6, 5), 1)
    for weights in ({}, {"weight": w}):
        each("NLL", [logp], y, {}, weights)
        each("NLL", [logp], torch.tensor([0, 2, 2, 1, -100, 2]), dict(ignore_index=-100), weights)
    each("NLL", [torch.log_softmax(torch.randn(2, 4, 3), 1)], torch.randint(0, 4, (2, 3)))
    for p, margin in ((1, 1.0), (2, 1.0), (1, 0.3), (2, 0.5)):
        each("MultiMargin", [x], y, dict(p=p, margin=margin))
    each("MultiMargin", [x], y, dict(p=2, margin=1.0), {"weight": w})


def binary():
    t = torch.rand(4, 3)
    hard = torch.randint(0, 2, (4, 3)).float()
    for target in (t, hard):
        for weights in ({}, {"weight": torch.rand(4, 3) + 0.1}, {"weight": torch.rand(3) + 0.1}):
            each("BCE", [torch.rand(4, 3) * 0.9 + 0.05], target, {}, weights)
        for weights in ({}, {"pos_weight": torch.rand(3) * 3}, {"weight": torch.rand(4, 3)},
                        {"weight": torch.rand(4, 1), "pos_weight": torch.rand(3) * 3}):
            each("BCEWithLogits", [torch.randn(4, 3) * 2], target, {}, weights)
    each("BCE", [torch.tensor([0.0, 1.0, 0.0, 1.0, 0.5])], torch.tensor([0.0, 1.0, 1.0, 0.0, 0.5]), reductions=("mean", "sum"))
    edges = torch.tensor([0.0, 100.0, -100.0, 100.0, -100.0, 1e4, -1e4])
    each("BCEWithLogits", [edges], torch.tensor([1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 1.0]))
    sign = hard * 2 - 1
    for margin in (1.0, 0.4):
        each("HingeEmbedding", [torch.randn(4, 3)], sign, dict(margin=margin))
    each("Hinge", [torch.randn(4, 3)], sign)
    for margin in (0.0, 0.3):
        each("CosineEmbedding", [torch.randn(5, 4), torch.randn(5, 4)], torch.tensor([1.0, -1.0, -1.0, 1.0, -1.0]), dict(margin=margin))
    for alpha, gamma in ((0.25, 2.0), (-1.0, 2.0), (0.5, 1.5), (0.75, 0.0)):
        each("SigmoidFocal", [torch.randn(4, 3) * 2], hard, dict(alpha=alpha, gamma=gamma))


def regression():
    x, t = torch.randn(4, 3) * 2, torch.randn(4, 3)
    x[0, 0] = t[0, 0]  # a difference of exactly zero
    each("MSE", [x], t)
    each("L1", [x], t)
    each("MSE", [torch.randn(5)], torch.randn(5))
    each("MSE", [torch.randn(2, 3, 2, 2)], torch.randn(2, 3, 2, 2))
    for v in (1.0, 0.5, 2.0):
        each("Huber", [x], t, dict(delta=v))
        each("SmoothL1", [x], t, dict(beta=v))
    each("Huber", [torch.tensor([1.0, -1.0, 0.0, 3.0])], torch.zeros(4), dict(delta=1.0))
    each("SmoothL1", [torch.tensor([1.0, -1.0, 0.0, 3.0])], torch.zeros(4), dict(beta=1.0))
    each("SmoothL1", [x], t, dict(beta=0.0))
    logq, p = torch.log_softmax(torch.randn(4, 5), 1), torch.softmax(torch.randn(4, 5), 1)
    some = ("mean", "sum", "none", "batchmean")
    each("KLDiv", [logq], p, dict(log_target=False), reductions=some)
    each("KLDiv", [logq], p.log(), dict(log_target=True), reductions=some)
    zero = p.clone()
    zero[1, 2] = 0.0  # 0 log 0 = 0
    each("KLDiv", [logq], zero, dict(log_target=False), reductions=some)


def batches():
    """The same loss for batches of changing size; one model must serve all of them."""
    def data(loss, n):
        if loss in ("CrossEntropy", "NLL"):
            x = torch.randn(n, 5)
            return (torch.log_softmax(x, 1) if loss == "NLL" else x), torch.randint(0, 5, (n,))
        if loss == "BCE":
            return torch.rand(n, 3) * 0.9 + 0.05, torch.rand(n, 3)
        if loss == "Hinge":
            return torch.randn(n, 3), torch.randint(0, 2, (n, 3)) * 2.0 - 1
        return torch.randn(n, 3) * 2, torch.rand(n, 3)
    for loss, config in (("CrossEntropy", dict(label_smoothing=0.0)), ("NLL", {}), ("BCE", {}), ("BCEWithLogits", {}), ("MSE", {}),
                         ("L1", {}), ("Huber", dict(delta=1.0)), ("SmoothL1", dict(beta=1.0)), ("Hinge", {})):
        for n in BATCHES:
            x, t = data(loss, n)
            keys = None
            for reduction in ("mean", "sum"):
                keys = add(loss, [x], t, reduction, config, keys=keys, group="dynamic")
    for n in BATCHES:
        x, t = torch.randn(n, 5), torch.softmax(torch.randn(n, 5), 1)
        keys = None
        for reduction in ("mean", "sum"):
            keys = add("CrossEntropy", [x], t, reduction, dict(label_smoothing=0.0), keys=keys, group="dynamic")


if __name__ == "__main__":
    start(404)
    classes()
    binary()
    regression()
    batches()
    G.save()
