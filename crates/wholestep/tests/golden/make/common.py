"""What every script here shares: a fixed seed, and a writer for one group of golden numbers.

Takes tensors and case records; gives NAME.safetensors (f32 and i64 only) and NAME.json beside this folder.
It never decides what is computed: that is in the script of each group.
"""
import json
import pathlib

import torch
from safetensors.torch import save_file

HERE = pathlib.Path(__file__).resolve().parent.parent
AGREEMENT = 1e-3  # f32 and f64 must agree this well (relative to the largest value), or the case is ill-conditioned


def start(seed):
    """One thread and deterministic algorithms: the same file bytes on every run."""
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(seed)


def write_json(name, head, cases):
    """One case per line, so that a change shows up as the lines it touches."""
    head = {"torch": torch.__version__.split("+")[0], **head}
    text = json.dumps(head, separators=(",", ":"))[:-1]
    lines = ",\n".join(json.dumps(c, separators=(",", ":")) for c in cases)
    (HERE / f"{name}.json").write_text(f'{text},"cases":[\n{lines}\n]}}\n')


class Group:
    """Collects the tensors and the cases of one group."""

    def __init__(self, name, **head):
        self.name, self.head = name, head
        self.tensors, self.cases = {}, []
        self.count = {}

    def new_id(self, kind):
        n = self.count.get(kind, 0)
        self.count[kind] = n + 1
        return f"{kind}_{n:02}"

    def put(self, key, t):
        """Stores `t` under `key` (bool and i32 become i64) and returns the key."""
        assert key not in self.tensors, key
        t = t.detach()
        if t.dtype in (torch.bool, torch.int32):
            t = t.to(torch.int64)
        assert t.dtype in (torch.float32, torch.int64), (key, t.dtype)
        # A resolved contiguous copy: safetensors refuses views that share storage.
        self.tensors[key] = t.resolve_conj().resolve_neg().clone(memory_format=torch.contiguous_format)
        return key

    def case(self, **fields):
        self.cases.append(fields)

    def save(self):
        write_json(self.name, self.head, self.cases)
        save_tensors(self.name, self.tensors)
        size = sum((HERE / f"{self.name}.{e}").stat().st_size for e in ("json", "safetensors"))
        print(f"{self.name}: {len(self.cases)} cases, {len(self.tensors)} tensors, {size / 1e3:.0f} kB")


def save_tensors(name, tensors):
    path = HERE / f"{name}.safetensors"
    save_file(tensors, path)
    path.chmod(0o644)


def assert_close(what, single, double):
    """The f32 numbers agree with the same computation in f64, so a test against them measures the test's own error."""
    for a, b in zip(single, double):
        if a is None or not a.is_floating_point():
            continue
        fine = torch.isfinite(b)
        assert torch.equal(torch.isfinite(a), fine), what
        scale = max(1.0, b[fine].abs().max().item()) if fine.any() else 1.0
        gap = ((a.double() - b)[fine].abs().max().item() if fine.any() else 0.0) / scale
        assert gap < AGREEMENT, (what, gap)


def probe(fn, inputs, d_outs=None, needs=None):
    """Runs `fn(*inputs)`, checks it against f64, and returns (outputs, upstream gradients, input gradients).

    An input gradient is None where the input is an integer. Scalars get upstream 1, others random numbers,
    unless `d_outs` gives them.
    """
    def once(dtype, d_outs):
        xs = [x.detach().to(dtype).requires_grad_(True) if x.is_floating_point() else x for x in inputs]
        out = fn(*xs)
        outs = list(out) if isinstance(out, (tuple, list)) else [out]
        live = [o for o in outs if o.requires_grad]
        if d_outs is None:
            d_outs = [torch.ones_like(o) if o.ndim == 0 else torch.randn(o.shape) for o in live]
        grads = [None] * len(xs)
        if live:
            want = [i for i, x in enumerate(xs) if x.requires_grad]
            got = torch.autograd.grad(live, [xs[i] for i in want], [d.to(dtype) for d in d_outs], allow_unused=True)
            for i, g in zip(want, got):
                grads[i] = torch.zeros_like(xs[i]) if g is None else g
        return outs, d_outs, grads
    outs, d_outs, grads = once(torch.float32, d_outs)
    outs64, _, grads64 = once(torch.float64, d_outs)
    assert_close("outputs", outs, outs64)
    assert_close("gradients", grads, grads64)
    return outs, d_outs, grads
