"""Optimizers that PyTorch does not have, each as its paper says it, one line of maths per line. For `optim.py`, `schedules.py` and `training.py`."""
import types

import torch


class Rule(torch.optim.Optimizer):
    """Calls `update(o, p, g, state, t)` for each parameter; o has the options as a schedule left them, t counts from 1."""

    t = 0

    def __init__(self, params, lr, **options):
        super().__init__(params, dict(lr=lr, **options))

    @torch.no_grad()
    def step(self):
        self.t += 1
        for group in self.param_groups:
            o = types.SimpleNamespace(**group)
            self.begin(o)
            for p in group["params"]:
                p.copy_(self.update(o, p, p.grad, self.state[p], self.t))

    def begin(self, o):
        pass


class Lion(Rule):
    """Chen and others 2023, arXiv:2302.06675, program 1."""

    def update(self, o, p, g, state, t):
        (b1, b2), m = o.betas, state.get("m", torch.zeros_like(p))
        p = p * (1 - o.lr * o.weight_decay)
        p = p - o.lr * torch.sign(b1 * m + (1 - b1) * g)
        state["m"] = b2 * m + (1 - b2) * g
        return p


class Lamb(Rule):
    """You and others 2019, arXiv:1904.00962, algorithm 2."""

    def update(self, o, p, g, state, t):
        b1, b2 = o.betas
        m = state["m"] = b1 * state.get("m", torch.zeros_like(p)) + (1 - b1) * g
        v = state["v"] = b2 * state.get("v", torch.zeros_like(p)) + (1 - b2) * g * g
        r = (m / (1 - b1**t)) / ((v / (1 - b2**t)).sqrt() + o.eps)
        u = r + o.weight_decay * p
        of_p, of_u = p.norm(), u.norm()
        return p - o.lr * (of_p / of_u if of_p > 0 and of_u > 0 else 1.0) * u


class ScheduleFreeAdamW(Rule):
    """Defazio and others 2024, arXiv:2405.15682, algorithm 1; weights of the average as in the authors' code with r = 0 and power 2."""

    lr_max, weight_sum = 0.0, 0.0

    def begin(self, o):
        self.lr_max = max(self.lr_max, o.lr)
        self.weight_sum += self.lr_max**2

    def update(self, o, y, g, state, t):
        b1, b2 = o.betas
        x, z = state.get("x", y.clone()), state.get("z", y.clone())
        v = state["v"] = b2 * state.get("v", torch.zeros_like(y)) + (1 - b2) * g * g
        z = state["z"] = z - o.lr * (g / ((v / (1 - b2**t)).sqrt() + o.eps) + o.weight_decay * y)
        c = self.lr_max**2 / self.weight_sum if self.weight_sum > 0 else 0.0
        x = state["x"] = (1 - c) * x + c * z
        return (1 - b1) * z + b1 * x


def newton_schulz(grad, ns_coefficients, ns_steps, eps):
    """PyTorch's `_zeropower_via_newtonschulz` in the gradient's own precision instead of bfloat16."""
    a, b, c = ns_coefficients
    x = grad.T if grad.size(0) > grad.size(1) else grad
    x = x / x.norm().clamp(min=eps)
    for _ in range(ns_steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if grad.size(0) > grad.size(1) else x


torch.optim._muon._zeropower_via_newtonschulz = newton_schulz  # PyTorch rounds it to bf16
