"""The generator behind `zoo.build.random`, Threefry-2x32 with 20 rounds: as torch operations, and as one operator.

Its 180 operations would take torch's exporter seconds, for every draw of every task. So while a task is traced, they
are one operator, `zoo::threefry2x32`, which `zoo.build.translations` writes as the same ONNX nodes.
"""

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor

ROTATIONS = (13, 15, 26, 6, 17, 29, 16, 24)
PARITY = 0x1BD11BDA  # a Skein constant; without it the key 0 would be weak
ROUNDS = 20
MASK = 0xFFFFFFFF

Words = tuple[Tensor, Tensor]

_one_operator = False


@contextlib.contextmanager
def as_one_operator() -> Iterator[None]:
    """In this block `generated` calls the operator. Elsewhere it does not, so anyone's export, too, can trace it."""
    global _one_operator
    before, _one_operator = _one_operator, True
    try:
        yield
    finally:
        _one_operator = before


def generated(key: Words, counter: Words) -> Words:
    """`zoo.build.random.threefry2x32`."""
    return _operator(*key, *counter) if _one_operator else _rounds(key, counter)


def _rounds(key: Words, counter: Words) -> Words:
    keys = (*key, key[0] ^ key[1] ^ PARITY)
    x0, x1 = (counter[0] + keys[0]) & MASK, (counter[1] + keys[1]) & MASK
    for i in range(ROUNDS):
        x0 = (x0 + x1) & MASK
        x1 = _rotate_left(x1, ROTATIONS[i % 8]) ^ x0
        if i % 4 == 3:  # a key injection after every fourth round
            n = i // 4 + 1
            x0 = (x0 + keys[n % 3]) & MASK
            x1 = (x1 + keys[(n + 1) % 3] + n) & MASK
    return x0, x1


@torch.library.custom_op("zoo::threefry2x32", mutates_args=())
def _operator(key0: Tensor, key1: Tensor, counter0: Tensor, counter1: Tensor) -> tuple[Tensor, Tensor]:
    return _rounds((key0, key1), (counter0, counter1))


@_operator.register_fake
def _(key0: Tensor, key1: Tensor, counter0: Tensor, counter1: Tensor) -> tuple[Tensor, Tensor]:
    like = key0 + key1 + counter0 + counter1
    return torch.empty_like(like), torch.empty_like(like)


def _rotate_left(x: Tensor, bits: int) -> Tensor:
    """The product of 32-bit words modulo 2^32; it stays under 2^61."""
    return ((x * 2**bits) & MASK) | shift_right(x, 32 - bits)


def shift_right(x: Tensor, bits: int) -> Tensor:
    """x >> bits for 0 <= x < 2^53, through float64, where the product is exact and the cast truncates its fraction.

    torch's own `>>` and `//` are exported as eight nodes each, since they handle negative numbers.
    """
    return (x.to(torch.float64) * 2.0**-bits).to(torch.int64)
