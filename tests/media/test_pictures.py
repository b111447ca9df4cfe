import io
import struct
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from zoo.errors import InvalidFileError, NotFoundError, UsageError
from zoo.hookspecs import Port
from zoo.media.files import InputFile, read_input
from zoo.media.pictures import Grid, decode_picture, decode_png, encode_png, read_pictures

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


def test_other_formats_are_refused_by_their_first_bytes():
    for data in (encoded(RGB, "TIFF").data, encoded(RGB, "PPM").data, b"%!PS-Adobe", b"hello", b"RIFF....WAVE"):
        assert refused(data) == "x is not a picture that zoo can read: PNG, JPEG, WebP, GIF or BMP"


def test_files_that_are_not_there_or_empty(tmp_path: Path, monkeypatch):
    with pytest.raises(NotFoundError, match=r"none\.png does not exist$"):
        read_input(str(tmp_path / "none.png"))
    with pytest.raises(InvalidFileError, match="is a folder, not a file"):
        read_input(str(tmp_path))
    with pytest.raises(UsageError, match="contains a NUL"):
        read_input("a\0b")
    (tmp_path / "empty.png").touch()
    with pytest.raises(InvalidFileError, match=r"^empty\.png is empty$"):
        read_input(str(tmp_path / "empty.png"))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"")))
    with pytest.raises(InvalidFileError, match="^stdin is empty$"):
        read_input("-")


def test_an_endless_file_is_not_read_to_its_end(monkeypatch):
    monkeypatch.setattr("zoo.media.files.MAX_FILE_BYTES", 1 << 20)
    with pytest.raises(InvalidFileError, match="^zero has more than 1 MiB"):
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
    assert b"iTXtzoo\0" in data


def test_a_png_of_another_program_is_refused_by_mode():
    with pytest.raises(InvalidFileError, match="not a grey or RGB PNG"):
        decode_png(encoded(RGB.convert("RGBA")))
    with pytest.raises(InvalidFileError, match="not a grey or RGB PNG"):
        decode_png(encoded(RGB, "JPEG"))
