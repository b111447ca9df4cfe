"""WAV files: RIFF chunks, read strictly, and 16-bit PCM written.

A file may come from a stranger, so every length that it states is compared with what is there before samples are
decoded. The layout is that of Microsoft's and IBM's "Multimedia Programming Interface and Data Specifications 1.0"
(1991), and `WAVE_FORMAT_EXTENSIBLE` of Windows 2000.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import InvalidFileError
from ..text import safe_text
from .files import InputFile
from .metadata import MAX_METADATA

if TYPE_CHECKING:
    import numpy as np

PCM, FLOAT, EXTENSIBLE = 1, 3, 0xFFFE
"""Formats of samples: integers, floats, and one that says further on which of them it is."""

UNKNOWN = 0xFFFFFFFF
"""A length that was not known yet when a header was written into a pipe: up to the end of the file."""

MAX_DATA = 2**32 - 2**20  # bytes of samples: lengths are of 32 bits, and the recipe needs room
MAX_CHUNKS = 1000

_GUID = bytes.fromhex("0000 0000 1000 8000 00aa 0038 9b71")  # the end of the GUIDs whose first bytes are a format


@dataclass(frozen=True)
class Header:
    """What a WAV file says about its samples.

    Attributes:
        frames: samples of each channel.
        sample_rate: Hz.
        start: where the samples are in the file, bytes.
        comment: the texts ISFT (what wrote the file) and ICMT of its list of information; empty if it has none.
    """

    frames: int
    channels: int
    sample_rate: int
    bits: int
    format: int
    start: int
    software: str = ""
    comment: str = ""


def is_wav(data: bytes) -> bool:
    """Whether a file begins as a WAV file does."""
    return data[:4] == b"RIFF" and data[8:12] == b"WAVE"


def read_header(file: InputFile) -> Header:
    """The header of a WAV file, compared with the file's length.

    Raises:
        InvalidFileError: it is damaged, cut short, or states another length than the file has.
    """
    data, shown = file.data, file.shown
    end = 8 + int.from_bytes(data[4:8], "little")
    if end == 8 + UNKNOWN:
        end = len(data)
    if end > len(data):
        raise InvalidFileError(f"{shown} is cut short: its header states {end:,} bytes, and it has {len(data):,}")
    if len(data) - end > 1:  # a last byte to make the length even, which some programs do not count
        raise InvalidFileError(
            f"{shown} states a wrong length: its header states {end:,} bytes, and it has {len(data):,}"
        )
    layout: tuple[int, int, int, int, int] | None = None
    samples: tuple[int, int] | None = None
    texts: dict[bytes, str] = {}
    for count, (name, start, length) in enumerate(riff_chunks(data, end)):
        if length == UNKNOWN and name == b"data":
            length = end - start
        if start + length > end:
            raise InvalidFileError(
                f"{shown} is cut short: its chunk {safe_text(name.decode('latin-1'))} states {length:,} bytes, and"
                f" {end - start:,} are there"
            )
        if count >= MAX_CHUNKS:
            raise InvalidFileError(f"{shown} has more than {MAX_CHUNKS:,} chunks")
        if name == b"fmt " and layout is None:
            layout = _layout(data[start : start + min(length, 40)], shown)
        elif name == b"data" and samples is None:
            samples = start, length
        elif name == b"LIST" and data[start : start + 4] == b"INFO":
            texts = _texts(data[start + 4 : start + min(length, 2 * MAX_METADATA)]) | texts
    if layout is None or samples is None:
        raise InvalidFileError(f"{shown} has no {'samples' if layout else 'format'}: it is damaged")
    format, channels, sample_rate, block, bits = layout
    start, length = samples
    if length % block:
        raise InvalidFileError(f"{shown} is cut short: its last sample is not whole")
    software, comment = texts.get(b"ISFT", ""), texts.get(b"ICMT", "")
    return Header(length // block, channels, sample_rate, bits, format, start, software, comment)


def stated_length(start: bytes, shown: str) -> tuple[int, int, int] | None:
    """Samples of each channel, channels and sample rate that the first bytes of a WAV file state.

    None if they do not say it, or it is not a WAV file. Nothing is compared with the file's length, so that a file that
    is too long need not be read.
    """
    layout = None
    for _, (name, at, length) in zip(range(MAX_CHUNKS), riff_chunks(start, len(start)) if is_wav(start) else ()):
        if name == b"fmt " and layout is None and at + length <= len(start):
            layout = _layout(start[at : at + min(length, 40)], shown)
        elif name == b"data" and layout and length != UNKNOWN:
            return length // layout[3], layout[1], layout[2]
    return None


def riff_chunks(data: bytes, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Name, start and stated length of each chunk of a RIFF file that begins before `end`."""
    at = 12
    while at + 8 <= end:
        name, length = struct.unpack_from("<4sI", data, at)
        yield name, at + 8, length
        at += 8 + length + length % 2


def _layout(chunk: bytes, shown: str) -> tuple[int, int, int, int, int]:
    """Format, channels, sample rate, bytes of one sample of all channels, and bits, from the chunk `fmt `."""
    if len(chunk) < 16:
        raise InvalidFileError(f"{shown} has a damaged header")
    format, channels, sample_rate, _, block, bits = struct.unpack_from("<HHIIHH", chunk)
    if format == EXTENSIBLE and len(chunk) >= 40 and chunk[26:40] == _GUID:
        format = int.from_bytes(chunk[24:26], "little")
    if not channels or not block:
        raise InvalidFileError(f"{shown} has a damaged header: {channels} channels of {bits} bits in {block} bytes")
    if readable(format, bits) and block != channels * bits // 8:
        raise InvalidFileError(f"{shown} has a damaged header: {channels} channels of {bits} bits in {block} bytes")
    return format, channels, sample_rate, block, bits


def readable(format: int, bits: int) -> bool:
    """Whether `decode` reads samples of a format: PCM of 8, 16, 24 and 32 bits, floats of 32 and 64 bits."""
    return (format == PCM and bits in (8, 16, 24, 32)) or (format == FLOAT and bits in (32, 64))


def decode(file: InputFile, header: Header) -> np.ndarray:
    """The samples, float32 [frames, channels]; integers are divided by 2^(bits - 1), so that they are in -1 .. 1."""
    import numpy as np

    count, bits = header.frames * header.channels, header.bits
    if header.format == FLOAT:
        values = np.frombuffer(file.data, f"<f{bits // 8}", count, header.start)
        with np.errstate(over="ignore"):  # what is too large for float32 becomes infinite, and is refused as such
            wave = values.astype(np.float32)
    elif bits == 8:  # the only one without a sign
        wave = (np.frombuffer(file.data, np.uint8, count, header.start).astype(np.float32) - 128) / 128
    elif bits == 24:
        low = np.frombuffer(file.data, np.uint8, 3 * count, header.start).reshape(-1, 3)
        whole = np.zeros((count, 4), np.uint8)
        whole[:, 1:] = low
        wave = whole.view("<i4")[:, 0].astype(np.float32) / 2**31
    else:
        wave = np.frombuffer(file.data, f"<i{bits // 8}", count, header.start).astype(np.float32) / 2 ** (bits - 1)
    return wave.reshape(header.frames, header.channels)


def encode(wave: np.ndarray, sample_rate: int, software: str = "", comment: str = "") -> bytes:
    """A WAV file of 16-bit PCM: float32 [frames, channels], times 2^15, rounded; beyond -1 .. 1 it is clipped.

    Raises:
        InvalidFileError: it would be longer than a WAV file can be.
    """
    import numpy as np

    if 2 * wave.size > MAX_DATA:
        raise InvalidFileError(
            f"{2 * wave.size:,} bytes of sound; a WAV file holds at most {MAX_DATA:,}: write a file each, with"
            " {index} in its name"
        )
    levels = np.clip(np.rint(wave.astype(np.float64) * 2**15), -(2**15), 2**15 - 1).astype("<i2")
    channels = wave.shape[1]
    layout = struct.pack("<HHIIHH", PCM, channels, sample_rate, 2 * channels * sample_rate, 2 * channels, 16)
    texts = b"".join(_chunk(n, t.encode() + b"\0") for n, t in ((b"ISFT", software), (b"ICMT", comment)) if t)
    info = _chunk(b"LIST", b"INFO" + texts) if texts else b""
    return _chunk(b"RIFF", b"WAVE" + _chunk(b"fmt ", layout) + info + _chunk(b"data", levels.tobytes()))


def _chunk(name: bytes, content: bytes) -> bytes:
    return name + len(content).to_bytes(4, "little") + content + b"\0" * (len(content) % 2)


def _texts(content: bytes) -> dict[bytes, str]:
    """The texts of a list of information. Damaged ones count as absent."""
    found: dict[bytes, str] = {}
    at = 0
    while at + 8 <= len(content) and len(found) < MAX_CHUNKS:
        name, length = struct.unpack_from("<4sI", content, at)
        text = content[at + 8 : at + 8 + min(length, MAX_METADATA + 1)]
        found.setdefault(name, text.rstrip(b"\0").decode("utf-8", "replace"))
        at += 8 + length + length % 2
    return found
