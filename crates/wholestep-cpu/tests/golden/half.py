"""Makes half.json: sums over the bits that torch gives where floats of 16 and 32 bits become each other.

    python tests/golden/half.py > tests/golden/half.json

Inputs are made by the same rules in tests/half.rs. Each sum is over bits[i] * (2 i + 1), modulo 2^64, with all NaN as one NaN.
"""
import json
import numpy as np
import torch

LOW = [0, 1, 0xFFF, 0x1000, 0x1001, 0x1FFF, 0x2000, 0x2FFF, 0x3000, 0x3001, 0x7FFF, 0x8000, 0x8001, 0x9000, 0xB000, 0xF000, 0xFFFF]
N_RANDOM = 1 << 20


def weighted(bits):
    bits = bits.astype(np.uint64)
    return f"{int(np.sum(bits * (np.arange(len(bits), dtype=np.uint64) * np.uint64(2) + np.uint64(1)), dtype=np.uint64)):016x}"


def inputs():
    edges = (np.arange(65536, dtype=np.uint32)[:, None] << np.uint32(16)) | np.array(LOW, dtype=np.uint32)[None, :]
    i = np.arange(N_RANDOM, dtype=np.uint64)
    x = (i + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = x ^ (x >> np.uint64(27))
    return np.concatenate([edges.reshape(-1), (x >> np.uint64(32)).astype(np.uint32)])


def one_nan(bits, exponent, nan):
    size = bits & np.array(~(1 << (8 * bits.itemsize - 1)) & ((1 << 8 * bits.itemsize) - 1), dtype=bits.dtype)
    return np.where(size > exponent, np.array(nan, dtype=bits.dtype), bits)


wide = torch.from_numpy(inputs().view(np.float32).copy())
narrow = torch.arange(65536, dtype=torch.int32).to(torch.int16)
out = {"torch": torch.__version__}
for name, dtype, exponent, nan in [("f16", torch.float16, 0x7C00, 0x7E00), ("bf16", torch.bfloat16, 0x7F80, 0x7FC0)]:
    to = wide.to(dtype).view(torch.int16).numpy().view(np.uint16)
    out[f"f32_to_{name}"] = weighted(one_nan(to, exponent, nan))
    up = narrow.view(dtype).to(torch.float32).numpy().view(np.uint32)
    out[f"{name}_to_f32"] = weighted(one_nan(up, 0x7F800000, 0x7FC00000))
print(json.dumps(out, indent=1))
