"""Picture files without their metadata, so that no text, profile or EXIF data can stop a picture that decodes.

The decoder gets the parts of a PNG, JPEG or WebP file that its pixels need, and nothing else. From the rest, only what
a viewer needs is read, here and with bounds: the orientation, whether a PNG is animated, its transparency. Damaged
metadata count as absent.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from ..errors import InvalidFileError

MAX_METADATA = 1 << 20
"""The most bytes of one text that are read."""

MAX_PARTS = 1_000_000
"""The most chunks or segments of a file."""


@dataclass(frozen=True)
class Bare:
    """A picture file without its metadata, and what they said about how it is shown.

    Attributes:
        data: a file of the same format with the same pixels.
        orientation: 1 .. 8, as in EXIF; 1 is upright.
        transparency: contents of the chunk tRNS of a PNG, which `data` lacks: decoders treat it differently by depth.
        animated: a PNG with more than one frame. `data` has only the picture for viewers that do not animate.
    """

    data: bytes
    orientation: int = 1
    transparency: bytes | None = None
    animated: bool = False


def bare(kind: str, data: bytes, *, frames: bool = False) -> Bare:
    """The file without its metadata.

    Args:
        kind: `PNG`, `JPEG`, `WebP`; files of other formats are returned as they are.
        frames: a PNG keeps its frames, and with them its transparency.

    Raises:
        InvalidFileError: more parts than any program writes.
    """
    if kind == "PNG" and frames:
        return _png(data, (*_PIXELS, *_FRAMES, b"tRNS", b"acTL"))
    return {"PNG": _png, "JPEG": _jpeg, "WebP": _webp}.get(kind, Bare)(data)


def png_text(data: bytes, keyword: str) -> str | None:
    """The text (tEXt, zTXt, iTXt) of a PNG with this keyword; None if it has none that can be read."""
    for kind, start, end in png_chunks(data):
        if (text := _text(kind, data[start:end], keyword.encode("latin-1"))) is not None:
            return text.decode("utf-8" if kind == b"iTXt" else "latin-1", "replace")
    return None


# --- PNG: https://www.w3.org/TR/png-3/ --------------------------------------------------------------------------------


_PIXELS = (b"IHDR", b"PLTE", b"IDAT")
"""The chunks that the picture for viewers that do not animate needs, besides tRNS."""

_FRAMES = (b"fcTL", b"fdAT")
"""What the frames of an animated PNG need besides."""


def _png(data: bytes, needed: Collection[bytes] = _PIXELS) -> Bare:
    view = memoryview(data)
    kept, exif, xmp, profile, transparency, frames, pixels, end = [view[:8]], b"", b"", b"", None, 0, False, 0
    for kind, start, end in png_chunks(data):
        if kind in needed:
            kept.append(view[start - 8 : end + 4])
        pixels |= kind == b"IDAT"
        if kind in (*_PIXELS, *_FRAMES):
            continue
        if kind == b"tRNS":
            sound = zlib.crc32(view[start - 4 : end]).to_bytes(4, "big") == view[end : end + 4]
            transparency = data[start : min(end, start + 256)] if sound and not pixels else transparency
        elif kind == b"acTL" and end - start == 8:
            frames = int.from_bytes(data[start : start + 4], "big")
        elif kind == b"eXIf":
            exif = exif or data[start : min(end, start + MAX_METADATA)]
        else:
            xmp = xmp or _text(kind, data[start:end], b"XML:com.adobe.xmp") or b""
            profile = profile or _text(kind, data[start:end], b"Raw profile type exif") or b""
    if end + 4 <= len(data):  # else a decoder would take it for the rest of a chunk that is cut short
        kept.append(memoryview(b"\0\0\0\0IEND\xaeB`\x82"))
    return Bare(b"".join(kept), _orientation(exif or _of_raw_profile(profile), xmp), transparency, 1 < frames < 1 << 31)


def png_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Type, start and end of each chunk's contents, up to IEND or to the end of a file that is cut short."""
    at, count = 8, 0
    while at + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        if kind == b"IEND":
            return
        count += 1
        if count > MAX_PARTS:
            raise InvalidFileError(f"more than {MAX_PARTS:,} chunks")
        yield kind, at + 8, min(at + 8 + length, len(data))
        at += 12 + length


def _text(kind: bytes, content: bytes, keyword: bytes) -> bytes | None:
    """The text of a chunk tEXt, zTXt or iTXt with this keyword, at most `MAX_METADATA` bytes; None if it is another."""
    if kind not in (b"tEXt", b"zTXt", b"iTXt") or not content.startswith(keyword + b"\0"):
        return None
    rest = content[len(keyword) + 1 :]
    packed = kind == b"zTXt"
    if kind == b"iTXt":
        packed, rest = rest[:1] == b"\1", rest[2:].split(b"\0", 2)[-1]  # after the language and the translated keyword
    elif packed:
        rest = rest[1:]
    if not packed:
        return rest[: MAX_METADATA + 1]
    try:
        return zlib.decompressobj().decompress(rest, MAX_METADATA + 1)
    except zlib.error:
        return None


def _of_raw_profile(text: bytes) -> bytes:
    """EXIF as ImageMagick wrote it into PNGs before there was eXIf: a name, a length, hexadecimal digits."""
    try:
        return bytes.fromhex(b"".join(text.split(b"\n")[3:]).decode("ascii"))
    except ValueError:
        return b""


# --- JPEG: ITU-T T.81, annex B ----------------------------------------------------------------------------------------


_MARKER = re.compile(rb"\xff([^\x00\xff])")
_WITHOUT_CONTENTS = {0x01, *range(0xD0, 0xD9)}
_SCAN, _END = 0xDA, 0xD9
_COMMENT, _APPLICATIONS = 0xFE, range(0xE0, 0xF0)
_COLOURS = {0xE0: (b"JFIF\0", 14), 0xEE: (b"Adobe", 12)}  # where libjpeg looks for the colour space


def _jpeg(data: bytes) -> Bare:
    """Without the comments and application segments before the first scan; decoders skip later ones."""
    view = memoryview(data)
    kept, exif, xmp, at, count = [view[:2]], b"", b"", 2, 0
    while found := _MARKER.search(data, at):
        marker, start = found[1][0], found.end()
        if marker in (_SCAN, _END):
            break
        at = start if marker in _WITHOUT_CONTENTS else start + max(2, int.from_bytes(data[start : start + 2], "big"))
        count += 1
        if count > MAX_PARTS:
            raise InvalidFileError(f"more than {MAX_PARTS:,} segments")
        content = data[start + 2 : at]
        begins, least = _COLOURS.get(marker, (b"", 0))
        if (marker not in _APPLICATIONS and marker != _COMMENT) or (
            least and content.startswith(begins) and len(content) >= least
        ):
            kept.append(view[found.start() : at])
        elif content.startswith(b"Exif\0"):
            exif = exif or content
        elif content.startswith(_XMP):
            xmp = xmp or content
    kept.append(view[found.start() if found else at :])
    return Bare(b"".join(kept), _orientation(exif, xmp))


# --- WebP: RFC 9649 ---------------------------------------------------------------------------------------------------


def _webp(data: bytes) -> Bare:
    body, exif, xmp, at, count = [b"WEBP"], b"", b"", 12, 0
    end = min(len(data), 8 + int.from_bytes(data[4:8], "little"))
    while at + 8 <= end:
        kind, length = struct.unpack_from("<4sI", data, at)
        content = slice(at + 8, min(at + 8 + length, end))
        count += 1
        if count > MAX_PARTS:
            raise InvalidFileError(f"more than {MAX_PARTS:,} chunks")
        if kind == b"VP8X":
            flags = data[at + 8 : at + 9]
            body += [data[at : at + 8], bytes(f & ~_METADATA_FLAGS for f in flags), data[at + 9 : content.stop]]
        elif kind in (b"ALPH", b"VP8 ", b"VP8L", b"ANIM", b"ANMF"):
            body += [data[at : content.stop], b"\0" * (length % 2 if content.stop == at + 8 + length else 0)]
        elif kind == b"EXIF":
            exif = exif or data[content]
        elif kind == b"XMP ":
            xmp = xmp or data[content]
        at += 8 + length + length % 2
    size = sum(map(len, body))
    return Bare(b"".join((b"RIFF", size.to_bytes(4, "little"), *body)), _orientation(exif, xmp))


_METADATA_FLAGS = 0x20 | 0x08 | 0x04  # colour profile, EXIF, XMP


# --- EXIF: JEITA CP-3451 ----------------------------------------------------------------------------------------------


_XMP = b"http://ns.adobe.com/xap/1.0/\0"
_ORIENTATION = 0x0112


def _orientation(exif: bytes, xmp: bytes) -> int:
    """1 .. 8: what EXIF says, else XMP; 1 if neither says anything that can be read."""
    found = _exif_orientation(exif.removeprefix(b"Exif\0").removeprefix(b"\0"))
    if found is None and (said := re.search(rb'tiff:Orientation(?:="|>)([0-9])', xmp[:MAX_METADATA])):
        found = int(said[1])
    return found if found and found <= 8 else 1


def _exif_orientation(tiff: bytes) -> int | None:
    """The tag Orientation of the first directory; nothing else is read."""
    try:
        order = {b"II": "<", b"MM": ">"}[tiff[:2]]
        (at,) = struct.unpack_from(f"{order}4xI", tiff)
        (entries,) = struct.unpack_from(f"{order}H", tiff, at)
        for entry in range(at + 2, at + 2 + 12 * entries, 12):
            tag, kind = struct.unpack_from(f"{order}HH", tiff, entry)
            if tag == _ORIENTATION:
                return struct.unpack_from(order + {1: "B", 3: "H", 4: "I"}[kind], tiff, entry + 8)[0]
    except (struct.error, KeyError):  # damaged, or cut short
        pass
    return None
