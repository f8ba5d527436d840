#!/usr/bin/env python3
"""Writes the files in golden/ with NumPy, pandas and Pillow. Run: python3 make_golden.py (pip install numpy pandas pillow)"""
import os

HERE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "golden")
os.makedirs(HERE, exist_ok=True)
M32, M64 = 0xFFFFFFFF, 0xFFFFFFFFFFFFFFFF


def philox(counter, key):
    """Philox4x32-10 as in the paper's figure, on Python integers."""
    c, k = list(counter), list(key)
    for _ in range(10):
        p0, p1 = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(p1 >> 32) ^ c[1] ^ k[0], p1 & M32, (p0 >> 32) ^ c[3] ^ k[1], p0 & M32]
        k = [(k[0] + 0x9E3779B9) & M32, (k[1] + 0xBB67AE85) & M32]
    return c


def draws64(seed, stream):
    block = 0
    while True:
        w = philox([block & M32, block >> 32, stream & M32, stream >> 32], [seed & M32, seed >> 32])
        yield w[0] | w[1] << 32
        yield w[2] | w[3] << 32
        block += 1


def order(n, seed, epoch):
    draw, items = draws64(seed, epoch), list(range(n))
    for i in range(n - 1, 0, -1):
        bound = i + 1
        while True:
            wide = next(draw) * bound
            if wide & M64 >= 2**64 % bound:
                break
        j = wide >> 64
        items[i], items[j] = items[j], items[i]
    return items


def orders():
    with open(f"{HERE}/orders.txt", "w") as f:
        for epoch in range(2):
            f.write(" ".join(map(str, order(10, 42, epoch))) + "\n")


if __name__ == "__main__":
    orders()
