import io
import struct
import sys
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps, PngImagePlugin

from zoo.errors import InvalidFileError, NotFoundError, UsageError
from zoo.hookspecs import Port
from zoo.media import pictures
from zoo.media.files import InputFile, read_input
from zoo.media.grid import Grid
from zoo.media.pictures import MAX_SCANS, decode_picture, decode_png, encode_png, read_pictures, upright_size

GREY = Port(kind="image", dtype="uint8", shape=("batch", "height", "width", 1), minimum_size=8, maximum_pixels=10_000)
COLOUR = Port(kind="image", dtype="uint8", shape=("batch", "height", "width", 3))
FIXED = Port(kind="image", dtype="uint8", shape=("batch", 16, 16, 3), minimum_size=16, maximum_pixels=256)

NOISE = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
RGB = Image.fromarray(NOISE)
GREYS = Image.fromarray(NOISE[..., 0])


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> InputFile:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return InputFile(f"x.{kind.lower()}", buffer.getvalue(), "")


def decoded(file: InputFile, port: Port) -> tuple[np.ndarray, list[str]]:
    notes: list[str] = []
    return decode_picture(file, "image", port, notes.append), notes


def refused(data: bytes, port: Port = COLOUR) -> str:
    with pytest.raises(InvalidFileError) as caught:
        decode_picture(InputFile("x", data, ""), "image", port, lambda line: None)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "WebP"])
def test_lossless_formats_come_in_exactly(kind: str):
    pixels, notes = decoded(encoded(RGB, kind, lossless=True), COLOUR)
    assert pixels.dtype == np.uint8 and (pixels == NOISE).all() and notes == []


def test_jpeg_and_gif_come_in():
    smooth = Image.fromarray(np.full((20, 30, 3), 90, np.uint8))
    for kind in ("JPEG", "GIF"):
        pixels, notes = decoded(encoded(smooth, kind), COLOUR)
        assert pixels.shape == (20, 30, 3) and np.abs(pixels.astype(int) - 90).max() <= 1 and notes == []


def test_colour_to_grey_and_grey_to_colour_are_said():
    pixels, notes = decoded(encoded(RGB), GREY)
    assert (pixels[..., 0] == np.asarray(RGB.convert("L"))).all()
    assert notes == ["x.png is in colour: converted to grey"]
    pixels, notes = decoded(encoded(GREYS), COLOUR)
    assert (pixels == NOISE[..., :1]).all() and notes == ["x.png is grey: repeated in three channels"]


def test_a_colour_file_that_is_grey_needs_no_word():
    pixels, notes = decoded(encoded(GREYS.convert("RGB")), GREY)
    assert (pixels == NOISE[..., :1]).all() and notes == []


def test_transparency_is_laid_on_white():
    image = RGB.convert("RGBA")
    image.putpixel((3, 2), (0, 0, 0, 0))
    pixels, notes = decoded(encoded(image), COLOUR)
    assert pixels[2, 3].tolist() == [255, 255, 255] and pixels[0, 0].tolist() == NOISE[0, 0].tolist()
    assert notes == ["x.png is partly transparent: put on white"]
    assert decoded(encoded(RGB.convert("RGBA")), COLOUR)[1] == []  # opaque
    palette = GREYS.quantize(4)
    palette.info["transparency"] = 0
    assert decoded(encoded(palette), COLOUR)[1] == ["x.png is partly transparent: put on white"]


# --- Transparency of PNGs ---------------------------------------------------------------------------------------------


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(depth: int, colour: int, rows: np.ndarray, *before: bytes) -> InputFile:
    """A PNG of samples [height, width, channels], with chunks before its pixels; Pillow cannot write all depths."""
    height, width, _ = rows.shape
    if depth == 16:
        lines = [row.astype(">u2").tobytes() for row in rows]
    else:
        bits = np.unpackbits(rows.astype(np.uint8)[..., None], axis=-1)[..., -depth:]
        lines = [np.packbits(row.reshape(-1)).tobytes() for row in bits]
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + line for line in lines))
    parts = (chunk(b"IHDR", header), *before, chunk(b"IDAT", pixels), chunk(b"IEND", b""))
    return InputFile("x.png", b"\x89PNG\r\n\x1a\n" + b"".join(parts), "")


PALETTE = chunk(b"PLTE", bytes(v for n in range(4) for v in (n, 2 * n, 3 * n)))
WHITE_NOTE = "x.png is partly transparent: put on white"


@pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("value", ["lowest", "highest"])
def test_the_transparent_grey_of_a_png_of_any_depth_is_laid_on_white(depth: int, value: str):
    highest = (1 << depth) - 1
    key = 0 if value == "lowest" else highest
    transparency = chunk(b"tRNS", struct.pack(">H", key))
    pixels, notes = decoded(png(depth, 0, np.array([[[0], [highest]]] * 2), transparency), COLOUR)
    assert pixels[0, :, 0].tolist() == ([255, 255] if key == 0 else [0, 255]) and WHITE_NOTE in notes
    others = np.array([[[v] for v in (highest - key, key ^ 1) if v != key]] * 2)  # of 16 bits, the lowest may differ
    pixels, notes = decoded(png(depth, 0, others, transparency), COLOUR)
    expected = others >> 8 if depth == 16 else others * 255 // highest
    assert (pixels[..., :1] == expected).all() and WHITE_NOTE not in notes


@pytest.mark.parametrize("depth", [8, 16])
def test_the_transparent_colour_of_an_rgb_png_is_compared_at_its_own_depth(depth: int):
    unit = 1 if depth == 8 else 257
    rows = np.array([[[10, 20, 30], [10, 20, 31], [11, 20, 30]]] * 2) * unit
    rows[0, 1, 2] = 30 * unit + (depth == 16)  # differs from the first only in the lowest bit of 16
    pixels, notes = decoded(png(depth, 2, rows, chunk(b"tRNS", struct.pack(">3H", *rows[0, 0]))), COLOUR)
    assert pixels[0, 0].tolist() == [255, 255, 255] and pixels[0, 2].tolist() == [11, 20, 30] and WHITE_NOTE in notes
    assert pixels[0, 1].tolist() == ([255] * 3 if depth == 8 else [10, 20, 30])


@pytest.mark.parametrize("depth", [2, 4, 8])
def test_the_alpha_of_a_palette_of_any_depth_is_laid_on_white(depth: int):
    rows = np.array([[[0], [1], [2], [3]]])
    pixels, notes = decoded(png(depth, 3, rows, PALETTE, chunk(b"tRNS", b"\xff\x00\x80")), COLOUR)
    assert pixels[0].tolist() == [[0, 0, 0], [255] * 3, [128, 129, 130], [3, 6, 9]] and notes == [WHITE_NOTE]
    assert decoded(png(depth, 3, rows, PALETTE, chunk(b"tRNS", b"\xff\xff")), COLOUR)[1] == []


@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize("colour, channels", [(4, 2), (6, 4)])
def test_an_alpha_channel_of_any_depth_is_laid_on_white(depth: int, colour: int, channels: int):
    rows = np.full((2, 3, channels), 40) * (1 if depth == 8 else 257)
    rows[0, 0, -1] = 0
    rows[:, 1:, -1] = (1 << depth) - 1
    pixels, notes = decoded(png(depth, colour, rows), COLOUR)
    assert pixels[0].tolist() == [[255] * 3, [40] * 3, [40] * 3] and WHITE_NOTE in notes
    assert ("x.png is grey: repeated in three channels" in notes) == (colour == 4)


@pytest.mark.parametrize("content", [b"", b"\0", b"\0\0\0", bytes(300)])
def test_transparency_of_the_wrong_length_is_ignored_and_said(content: bytes):
    pixels, notes = decoded(png(8, 0, np.zeros((8, 8, 1)), chunk(b"tRNS", content)), GREY)
    assert (pixels == 0).all() and notes == ["x.png has damaged transparency: ignored"]


# --- Metadata ---------------------------------------------------------------------------------------------------------

ODD_EXIF = {
    "empty": b"",
    "no directory": b"II*\0",
    "a directory far away": b"II*\0\xff\xff\xff\x7f",
    "a directory of many": b"MM\0*\0\0\0\x08\xff\xff",
    "a sub directory far away": b"II*\0\x08\0\0\0\x01\0\x69\x87\x04\0\x01\0\0\0\x0f\x27\0\0",
    "an orientation of an odd type": b"II*\0\x08\0\0\0\x01\0\x12\x01\x63\0\x01\0\0\0\x06\0\0\0",
    "an orientation of 9": b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x09\0\0\0",
    "zeros": bytes(99),
    "noise": NOISE.tobytes()[:999],
}


def zipped(length: int) -> bytes:
    return zlib.compress(bytes(length))


ODD_CHUNKS = {
    "a text of 50 MB": chunk(b"zTXt", b"workflow\0\0" + zipped(50_000_000)),
    "an international text of 50 MB": chunk(b"iTXt", b"a\0\1\0\0\0" + zipped(50_000_000)),
    "80 texts of 1 MB": chunk(b"zTXt", b"a\0\0" + zipped(1_000_000)) * 80,
    "a damaged text": chunk(b"zTXt", b"a\0\0no zlib"),
    "a text without a keyword": chunk(b"tEXt", b"") + chunk(b"iTXt", b"a\0") + chunk(b"zTXt", b"a\0\x09x"),
    "a plain text of 20 MB": chunk(b"tEXt", b"a\0" + b"x" * 20_000_000),
    "a profile of 50 MB": chunk(b"iCCP", b"icc\0\0" + zipped(50_000_000)),
    "a damaged profile": chunk(b"iCCP", b"icc"),
    "a wrong checksum": chunk(b"tEXt", b"a\0b")[:-1] + b"!",
    "short numbers": b"".join(chunk(kind, b"\0") for kind in (b"pHYs", b"gAMA", b"cHRM", b"sRGB", b"acTL", b"fcTL")),
    "an unknown chunk": chunk(b"vpAg", b"\0") + chunk(b"ABCD", b"x"),
    "a hex profile": chunk(b"tEXt", b"Raw profile type exif\0\nexif\n  4\nzz"),
} | {f"EXIF: {name}": chunk(b"eXIf", content) for name, content in ODD_EXIF.items()}


@pytest.mark.parametrize("odd", ODD_CHUNKS)
@pytest.mark.filterwarnings("error")
def test_no_chunk_of_metadata_stops_a_png(odd: str):
    data = png(8, 2, NOISE, ODD_CHUNKS[odd]).data
    pixels, notes = decoded(InputFile("x.png", data, ""), COLOUR)
    assert (pixels == NOISE).all() and notes == []
    data = data[: -len(chunk(b"IEND", b""))] + ODD_CHUNKS[odd][:-2]  # after the pixels, cut short
    assert (decoded(InputFile("x.png", data, ""), COLOUR)[0] == NOISE).all()


def segment(marker: int, content: bytes) -> bytes:
    return bytes((0xFF, marker)) + struct.pack(">H", len(content) + 2) + content


ODD_SEGMENTS = (
    {
        "short ones of all kinds": b"".join(segment(0xE0 + n, b"x") for n in range(16)),
        "empty ones of all kinds": b"".join(segment(0xE0 + n, b"") for n in range(16)),
        "a length of 0": b"\xff\xe5\0\0",
        "a short JFIF": segment(0xE0, b"JFIF\0"),
        "a short Adobe": segment(0xEE, b"Adobe"),
        "a profile of a thousand parts": segment(0xE2, b"ICC_PROFILE\0" + b"\x01\xff" + bytes(99)) * 1000,
        "an odd profile": segment(0xE2, b"ICC_PROFILE\0"),
        "odd Photoshop data": segment(0xED, b"Photoshop 3.0\0" + b"8BIM\x03\xed\0\0\0\0\0\1\0"),
        "odd Photoshop names": segment(0xED, b"Photoshop 3.0\08BIM\x03\xed"),
        "more pictures": segment(0xE2, b"MPF\0" + b"II*\0\xff\xff\xff\xff"),
        "comments": segment(0xFE, b"x" * 65_000) * 100,
        "padding": b"\xff" * 100_000,
    }
    | {f"EXIF: {name}": segment(0xE1, b"Exif\0\0" + content) for name, content in ODD_EXIF.items()}
    | {"EXIF twice": segment(0xE1, b"Exif\0\0" + bytes(60_000)) * 9}
)


@pytest.mark.parametrize("odd", ODD_SEGMENTS)
@pytest.mark.filterwarnings("error")
def test_no_segment_of_metadata_stops_a_jpeg(odd: str):
    for image in (RGB, GREYS, RGB.convert("CMYK")):
        plain = encoded(image, "JPEG")
        expected, notes = decoded(plain, COLOUR)
        file = InputFile(plain.name, plain.data[:2] + ODD_SEGMENTS[odd] + plain.data[2:], "")
        pixels, with_odd = decoded(file, COLOUR)
        assert (pixels == expected).all() and with_odd == notes


@pytest.mark.parametrize(
    "marker, content, channels", [(0xEE, b"Adobe\0d\0\0\0\0\0", 3), (0xEE, b"Adobe\0d\0\0\0\0\2", 4)]
)
def test_the_segments_that_state_the_colour_space_of_a_jpeg_are_kept(marker: int, content: bytes, channels: int):
    data = encoded(RGB if channels == 3 else RGB.convert("CMYK"), "JPEG").data
    start = data.index(b"\xff\xdb")
    data = data[:2] + segment(marker, content) + data[start:]
    with Image.open(io.BytesIO(data)) as image:
        expected = np.asarray(image.convert("RGB"))
    assert (decoded(InputFile("x", data, ""), COLOUR)[0] == expected).all()


@pytest.mark.parametrize("odd", ODD_EXIF)
@pytest.mark.filterwarnings("error")
def test_no_exif_or_profile_stops_a_webp(odd: str):
    options = {"lossless": True, "exif": b"EXIF here", "icc_profile": b"icc", "xmp": b"xmp"}
    data = encoded(RGB, "WebP", **options).data
    assert (decoded(InputFile("x", data, ""), COLOUR)[0] == NOISE).all()
    start = data.index(b"EXIF\x09")
    content = ODD_EXIF[odd]
    odd_chunk = b"EXIF" + struct.pack("<I", len(content)) + content + b"\0" * (len(content) % 2)
    for end in (odd_chunk, odd_chunk[:-1], b"EXIF\xff\xff\xff\x7f"):  # cut short, too long
        assert (decoded(InputFile("x", data[:start] + end, ""), COLOUR)[0] == NOISE).all()


@pytest.mark.parametrize("order", ["II", "MM"])
@pytest.mark.parametrize("turned", range(1, 9))
def test_every_orientation_of_every_format_is_applied(order: str, turned: int):
    exif = Image.Exif()
    exif.endian = "<" if order == "II" else ">"
    exif[0x0112] = turned
    exif[0x010F] = "maker"
    upright = np.asarray(ImageOps.exif_transpose(_oriented(turned)))
    for kind in ("PNG", "WebP"):
        file = encoded(RGB, kind, exif=exif, lossless=True)
        assert (decoded(file, COLOUR)[0] == upright).all(), kind
        assert upright_size(file) == upright.shape[1::-1]
    plain, _ = decoded(encoded(RGB, "JPEG"), COLOUR)
    jpeg = encoded(RGB, "JPEG", exif=exif)
    assert decoded(jpeg, COLOUR)[0].shape == upright.shape and upright_size(jpeg) == upright.shape[1::-1]
    assert np.sort(decoded(jpeg, COLOUR)[0], axis=None).tolist() == np.sort(plain, axis=None).tolist()


def _oriented(turned: int) -> Image.Image:
    image = RGB.copy()
    image.getexif()[0x0112] = turned
    return image


def test_an_orientation_in_xmp_or_in_an_old_text_chunk_is_applied():
    xmp = '<rdf:Description tiff:Orientation="6"/>'
    exif = Image.Exif()
    exif[0x0112] = 6
    digits = exif.tobytes().hex()
    for keyword, text, packed in (
        ("XML:com.adobe.xmp", xmp, False),
        ("Raw profile type exif", f"\nexif\n  {len(digits) // 2}\n{digits}\n", True),
    ):
        info = PngImagePlugin.PngInfo()
        info.add_itxt(keyword, text) if keyword.startswith("XML") else info.add_text(keyword, text, zip=packed)
        assert (decoded(encoded(RGB, pnginfo=info), COLOUR)[0] == np.rot90(NOISE, -1)).all()
    assert (decoded(encoded(RGB, "WebP", lossless=True, xmp=xmp.encode()), COLOUR)[0] == np.rot90(NOISE, -1)).all()
    assert decoded(encoded(RGB, "JPEG", xmp=xmp.encode()), COLOUR)[0].shape == (30, 20, 3)


def test_a_picture_with_more_parts_than_programs_write_is_refused_soon(monkeypatch):
    monkeypatch.setattr("zoo.media.metadata.MAX_PARTS", 1000)
    assert refused(png(8, 2, NOISE, chunk(b"tEXt", b"a\0") * 1000).data) == (
        "x is a damaged PNG file: more than 1,000 chunks"
    )
    data = encoded(RGB, "JPEG").data
    assert "more than 1,000 segments" in refused(data[:2] + segment(0xFE, b"") * 1001 + data[2:])
    data = encoded(RGB, "WebP").data
    body = data[8:] + b"JUNK\0\0\0\0" * 1001
    assert "more than 1,000 chunks" in refused(b"RIFF" + struct.pack("<I", len(body)) + body)


# --- Masks ------------------------------------------------------------------------------------------------------------


def mask_of(image: Image.Image, kind: str = "PNG", **options: object) -> tuple[list[int], list[str]]:
    """The first row of a mask."""
    notes: list[str] = []
    file = encoded(image, kind, **options)
    port = Port(kind="mask", dtype="uint8", shape=("batch", "height", "width", 1))
    return decode_picture(file, "mask", port, notes.append, mask=True)[0, :, 0].tolist(), notes


def painted(*pixels: tuple[int, int, int, int]) -> Image.Image:
    return Image.fromarray(np.array([pixels] * 2, np.uint8))


MASK_NOTE = "x.png is partly transparent: its transparent parts are not marked"


def test_transparent_parts_of_a_mask_are_not_marked():
    strokes = painted((255, 255, 255, 255), (255, 255, 255, 0), (0, 0, 0, 0), (0, 0, 0, 255), (255, 255, 255, 100))
    assert mask_of(strokes) == ([255, 0, 0, 0, 100], [MASK_NOTE])
    assert mask_of(strokes.convert("LA")) == ([255, 0, 0, 0, 100], [MASK_NOTE])
    palette = Image.fromarray(np.array([[1, 0, 0, 1]] * 2, np.uint8), "P")
    palette.putpalette([255] * 6)
    assert mask_of(palette, transparency=0) == ([255, 0, 0, 255], [MASK_NOTE])
    assert mask_of(strokes, "WebP", lossless=True, exact=True)[0] == [255, 0, 0, 0, 100]
    assert mask_of(strokes.convert("RGB")) == ([255, 255, 0, 0, 255], [])


def test_a_mask_in_colour_is_as_bright_as_its_brightest_channel():
    note = "x.png is in colour: as bright as the brightest of red, green and blue"
    strokes = painted((255, 0, 0, 255), (0, 0, 255, 255), (0, 0, 0, 255), (90, 60, 30, 255))
    assert mask_of(strokes.convert("RGB")) == ([255, 255, 0, 90], [note])
    assert mask_of(painted((255, 0, 0, 255), (255, 0, 0, 0))) == ([255, 0], [note, MASK_NOTE])


# --- Palettes, depths, animations -------------------------------------------------------------------------------------


def test_palette_and_bilevel_pictures_come_in():
    palette = RGB.quantize(16)
    assert (decoded(encoded(palette), COLOUR)[0] == np.asarray(palette.convert("RGB"))).all()
    bilevel, notes = decoded(encoded(GREYS.convert("1")), GREY)
    assert set(np.unique(bilevel)) == {0, 255} and notes == []


def test_sixteen_bits_are_cut_to_eight_and_said():
    deep = np.random.default_rng(1).integers(0, 65536, (20, 30), dtype=np.uint16)
    pixels, notes = decoded(encoded(Image.fromarray(deep)), GREY)
    assert (pixels[..., 0] == deep >> 8).all() and notes == ["x.png has 16 bits per channel: using the upper 8"]


def test_cmyk_is_converted_and_said():
    pixels, notes = decoded(encoded(RGB.convert("CMYK"), "JPEG", quality=95), COLOUR)
    assert pixels.shape == (20, 30, 3) and notes == ["x.jpeg is CMYK: converted to RGB"]


@pytest.mark.parametrize("kind", ["GIF", "WebP", "PNG"])
def test_an_animation_gives_its_first_frame_and_says_so(kind: str):
    first, second = Image.new("RGB", (20, 20), "white"), Image.new("RGB", (20, 20), "black")
    pixels, notes = decoded(encoded(first, kind, save_all=True, append_images=[second]), COLOUR)
    assert (pixels == 255).all() and notes == [f"x.{kind.lower()} is animated: using its first frame"]


def test_the_camera_s_orientation_is_applied():
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise
    pixels, _ = decoded(encoded(RGB, exif=exif), COLOUR)
    assert (pixels == np.rot90(NOISE, -1)).all()


def test_a_port_of_fixed_size_scales_and_says_so():
    pixels, notes = decoded(encoded(RGB), FIXED)
    assert pixels.shape == (16, 16, 3) and notes == ["x.png is 30x20: cropped at the centre and scaled to 16x16"]
    small, notes = decoded(encoded(RGB.resize((4, 4))), FIXED)
    assert small.shape == (16, 16, 3) and len(notes) == 1
    assert decoded(encoded(RGB.resize((16, 16))), FIXED)[1] == []


def test_too_small_and_too_large_pictures():
    assert refused(encoded(GREYS.resize((5, 5))).data, GREY) == "x is 5x5 pixels; it must be at least 8x8"
    assert refused(encoded(GREYS.resize((101, 100))).data, GREY) == (
        "x is 101x100, 10,100 pixels; it may have at most 10,000"
    )


def test_a_header_bomb_is_refused_before_a_pixel_is_decoded():
    data = bytearray(encoded(RGB).data)
    header = struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0)
    data[16:33] = header + struct.pack(">I", zlib.crc32(b"IHDR" + header))
    for port in (COLOUR, GREY, FIXED):
        assert refused(bytes(data), port) == "x is 20000x20000, 400,000,000 pixels; at most 40,000,000 are allowed"


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "WebP"])
def test_a_file_cut_anywhere_is_one_line(kind: str):
    data = encoded(RGB, kind).data
    for length in (1, 4, 12, 20, 40, len(data) // 2, len(data) - 60):
        refused(data[:length])


@given(st.sampled_from(["PNG", "JPEG", "GIF", "BMP", "WebP"]), st.integers(0, 400), st.integers(0, 255))
def test_a_changed_byte_gives_pixels_or_one_line(kind: str, position: int, value: int):
    data = bytearray(encoded(RGB, kind).data)
    data[position % len(data)] = value
    try:
        pixels = decode_picture(InputFile("x", bytes(data), ""), "image", COLOUR, lambda line: None)
        assert pixels.dtype == np.uint8 and pixels.shape[-1] == 3
    except InvalidFileError as e:
        assert "\n" not in str(e)


def _progressive(scans: int) -> bytes:
    """A progressive JPEG whose last scan is repeated, so that it has that many."""
    data = encoded(RGB, "JPEG", progressive=True).data
    last = data.rindex(b"\xff\xda")
    return data[:last] + data[last:-2] * (scans - data.count(b"\xff\xda") + 1) + data[-2:]


def test_the_scans_of_a_jpeg_are_counted_before_it_is_decoded(monkeypatch):
    """One of 3,000 scans, 182 kB, took 90 s."""
    ten = encoded(RGB, "JPEG", progressive=True)
    assert ten.data.count(b"\xff\xda") == 10 and decoded(ten, COLOUR)[0].shape == (20, 30, 3)
    decoded(InputFile("x.jpg", _progressive(MAX_SCANS), ""), COLOUR)
    assert refused(_progressive(MAX_SCANS + 1)) == "x is a damaged JPEG file: it has more than 100 scans"


def test_what_looks_like_a_scan_in_a_segment_is_none():
    """Thumbnails, profiles and what is appended may contain any bytes."""
    data = encoded(RGB, "JPEG", progressive=True).data
    segment = b"\xff\xe5" + (2 + 2000).to_bytes(2, "big") + b"\xff\xda" * 1000
    for changed in (data[:2] + segment + data[2:], data + b"\xff\xda" * 1000, b"\xff\xd8\xff" + data[2:2] + data[2:]):
        assert decoded(InputFile("x.jpg", changed, ""), COLOUR)[0].shape == (20, 30, 3)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP"])
def test_decoding_has_a_time_limit(monkeypatch, kind: str):
    file = encoded(RGB.resize((600, 600)), kind)
    monkeypatch.setattr(pictures, "DECODE_SECONDS", -1.0)
    reason = "takes more than -1 s"
    assert reason in refused(file.data)


def test_other_formats_are_refused_by_their_first_bytes():
    for data in (encoded(RGB, "PPM").data, b"%!PS-Adobe", b"hello", b"RIFF....WAVE", b"\0\0\0\x18ftypmp42"):
        assert refused(data) == "x is not a picture that zoo can read: PNG, JPEG, WebP, GIF or BMP"


OTHERS = [
    ("TIFF", encoded(RGB, "TIFF").data), ("HEIC", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"), ("PDF", b"%PDF-1.7\n"),
    ("HEIC", b"\0\0\0\x24ftypmif1\0\0\0\0"), ("AVIF", b"\0\0\0\x20ftypavif\0\0\0\0"), ("PSD", b"8BPS\0\x01"),
    ("SVG", b'<svg xmlns="http://www.w3.org/2000/svg"/>'), ("JPEG XL", b"\xff\x0a\xfa"),
    ("SVG", b'\xef\xbb\xbf<?xml version="1.0"?>\n<!-- Inkscape -->\n<svg width="1"/>'),
    ("JPEG 2000", b"\0\0\0\x0cjP  \r\n\x87\n"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "data"), OTHERS)
def test_a_picture_of_another_format_is_named(name, data):
    assert refused(data).endswith(f"WebP, GIF or BMP; it is {name}: convert it to PNG, e.g. with `magick FILE x.png`"
                                  " (ImageMagick)")  # fmt: skip


def test_what_looks_like_svg_is_read_in_linear_time():
    start = time.process_time()
    assert "it is" not in refused(b" " * 5000) and "it is" not in refused(b"<!--" * 1000 + b"<?xml" * 1000)
    assert time.process_time() - start < 1


def test_files_that_are_not_there_or_empty(tmp_path: Path, monkeypatch):
    with pytest.raises(NotFoundError, match=r"none\.png does not exist$"):
        read_input(str(tmp_path / "none.png"))
    with pytest.raises(InvalidFileError, match="is a folder, not a file"):
        read_input(str(tmp_path))
    with pytest.raises(UsageError, match="contains a NUL"):
        read_input("a\0b")
    (tmp_path / "empty.png").touch()
    with pytest.raises(InvalidFileError, match=r"/empty\.png is empty$"):
        read_input(str(tmp_path / "empty.png"))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"")))
    with pytest.raises(InvalidFileError, match="^stdin is empty$"):
        read_input("-")


def test_an_endless_file_is_not_read_to_its_end(monkeypatch):
    monkeypatch.setattr("zoo.media.files.MAX_FILE_BYTES", 1 << 20)
    with pytest.raises(InvalidFileError, match="^/dev/zero has more than 1 MiB"):
        read_input("/dev/zero")


def test_pictures_of_one_call_have_one_size():
    same = [encoded(RGB), encoded(RGB, "BMP")]
    assert read_pictures(same, "image", COLOUR, print).shape == (2, 20, 30, 3)
    with pytest.raises(InvalidFileError, match=r"^x\.png is 30x20 and x\.bmp is 8x8 pixels; all pictures of one call"):
        read_pictures([encoded(RGB), encoded(RGB.resize((8, 8)), "BMP")], "image", COLOUR, print)


@given(st.integers(1, 20), st.integers(1, 5), st.integers(1, 5), st.sampled_from([1, 3]), st.integers(0, 99))
def test_a_grid_gives_its_pictures_back(count: int, height: int, width: int, channels: int, seed: int):
    pictures = np.random.default_rng(seed).integers(0, 256, (count, height, width, channels), dtype=np.uint8)
    grid = Grid.of(pictures)
    whole = grid.join(pictures)
    assert whole.shape == (*grid.shape, channels) and grid.columns - 2 < grid.rows <= grid.columns
    assert (grid.split(whole) == pictures).all()


def test_a_grid_of_one_has_no_border():
    assert Grid.of(np.zeros((1, 7, 9, 1), np.uint8)).shape == (7, 9)


@pytest.mark.parametrize("channels", [1, 3])
def test_png_keeps_pixels_and_metadata(channels: int):
    pixels = NOISE[..., :channels]
    data = encode_png(pixels, '{"label": "Größe ✓"}')
    back, text = decode_png(InputFile("x.png", data, ""))
    assert (back == pixels).all() and text == '{"label": "Größe ✓"}'
    assert decode_png(InputFile("x.png", encode_png(pixels), ""))[1] is None
    for odd in ("a text of 50 MB", "80 texts of 1 MB", "a damaged profile", "EXIF: noise"):  # another tool added it
        there = data.index(b"IDAT") - 4
        more = data[:there] + ODD_CHUNKS[odd] + data[there:]
        assert decode_png(InputFile("x.png", more, ""))[1] == text
    assert b"iTXtzoo\0" in data


@pytest.mark.parametrize("shape", [(1, 1, 1), (5, 7, 3), (300, 500, 3)])
def test_other_programs_read_the_png(shape: tuple[int, int, int]):
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)[:, ::-1]  # not contiguous
    data = encode_png(pixels, "Größe")
    Image.open(io.BytesIO(data)).verify()  # the checksum of every chunk
    image = Image.open(io.BytesIO(data))
    assert (np.asarray(image).reshape(shape) == pixels).all()
    assert image.info == {"zoo": "Größe"}


def test_a_png_of_another_program_is_refused_by_mode():
    with pytest.raises(InvalidFileError, match="not a grey or RGB PNG"):
        decode_png(encoded(RGB.convert("RGBA")))
    with pytest.raises(InvalidFileError, match="not a grey or RGB PNG"):
        decode_png(encoded(RGB, "JPEG"))
