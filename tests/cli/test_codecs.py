"""`zoo run` with published codecs, a grey one and one in colour: every kind of picture, and what cannot be one."""

import io
import json
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from zoo.media import tensors

from .commands import Outcome, zoo

HEIGHT, WIDTH = 24, 36
ROWS, COLUMNS = np.mgrid[:HEIGHT, :WIDTH]
RGB = np.stack([ROWS * 9, COLUMNS * 6, (ROWS + COLUMNS) * 3], axis=-1).astype(np.uint8)
GREY = RGB[..., 1]
HALF = np.where(COLUMNS < 20, 255, 0).astype(np.uint8)  # alpha: the right side is clear

IN_GREY = "x is in colour: converted to grey"
REPEATED = "x is grey: repeated in three channels"
ON_WHITE = "x is partly transparent: put on white"
CUT = "x has 16 bits per channel: using the upper 8"
ANIMATED = "x is animated: using its first frame"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One store for all: the colour model is pulled once, from the repository's second registry."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ZOO_HOME", str(home))
        assert zoo("pull", "vqgan-photo", "--registry", Path(__file__).parents[2] / "research").code == 0
    return home


@pytest.fixture(autouse=True)
def here(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ZOO_HOME", str(home))
    monkeypatch.chdir(tmp_path)
    return tmp_path


GREY_AND_COLOUR = pytest.mark.parametrize("model", ["vqgan-fashion", "vqgan-photo"])


def encoded(picture: np.ndarray | Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    (picture if isinstance(picture, Image.Image) else Image.fromarray(picture)).save(buffer, kind, **options)
    return buffer.getvalue()


def png(width: int, height: int, depth: int, colour: int, rows: bytes) -> bytes:
    """A PNG of given header and compressed rows; `colour` is 0 grey, 2 RGB, 4 grey with alpha, 6 RGB with alpha."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def deep(levels: np.ndarray, colour: int) -> bytes:
    """A PNG of 16 bits: what is above 8 bits is 0xb3."""
    rows = (levels.reshape(HEIGHT, -1).astype(">u2") << 8 | 0xB3).astype(">u2")
    return png(WIDTH, HEIGHT, 16, colour, zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows)))


def with_alpha(pixels: np.ndarray) -> np.ndarray:
    return np.dstack([pixels, HALF])


def on_white(pixels: np.ndarray) -> np.ndarray:
    return np.where((HALF == 255).reshape(HEIGHT, WIDTH, *(1,) * (pixels.ndim - 2)), pixels, 255).astype(np.uint8)


def animation(kind: str) -> bytes:
    return encoded(RGB, kind, save_all=True, append_images=[Image.fromarray(255 - RGB)], lossless=True)


def turned() -> bytes:
    """As a camera that was held upright writes it: lying, to be turned by a quarter clockwise."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(RGB, "JPEG", quality=95, exif=exif)


def decoded(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


PALETTE = Image.fromarray(RGB).quantize(16)
CMYK, JPEG = encoded(Image.fromarray(RGB).convert("CMYK"), "JPEG", quality=95), encoded(RGB, "JPEG", quality=95)

PICTURES = {  # file; the pixels that a person sees in it; what is said for a grey and for a colour model
    "grey": (encoded(GREY), GREY, [], [REPEATED]),
    "colour": (encoded(RGB), RGB, [IN_GREY], []),
    "16 bits grey": (deep(GREY, 0), GREY, [CUT], [CUT, REPEATED]),
    "16 bits colour": (deep(RGB, 2), RGB, [CUT, IN_GREY], [CUT]),
    "16 bits with alpha": (deep(with_alpha(RGB), 6), on_white(RGB), [CUT, ON_WHITE, IN_GREY], [CUT, ON_WHITE]),
    "16 bits grey with alpha": (deep(with_alpha(GREY), 4), on_white(GREY), [CUT, ON_WHITE], [CUT, ON_WHITE, REPEATED]),
    "alpha": (encoded(with_alpha(RGB)), on_white(RGB), [ON_WHITE, IN_GREY], [ON_WHITE]),
    "grey with alpha": (encoded(with_alpha(GREY)), on_white(GREY), [ON_WHITE], [ON_WHITE, REPEATED]),
    "palette": (
        encoded(np.asarray(PALETTE.convert("RGB")), mode="P"),
        np.asarray(PALETTE.convert("RGB")),
        [IN_GREY],
        [],
    ),
    "CMYK": (
        CMYK,
        decoded(CMYK),
        ["x is CMYK: converted to RGB", IN_GREY],
        ["x is CMYK: converted to RGB"],
    ),
    "turned": (turned(), np.rot90(decoded(JPEG), -1), [IN_GREY], []),
    "animated GIF": (animation("GIF"), None, [ANIMATED, IN_GREY], [ANIMATED]),
    "animated PNG": (animation("PNG"), RGB, [ANIMATED, IN_GREY], [ANIMATED]),
    "animated WebP": (animation("WebP"), RGB, [ANIMATED, IN_GREY], [ANIMATED]),
}


@GREY_AND_COLOUR
@pytest.mark.parametrize("kind", PICTURES)
def test_any_picture_is_what_a_person_sees_in_it(model: str, kind: str):
    """The tokens are those of the plain 8-bit PNG of the same pixels, in the model's channels."""
    data, seen, *said = PICTURES[kind]
    plain = Image.fromarray(decoded(data) if seen is None else np.ascontiguousarray(seen))
    plain.convert("L" if model == "vqgan-fashion" else "RGB").save("plain.png")
    Path("x").write_bytes(data)
    outcome = zoo("run", model, "encode", "--image", "x", "--out", "x.safetensors", "--device", "cpu", "--json")
    assert outcome.code == 0, outcome.err
    notes = said[model == "vqgan-photo"]
    if model == "vqgan-fashion":  # whose golden cases show what it was trained on
        notes = [*notes, f"x is {plain.width}x{plain.height}; {model} was trained on 28x28: --fit scales it"]
    assert json.loads(outcome.out)["notes"] == notes
    assert zoo("run", model, "encode", "--image", "plain.png", "--out", "plain.safetensors").code == 0
    assert Path("x.safetensors").read_bytes() == Path("plain.safetensors").read_bytes()
    assert tensors.load(Path("x.safetensors"))["size"].tolist() == [plain.height, plain.width]


# --- One line, an exit code, no file ----------------------------------------------------------------------------------


def refused(outcome: Outcome, code: int, before: set[Path]) -> str:
    assert outcome.code == code and outcome.out == "" and outcome.err.count("\n") == 1, outcome
    assert set(Path().iterdir()) == before
    return outcome.err.removeprefix("Error: ").rstrip("\n")


NOISE = np.random.default_rng(0).integers(0, 256, (200, 300, 3), dtype=np.uint8)


@GREY_AND_COLOUR
@pytest.mark.parametrize(
    ("data", "line"),
    [
        (encoded(RGB[:5, :5]), "x is 5x5 pixels; it must be at least 8x8"),
        (encoded(NOISE)[:50_000], "x cannot be decoded: image file is truncated"),
        (encoded(NOISE, "JPEG")[:9_000], "x cannot be decoded: image file is truncated ("),
        (encoded(NOISE, "JPEG")[:300], "x is a damaged JPEG file: "),
    ],
    ids=["5x5", "PNG cut short", "JPEG cut short", "JPEG cut in its header"],
)
def test_what_is_no_picture_is_one_line(model: str, data: bytes, line: str):
    Path("x").write_bytes(data)
    outcome = zoo("run", model, "reconstruct", "--image", "x", "--out", "out.png")
    assert refused(outcome, 4, {Path("x")}).startswith(line)


@GREY_AND_COLOUR
@pytest.mark.parametrize(
    ("tokens", "line"),
    [
        (np.full((1, 6, 9), 99_999), "tokens is 99999; it must be 0 .. "),
        (np.full((1, 6, 9), -1), "tokens is -1; it must be 0 .. "),
        (np.zeros((6, 9), np.int64), "tokens has the shape [6, 9]; it must be [batch, rows, columns]: add the batch"),
        (np.zeros((1, 1, 6, 9), np.int64), "tokens has the shape [1, 1, 6, 9]; it must be [batch, rows, columns]"),
        (np.zeros((1, 6, 9)), "tokens is float64; it must be int64 [batch, rows, columns], 0 .. "),
        (np.zeros((1, 0, 9), np.int64), "tokens is empty (rows is 0)"),
    ],
)
def test_tokens_that_the_model_cannot_have_made(model: str, tokens: np.ndarray, line: str):
    np.save("t.npy", tokens)
    outcome = zoo("run", model, "decode", "--tokens", "t.npy", "--out", "out.png")
    assert refused(outcome, 2, {Path("t.npy")}).startswith(line)


PEAK = """
import resource, sys
from zoo.cli import main
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    main(sys.argv[1:])
except SystemExit as e:
    print(e.code, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)  # MiB
"""


def test_a_huge_picture_is_refused_before_it_is_in_memory():
    """20,000 x 20,000 black pixels, 220 kB as a file; decoded, 400 MB in grey."""
    rows = bytes(20_000 * (1 + 20_000 // 8))
    Path("x").write_bytes(png(20_000, 20_000, 1, 0, zlib.compress(rows, 1)))
    words = [sys.executable, "-c", PEAK, "run", "vqgan-fashion", "reconstruct", "--image", "x", "--out", "out.png"]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.stderr == "Error: x is 20000x20000, 400,000,000 pixels; at most 40,000,000 are allowed\n"
    code, grown = map(int, done.stdout.split())
    assert code == 4 and grown < 100, f"{grown} MiB"
    assert set(Path().iterdir()) == {Path("x")}
