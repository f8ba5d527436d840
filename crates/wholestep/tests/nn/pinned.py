"""The first values of a slot named "w" at seed 42, from the rule in words: Philox4x32-10 (Random123), FNV-1a 64, 2^-32 scaling."""
import struct

M32 = (1 << 32) - 1


def philox(c, k):
    c, k = list(c), list(k)
    for _ in range(10):
        p0, p1 = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(p1 >> 32) ^ c[1] ^ k[0], p1 & M32, (p0 >> 32) ^ c[3] ^ k[1], p0 & M32]
        k = [(k[0] + 0x9E3779B9) & M32, (k[1] + 0xBB67AE85) & M32]
    return c


def fnv1a(name):
    h = 0xCBF29CE484222325
    for b in name.encode():
        h = ((h ^ b) * 0x100000001B3) & ((1 << 64) - 1)
    return h


assert philox([0] * 4, [0] * 2) == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]
assert fnv1a("a") == 0xAF63DC4C8601EC8C
h = fnv1a("w")
words = philox([0, 0, h & M32, h >> 32], [42, 0])
print([struct.unpack("f", struct.pack("f", w / 2**32))[0] for w in words])
