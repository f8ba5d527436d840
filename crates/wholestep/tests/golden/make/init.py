"""Initializers: the bound or the standard deviation that PyTorch itself hands to its random generator, recorded there."""
import itertools
import math
from unittest import mock

import torch
import torch.nn as nn

from common import start, write_json

SHAPES = {"Linear": [(16, 8), (3, 50), (1, 1)], "Conv2d": [(8, 3, 3, 3), (6, 1, 5, 2), (4, 16, 1, 1)], "ConvTranspose2d": [(3, 8, 3, 3), (6, 2, 4, 4)],
          "Conv1d": [(5, 4, 3)], "Conv3d": [(2, 4, 3, 1, 2)]}
GAINS = [("linear", None), ("relu", None), ("leaky_relu", 0.01), ("leaky_relu", 0.2), ("tanh", None), ("sigmoid", None), ("selu", None)]


def recorded(action):
    """[(shape, distribution)] of every random fill that `action` makes; zeros and ones are seen too."""
    seen = []

    def uniform(self, low=0.0, high=1.0, **_):
        seen.append((self, {"uniform": [low, high]}))
        return self

    def normal(self, mean=0.0, std=1.0, **_):
        seen.append((self, {"normal": [mean, std]}))
        return self

    def constant(value):
        def fill(self, *args):
            seen.append((self, {"constant": float(args[0]) if args else value}))
            return self
        return fill
    with mock.patch.object(torch.Tensor, "uniform_", uniform), mock.patch.object(torch.Tensor, "normal_", normal), \
            mock.patch.object(torch.Tensor, "zero_", constant(0.0)), mock.patch.object(torch.Tensor, "fill_", constant(0.0)):
        result = action()
    return seen, result


def initializers():
    for layer, shapes in SHAPES.items():
        for shape in shapes:
            w = torch.empty(shape)
            fan = nn.init._calculate_fan_in_and_fan_out(w)
            for (gain, param), mode, kind in itertools.product(GAINS, ("fan_in", "fan_out"), ("uniform", "normal")):
                fill = getattr(nn.init, f"kaiming_{kind}_")
                options = dict(a=param or 0, mode=mode, nonlinearity=gain)
                (_, drawn), = recorded(lambda: fill(w, **options))[0]
                yield dict(init=f"kaiming_{kind}", layer=layer, shape=list(shape), fan_in=fan[0], fan_out=fan[1], mode=mode,
                           nonlinearity=gain, param=param, draws=drawn)
            for gain, kind in itertools.product((1.0, math.sqrt(2.0), 5.0 / 3.0), ("uniform", "normal")):
                fill = getattr(nn.init, f"xavier_{kind}_")
                (_, drawn), = recorded(lambda: fill(w, gain=gain))[0]
                yield dict(init=f"xavier_{kind}", layer=layer, shape=list(shape), fan_in=fan[0], fan_out=fan[1], gain=gain, draws=drawn)


DEFAULTS = [
    ("Linear", dict(in_features=8, out_features=16)), ("Linear", dict(in_features=50, out_features=3)),
    ("Conv1d", dict(in_channels=4, out_channels=6, kernel_size=[3], groups=1)),
    ("Conv2d", dict(in_channels=3, out_channels=8, kernel_size=[3, 3], groups=1)),
    ("Conv2d", dict(in_channels=4, out_channels=8, kernel_size=[5, 2], groups=2)),
    ("Conv2d", dict(in_channels=6, out_channels=6, kernel_size=[3, 3], groups=6)),
    ("Conv3d", dict(in_channels=2, out_channels=4, kernel_size=[3, 1, 2], groups=1)),
    ("ConvTranspose2d", dict(in_channels=3, out_channels=8, kernel_size=[3, 3], groups=1)),
    ("ConvTranspose2d", dict(in_channels=4, out_channels=8, kernel_size=[4, 2], groups=2)),
    ("ConvTranspose1d", dict(in_channels=2, out_channels=6, kernel_size=[3], groups=2)),
    ("ConvTranspose3d", dict(in_channels=2, out_channels=4, kernel_size=[3, 1, 2], groups=1)),
    ("Embedding", dict(num_embeddings=10, embedding_dim=4)), ("BatchNorm2d", dict(num_features=4)), ("LayerNorm", dict(normalized_shape=[4])),
    ("GroupNorm", dict(num_groups=2, num_channels=4)), ("RMSNorm", dict(normalized_shape=[4])), ("PReLU", dict(num_parameters=3)),
]


def default_values():
    """What the modules start with: for each parameter, what is drawn for it."""
    for layer, config in DEFAULTS:
        seen, module = recorded(lambda: getattr(nn, layer)(**config))
        params = {}
        for name, p in module.named_parameters():
            drawn = [d for t, d in seen if t is p or (t.data_ptr() == p.data_ptr() and t.shape == p.shape)]
            params[name] = {"shape": list(p.shape), "draws": drawn[-1]}
        yield dict(default=layer, config=config, params=params)


if __name__ == "__main__":
    start(808)
    cases = [*initializers(), *default_values()]
    write_json("init", {}, cases)
    print(len(cases), "cases")
