"""Noise from seeds, as docs/noise.md specifies it, in NumPy; `zoo.build.random` is the same in torch.

Needs only NumPy: it is shipped with hosts whose runtime cannot compute the noise.
"""

import math
from collections.abc import Sequence

import numpy as np

ROTATIONS = (13, 15, 26, 6, 17, 29, 16, 24)


def words(seed: np.ndarray, pairs: int, stream: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """The first pairs of words of a stream, two uint32 [batch, pairs], for seeds int64 [batch], 0 .. 2^53 - 1."""
    seed = seed.astype(np.uint64)[:, None]
    k = [seed.astype(np.uint32), (seed >> np.uint64(32)).astype(np.uint32)]
    k.append(k[0] ^ k[1] ^ np.uint32(0x1BD11BDA))
    x0, x1 = np.arange(pairs, dtype=np.uint32) + k[0], np.full(pairs, stream, np.uint32) + k[1]
    for i in range(20):  # arrays of uint32 wrap around, as the words must
        x0 = x0 + x1
        x1 = (x1 << ROTATIONS[i % 8] | x1 >> 32 - ROTATIONS[i % 8]) ^ x0
        if i % 4 == 3:
            n = i // 4 + 1
            x0, x1 = x0 + k[n % 3], x1 + k[(n + 1) % 3] + np.uint32(n)
    return x0, x1


def uniform(seed: np.ndarray, shape: Sequence[int], stream: int = 0) -> np.ndarray:
    """Values in (0, 1), float32 [batch, *shape]."""
    count = math.prod(shape)
    w = np.stack(words(seed, (count + 1) // 2, stream), -1).reshape(len(seed), -1)[:, :count]
    return ((w >> 9) * 2 + 1).astype(np.float32).reshape(-1, *shape) * np.float32(2.0**-24)


def normal(seed: np.ndarray, shape: Sequence[int], stream: int = 0) -> np.ndarray:
    """Standard normal values, float32 [batch, *shape]; computed in float64, rounded once."""
    count = math.prod(shape)
    u1, u2 = ((w.astype(np.float64) + 0.5) * 2.0**-32 for w in words(seed, (count + 1) // 2, stream))
    radius, angle = np.sqrt(np.log(u1) * -2), u2 * (2 * math.pi)
    z = np.stack((radius * np.cos(angle), radius * np.sin(angle)), -1).reshape(len(seed), -1)
    return z[:, :count].astype(np.float32).reshape(-1, *shape)


DRAW = {"normal": normal, "uniform": uniform}
"""The functions that a port's `noise` selects."""
