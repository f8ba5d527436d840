"""State dicts as PyTorch users save them: in f32, and whole in f16 and bf16, each as a file of its own.

Takes a trained Sequential; gives `state_dict_TYPE.safetensors`, and in `state_dict.safetensors` what PyTorch reads in them and computes with them.
It never converts a number by itself: PyTorch does.
"""
import torch
import torch.nn as nn
import torch.nn.functional as F

from common import HERE, save_tensors, start

TYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}
# Sign of zero, the smallest and the largest subnormal, the smallest normal, ties of rounding, the largest number, infinity.
BITS = {
    "f16": [0x0000, 0x8000, 0x0001, 0x83FF, 0x0400, 0x3C00, 0x3C01, 0xBC01, 0x7BFF, 0xFBFF, 0x7C00, 0xFC00],
    "bf16": [0x0000, 0x8000, 0x0001, 0x807F, 0x0080, 0x3F80, 0x3F81, 0xBF81, 0x7F7F, 0xFF7F, 0x7F80, 0xFF80],
}


def model():
    return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3))


if __name__ == "__main__":
    start(2222)
    net = model()
    opt = torch.optim.SGD(net.parameters(), lr=0.1)
    for _ in range(5):
        opt.zero_grad()
        F.cross_entropy(net(2 * torch.randn(16, 4) + 0.5), torch.randint(3, (16,))).backward()
        opt.step()
    net.eval()
    x = torch.randn(7, 4)
    numbers = {"x": x}
    for name, dtype in TYPES.items():
        state = {k: v.to(dtype) if v.is_floating_point() else v for k, v in net.state_dict().items()}
        read = model()
        read.load_state_dict(state)
        numbers[f"{name}.logits"] = read.eval()(x).detach()
        numbers |= {f"{name}.{k}": v.float().clone() for k, v in state.items() if v.is_floating_point()}
        if name in BITS:
            state["bits"] = torch.tensor(BITS[name], dtype=torch.uint16).view(dtype)
            numbers[f"{name}.bits"] = state["bits"].float()
        save_tensors(f"state_dict_{name}", state)
    save_tensors("state_dict", numbers)
    print(*(f"{p.name} {p.stat().st_size}" for p in sorted(HERE.glob("state_dict*"))))
