"""Tokenizers as parts of a graph: bytes of a `text` port to token numbers, with standard ONNX operators.

Hosts only encode UTF-8, so Node, a browser and C++ get the same tokens as Python. All numbers are below 2^31, for
stacks without 64-bit integers.
"""

from __future__ import annotations

import functools
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import InvalidFileError
from ..text import safe_text
from .loop import while_loop

PAGE = 256
"""Code points in a page of a table."""
SPACE, LETTER, DIGIT, OTHER = range(4)
_SPACES = {*range(9, 14), 32, 0x85, 0xA0, 0x1680, *range(0x2000, 0x200B), 0x2028, 0x2029, 0x202F, 0x205F, 0x3000}
"""Unicode's property White_Space; `str.isspace` also counts four control characters."""
_NONE = 2**30
"""More than any order, and exact in float32, in which OpenVINO takes the minimum of integers: from 2^31 - 1 it makes
less, which every pair without a merge would then be, and the loop would not end."""
_CONTRACTIONS = ("s", "t", "re", "ve", "m", "ll", "d")


class ByteTokenizer(torch.nn.Module):
    """A token is a byte, 1 .. 255; 0 pads. Runs of ASCII spaces become one, and those at both ends go.

    Args:
        lower: A to Z become a to z.
    """

    def __init__(self, lower: bool = True):
        super().__init__()
        self.lower = lower

    def forward(self, text: Tensor) -> Tensor:
        """uint8 [batch, bytes] -> int64 [batch, bytes]."""
        byte = text.long()
        if self.lower:
            byte = torch.where((byte >= 65) & (byte <= 90), byte + 32, byte)
        space = (byte == 32) | ((byte >= 9) & (byte <= 13))
        solid = (byte > 0) & ~space
        kept = solid | (space & (_moved(solid.long(), 1) == 1))
        byte = _compacted(torch.where(solid, byte, 32), kept)
        last = _moved(byte, -1) == 0
        return torch.where(last & (byte == 32), 0, byte)


class ClipTokenizer(torch.nn.Module):
    """CLIP's byte-pair encoding (Radford et al. 2021): tokens [start, …, end, padding …].

    The text is lower-cased, split into contractions, runs of letters, single digits and runs of other characters, and
    each of these words is merged, the pair of the lowest rank first. The result is that of transformers'
    `CLIPTokenizer`, but for texts that are not in Unicode's normal form C, or contain the capital İ, which has no one
    lower-case letter, or one of the special tokens as text.

    The tables of letters and lower case are buffers, and say what the Python that made the model knew of Unicode. They
    are loaded as they are, of any length, so a later Python gives the same tokens.

    Args:
        vocabulary: token -> number, as in `vocab.json`: 256 bytes, 256 bytes at a word's end, one for each merge, then
            the special tokens.
        merges: pairs of tokens by rank, as in `merges.txt`.
        length: of the result. A longer text is cut, and still ends with the end token.
        start: the token before every text.
        end: the token after it.
        padding: the number that fills the rest; None: that of `end`.

    Raises:
        InvalidFileError: the vocabulary lacks a byte, a merge or a special token.
    """

    inner: Tensor
    final: Tensor
    begins: Tensor
    second: Tensor
    rank: Tensor
    merged: Tensor

    def __init__(
        self,
        vocabulary: Mapping[str, int],
        merges: Sequence[tuple[str, str]],
        length: int = 77,
        start: str = "<|startoftext|>",
        end: str = "<|endoftext|>",
        padding: int | None = None,
    ):
        super().__init__()

        def number(token: str) -> int:
            if token not in vocabulary:
                raise InvalidFileError(f"the vocabulary has no token '{safe_text(token)[:80]}'")
            return vocabulary[token]

        self.length, self.start, self.end = length, number(start), number(end)
        self.padding = self.end if padding is None else padding
        ends = "</w>"
        letters = letters_of_bytes()
        self.register_buffer("inner", torch.tensor([number(letter) for letter in letters], dtype=torch.int32))
        self.register_buffer("final", torch.tensor([number(letter + ends) for letter in letters], dtype=torch.int32))
        pairs = sorted((number(a), number(b), rank, number(a + b)) for rank, (a, b) in enumerate(merges))
        first, second, rank, merged = (torch.tensor(column, dtype=torch.int32) for column in zip(*pairs, strict=True))
        counts = torch.bincount(first, minlength=max(vocabulary.values()) + 1)
        self.register_buffer("begins", torch.cat([torch.zeros(1), counts.cumsum(0)]).int())  # rows of a first token
        self.register_buffer("second", second)
        self.register_buffer("rank", rank)
        self.register_buffer("merged", merged)
        self.steps = int(counts.max()).bit_length()  # of a binary search among the pairs with one first token
        for name, (pages, entries) in _tables().items():
            self.register_buffer(f"{name}_page", pages.clone())  # loading a model writes into them
            self.register_buffer(f"{name}_entry", entries.clone())

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        # Another version of Unicode has another number of different pages.
        for key in ("kind_entry", "lower_entry"):
            given, own = state_dict.get(prefix + key), self.get_buffer(key)
            if given is not None and given.ndim == 1 and len(given) % PAGE == 0 and len(given) != len(own):
                self.register_buffer(key, own.new_zeros(len(given)))
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def forward(self, text: Tensor) -> Tensor:
        """uint8 [batch, bytes] -> int64 [batch, length]."""
        point = _decoded(text)
        point = point + self._looked_up("lower", point)
        byte, word = _encoded(point, _words(point, self._looked_up("kind", point)))
        last = word != _moved(word, -1)
        token = torch.where(last, self.final[byte], self.inner[byte]).long()
        token = torch.where(word > 0, token, 0)

        def more(token: Tensor, word: Tensor, order: Tensor) -> Tensor:
            return (order < _NONE).any()

        def merge(token: Tensor, word: Tensor, order: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            token, word = self._merged(token, word, order)
            return token, word, self._order(token, word)

        token, word, _ = while_loop(more, merge, (token, word, self._order(token, word)))
        count = (word > 0).sum(1, keepdim=True).clamp(max=self.length - 2)
        place = torch.arange(self.length, device=text.device)[None]
        token = torch.nn.functional.pad(token, (1, max(0, self.length - token.shape[1] - 1)))[:, : self.length]
        token = torch.where(place <= count, token, torch.where(place == count + 1, self.end, self.padding))
        return torch.where(place == 0, self.start, token)

    def _looked_up(self, name: str, point: Tensor) -> Tensor:
        pages, entries = self.get_buffer(f"{name}_page"), self.get_buffer(f"{name}_entry")
        return entries[pages[point // PAGE].long() * PAGE + point % PAGE].long()

    def _pair(self, token: Tensor) -> tuple[Tensor, Tensor]:
        """For each token and the next: the row of the table with this pair, by binary search, and whether it is one."""
        second = _moved(token, -1)
        low, stop = self.begins[token].long(), self.begins[token + 1].long()
        high, rows = stop, len(self.second)
        for _ in range(self.steps):
            middle = (low + high) // 2
            below = (self.second[middle.clamp(max=rows - 1)] < second) & (low < high)
            low, high = torch.where(below, middle + 1, low), torch.where(below, high, middle)
        row = low.clamp(max=rows - 1)
        return row, (low < stop) & (self.second[row] == second)

    def _order(self, token: Tensor, word: Tensor) -> Tensor:
        """For each token that can be merged with the next: a number that is lower for what must be merged earlier."""
        row, found = self._pair(token)
        place = torch.arange(token.shape[1], device=token.device)[None]
        found = found & (word > 0) & (word == _moved(word, -1))
        return torch.where(found, self.rank[row].long() * token.shape[1] + place, _NONE)

    def _merged(self, token: Tensor, word: Tensor, order: Tensor) -> tuple[Tensor, Tensor]:
        """The tokens after one merge in each word that has one."""
        alike = word[:, :, None] == word[:, None, :]
        first = torch.where(alike, order[:, None, :], _NONE).amin(2)
        chosen = (order == first) & (order < _NONE)
        row, _ = self._pair(token)
        token = torch.where(chosen, self.merged[row].long(), token)
        kept = (_moved(chosen.long(), 1) == 0) & (word > 0)
        return _compacted(token, kept), _compacted(word, kept)


def _moved(value: Tensor, places: int) -> Tensor:
    """The values moved to the right (or the left, if negative), with zeros moving in."""
    width = value.shape[1]
    if places > 0:
        return torch.nn.functional.pad(value, (places, 0))[:, :width]
    return torch.nn.functional.pad(value, (0, -places))[:, -places:]


def _compacted(value: Tensor, kept: Tensor, width: int | None = None) -> Tensor:
    """The kept values moved together to the left, then zeros."""
    width = value.shape[1] if width is None else width
    place = torch.where(kept, kept.long().cumsum(1) - 1, width)
    wider = torch.zeros(value.shape[0], width + 1, dtype=value.dtype, device=value.device)
    return wider.scatter(1, place, value)[:, :width].contiguous()  # a loop keeps strides


def _decoded(text: Tensor) -> Tensor:
    """Code points of valid UTF-8, then zeros."""
    byte = text.long()
    one, two, three = (_moved(byte, -n) - 128 for n in (1, 2, 3))
    point = torch.where(byte < 0xC0, byte, (byte - 0xC0) * 64 + one)
    point = torch.where(byte < 0xE0, point, ((byte - 0xE0) * 64 + one) * 64 + two)
    point = torch.where(byte < 0xF0, point, (((byte - 0xF0) * 64 + one) * 64 + two) * 64 + three)
    return _compacted(point.clamp(0, 0x10FFFF), (byte > 0) & ((byte < 0x80) | (byte >= 0xC0)))


def _words(point: Tensor, kind: Tensor) -> Tensor:
    """For each code point the number of its word, from 1; 0: a space, or the end."""
    after, second = _moved(point, -1), _moved(point, -2)
    kind = torch.where(point > 0, kind, SPACE)
    previous = _moved(kind, 1)  # SPACE before the first
    length = torch.zeros_like(point)  # of the contraction that begins here, with its apostrophe
    for letters in _CONTRACTIONS:
        same = after == ord(letters[0])
        if len(letters) == 2:
            same = same & (second == ord(letters[1]))
        length = torch.where(same, 1 + len(letters), length)
    length = torch.where((point == ord("'")) & (previous != OTHER), length, 0)
    inside = (_moved(length, 1) >= 2) | (_moved(length, 2) == 3)
    follows = (_moved(length, 2) == 2) | (_moved(length, 3) == 3)
    begins = (kind != previous) | (kind == DIGIT) | (length > 0) | follows
    begins = begins & (kind != SPACE) & ~inside
    return torch.where(kind != SPACE, begins.long().cumsum(1), 0)


def _encoded(point: Tensor, word: Tensor) -> tuple[Tensor, Tensor]:
    """UTF-8 of the code points that belong to a word, and the word of each byte. Lower case may need half as many bytes
    more."""
    continuation = [point // 64**n % 64 + 128 for n in range(4)]
    parts = [
        torch.where(point < 0x80, point, torch.where(point < 0x800, point // 64 + 0xC0,
            torch.where(point < 0x10000, point // 4096 + 0xE0, point // 64**3 + 0xF0))),
        torch.where(point < 0x800, continuation[0], torch.where(point < 0x10000, continuation[1], continuation[2])),
        torch.where(point < 0x10000, continuation[0], continuation[1]),
        continuation[0],
    ]  # fmt: skip
    there = [word > 0, *((word > 0) & (point >= least) for least in (0x80, 0x800, 0x10000))]
    batch, width = point.shape[0], point.shape[1] + point.shape[1] // 2
    byte, kept, words = (torch.stack(several, 2).reshape(batch, -1) for several in (parts, there, [word] * 4))
    return _compacted(byte, kept, width), _compacted(words, kept, width)


def letters_of_bytes() -> list[str]:
    """The printable character by which a vocabulary writes each byte (GPT-2's table, Radford et al. 2019)."""
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = iter(range(256, 512))
    return [chr(byte if byte in printable else next(others)) for byte in range(256)]


@functools.cache
def _tables() -> dict[str, tuple[Tensor, Tensor]]:
    """What Unicode, as this Python knows it, says about each code point: its kind, and what to add for lower case (0
    where that is not a single code point). Each in two levels: the number of every page, and the different pages."""
    characters = [chr(point) for point in range(0x110000)]
    kinds = [{"L": LETTER, "N": DIGIT}.get(unicodedata.category(character)[0], OTHER) for character in characters]
    for point in _SPACES:
        kinds[point] = SPACE
    lowered = [character.lower() for character in characters]
    lower = [ord(new) - point if len(new) == 1 else 0 for point, new in enumerate(lowered)]
    return {"kind": _paged(kinds), "lower": _paged(lower)}


def _paged(table: Sequence[int]) -> tuple[Tensor, Tensor]:
    pages: dict[tuple[int, ...], int] = {}
    starts = range(0, len(table), PAGE)
    numbers = [pages.setdefault(tuple(table[start : start + PAGE]), len(pages)) for start in starts]
    return torch.tensor(numbers, dtype=torch.int32), torch.tensor([*pages], dtype=torch.int32).reshape(-1)
