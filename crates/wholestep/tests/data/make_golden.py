#!/usr/bin/env python3
"""Writes the files in golden/. Run: pip install numpy pandas pillow scikit-learn && python3 make_golden.py

Made with NumPy 2.4.6, pandas 3.1.1, Pillow 13.0.0 and scikit-learn 1.9.1.
"""
import io
import os

import numpy as np
import pandas as pd
from PIL import Image
from sklearn.preprocessing import StandardScaler

DATA = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../../../data")
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


def npy():
    """One .npy file for each type, byte order, memory order and header version; npz stored and deflated."""
    save = lambda name, a, **kw: open(f"{HERE}/{name}.npy", "wb").write(npy_bytes(a, **kw))
    for name, dtype in (("f2", "<f2"), ("f4", "<f4"), ("f8", "<f8"), ("f2_big", ">f2"), ("f4_big", ">f4"), ("f8_big", ">f8")):
        save(name, np.array([[0.5, -1.25, 2.0], [1e-3, 300.0, -0.0]]).astype(dtype))
    for name, dtype in (("i1", "i1"), ("i2", "<i2"), ("i4", "<i4"), ("i8", "<i8"), ("i2_big", ">i2"), ("i4_big", ">i4"), ("i8_big", ">i8")):
        save(name, np.array([-128, -1, 0, 1, 127]).astype(dtype))
    for name, dtype in (("u1", "u1"), ("u2", "<u2"), ("u4", "<u4"), ("u8", "<u8"), ("u2_big", ">u2")):
        save(name, np.array([0, 1, 255]).astype(dtype))
    save("u8_large", np.array([1, 2**63], dtype="<u8"))
    save("bool", np.array([[True], [False]]))
    save("scalar", np.array(7, dtype="<i4"))
    save("empty", np.zeros((0, 3), dtype="<f4"))
    save("fortran", np.asfortranarray(np.arange(24, dtype="<i4").reshape(2, 3, 4)))
    save("fortran_big", np.asfortranarray(np.arange(6, dtype=">f8").reshape(2, 3)))
    save("version2", np.arange(3, dtype="<f4"), version=(2, 0))
    save("version3", np.arange(3, dtype="<f4"), version=(3, 0))
    save("text", np.array(["a", "bc"]))
    save("objects", np.array([{"a": 1}], dtype=object))
    save("records", np.zeros(2, dtype=[("a", "<f4"), ("b", "<i4")]))
    save("complex", np.zeros(2, dtype="<c8"))
    for d in ("<f4", "<f8", "<i8", "<i4", "<u4", "u1", "?"):  # for the writer: three shapes of each type
        for n, shape in enumerate(((), (5,), (2, 3, 1))):
            a = (np.arange(int(np.prod(shape))) % 2 + 1).reshape(shape).astype(d)
            save(f"write_{a.dtype.name}_{n}", a)
    x, y = np.arange(6, dtype="<f4").reshape(3, 2), np.array([0, 1, 2], dtype="<i8")
    np.savez(f"{HERE}/stored.npz", x=x, y=y)
    np.savez_compressed(f"{HERE}/deflated.npz", x=x, y=y)


def npy_bytes(a, version=None):
    out = io.BytesIO()
    np.lib.format.write_array(out, a, version=version)
    return out.getvalue()


def csv():
    """A table with quotes, and what pandas makes of it."""
    rng = np.random.default_rng(0)
    t = pd.DataFrame({
        "size, m": rng.uniform(20, 200, 25).round(2),
        "rooms": rng.integers(1, 9, 25),
        "city": rng.choice(["Roma", 'the "Hague"', "Zürich, ZH"], 25),
        "price": rng.normal(0, 1e6, 25).round(3),
    })
    t.to_csv(f"{HERE}/houses.csv", index=False)
    features = pd.get_dummies(t.drop(columns="price"), columns=["city"], prefix_sep="=", dtype=float)
    features = features[["size, m", "rooms"] + sorted(c for c in features if c.startswith("city="))]
    np.savez_compressed(f"{HERE}/houses.npz", x=features.to_numpy().astype("<f4"), y=t[["price"]].to_numpy().astype("<f4"))


def standardized():
    """wine through scikit-learn's StandardScaler, fitted on the first 100 rows."""
    wine = np.loadtxt(f"{DATA}/tables/wine_data.csv", delimiter=",", skiprows=1)
    x = wine[:, :-1].astype("<f4")
    scaler = StandardScaler().fit(x[:100].astype("<f8"))
    np.savez_compressed(f"{HERE}/wine.npz", mean=scaler.mean_, std=scaler.scale_, x=scaler.transform(x[100:].astype("<f8")).astype("<f4"),
                        y=wine[100:, -1].astype("<u4"))


def images():
    """Two classes of small pictures: gray, RGB, palette, 16 bit and JPEG, with Pillow's own decoding of each."""
    rng = np.random.default_rng(1)
    pixels = lambda *shape: rng.integers(0, 256, shape, dtype="u1")
    for d in ("cat", "dog"):
        os.makedirs(f"{HERE}/pets/{d}", exist_ok=True)
    smooth = np.stack([*np.meshgrid(np.linspace(0, 255, 8), np.linspace(0, 255, 6))] + [np.full((6, 8), 90.0)], -1).astype("u1")
    files = {
        "cat/a.png": Image.fromarray(pixels(6, 8, 3)),
        "cat/b.png": Image.fromarray(pixels(6, 8)),
        "cat/c.jpg": Image.fromarray(smooth),
        "dog/a.png": Image.fromarray(pixels(6, 8, 3)).quantize(8),
        "dog/b.png": Image.fromarray(np.concatenate([pixels(6, 8, 3), np.full((6, 8, 1), 255, "u1")], -1)),
        "dog/c.jpeg": Image.fromarray(smooth[:, ::-1, 0].copy()),
    }
    for name, image in files.items():
        image.save(f"{HERE}/pets/{name}", quality=95)
    opened = [Image.open(f"{HERE}/pets/{name}") for name in sorted(files)]
    rgb = np.stack([np.asarray(i.convert("RGB")) for i in opened]).transpose(0, 3, 1, 2)
    gray = np.stack([np.asarray(i.convert("RGB").convert("L")) for i in opened])[:, None]
    halved = np.stack([np.asarray(i.convert("RGB").resize((4, 3), Image.BILINEAR)) for i in opened]).transpose(0, 3, 1, 2)
    np.savez_compressed(f"{HERE}/pets.npz", rgb=rgb, gray=gray, halved=halved)
    Image.fromarray(pixels(6, 8, 4)).save(f"{HERE}/see_through.png")


if __name__ == "__main__":
    orders()
    npy()
    csv()
    standardized()
    images()
