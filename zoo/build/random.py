"""Noise from a seed, the same bits in every stack: Threefry-2x32 with 20 rounds as torch int64 operations.

Source: Salmon, Moraes, Dror, Shaw 2011, "Parallel random numbers: as easy as 1, 2, 3" (Random123). A counter-based
generator is a function without state: word i of a picture only depends on its seed, the stream and i, so batches,
restarts or another language make no difference. docs/noise.md specifies it to the bit.

It only uses operations that ONNX has and ONNX Runtime's CPU provider runs: Add, Mul, BitwiseAnd, BitwiseOr, BitwiseXor,
Cast, and for normal values Log, Sqrt, Cos, Sin in float64.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .threefry import MASK, Words, generated, shift_right

TWO_PI = 7074237752028440  # times 2^-50: 2 pi in float64


def threefry2x32(key: Words, counter: Words) -> Words:
    """Two 32-bit words for each counter, as int64 0 .. 2^32 - 1; key and counter are also such words, and broadcast."""
    return generated(key, counter)


def words(seed: Tensor, pairs: int, stream: int | Tensor = 0) -> Words:
    """The first `pairs` pairs of words of a stream: two int64 [batch, pairs], each 0 .. 2^32 - 1.

    Args:
        seed: int64 [batch], 0 .. 2^53 - 1. Its low 32 bits are the key's first word, the rest the second.
        stream: 0 .. 2^32 - 1, a number or int64 []: the counter's second word. Streams of a seed are independent.
    """
    seed = seed.unsqueeze(1)
    key = seed & MASK, shift_right(seed, 32)
    index = torch.arange(pairs, dtype=torch.int64, device=seed.device).unsqueeze(0)
    return threefry2x32(key, (index, torch.zeros_like(index) + stream))


def uniform(seed: Tensor, shape: Sequence[int], stream: int | Tensor = 0) -> Tensor:
    """Uniform values, float32 [batch, *shape], in (0, 1): odd multiples of 2^-24, so never 0, never 1, and exact.

    Value i of a flattened picture comes from word i % 2 of pair i // 2.

    Args:
        seed: int64 [batch], 0 .. 2^53 - 1.
        shape: of one picture. A size may be that of an input (`image.shape[1]`) except in the body of a loop, where all
            must be numbers.
        stream: as for `words`.
    """
    count = math.prod(shape)
    w = torch.stack(words(seed, (count + 1) // 2, stream), dim=-1).flatten(1)[:, :count]
    return ((shift_right(w, 9) * 2 + 1).to(torch.float32) * 2.0**-24).reshape(-1, *shape)


def normal(seed: Tensor, shape: Sequence[int], stream: int | Tensor = 0) -> Tensor:
    """Standard normal values, float32 [batch, *shape], by the transform of Box and Muller 1958; |value| <= 6.77.

    Values 2i and 2i + 1 of a flattened picture come from pair i. Everything is computed in float64 and rounded once at
    the end, so libraries whose logarithm and sine differ in the last bit still give the same float32, except for one in
    millions. The arguments are those of `uniform`.
    """
    count = math.prod(shape)
    w0, w1 = words(seed, (count + 1) // 2, stream)
    u1, u2 = ((w.to(torch.float64) + 0.5) * 2.0**-32 for w in (w0, w1))  # in (0, 1), exact
    radius = torch.sqrt(torch.log(u1) * -2.0)
    # torch's exporter writes Python's floats as float32, which would truncate 2 pi, but keeps integers. `full` is used
    # since the body of a `while_loop` may not contain `torch.tensor`.
    two_pi = torch.full((), TWO_PI, dtype=torch.int64, device=seed.device).to(torch.float64) * 2.0**-50
    angle = u2 * two_pi
    z = torch.stack((radius * torch.cos(angle), radius * torch.sin(angle)), dim=-1)  # [batch, pairs, 2]
    return z.flatten(1)[:, :count].to(torch.float32).reshape(-1, *shape)
