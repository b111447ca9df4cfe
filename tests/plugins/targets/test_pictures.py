"""PNG files and --help in the hosts of the command line: what they read, what they refuse, and examples that work."""

import re
import shlex
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from tests.cli.commands import zoo
from tests.ports.bundles import bundle
from tests.tiny_tasks import studio
from zoo.hookspecs import Port, Task

from .hosts import HOSTS, call, need

pytestmark = pytest.mark.slow

SIGNATURE = b"\x89PNG\r\n\x1a\n"
COLOURS = {1: 0, 2: 4, 3: 2, 4: 6}
"""The colour type of a PNG by its number of channels."""


@pytest.fixture(scope="module", params=HOSTS)
def host(request):
    found = HOSTS[request.param]
    need(found.missing())
    return found


def export(host, model, place):
    done = zoo("export", model, "--target", host.target, "-o", place)
    assert done.code == 0, done.err
    return place


@pytest.fixture(scope="module")
def grey(host, tmp_path_factory):
    place = tmp_path_factory.mktemp(f"grey-{host.target}")
    return export(host, studio(place / "studio"), place / "out")


@pytest.fixture(scope="module")
def rgb(host, tmp_path_factory):
    """A model that gives back pictures in colour."""
    place = tmp_path_factory.mktemp(f"rgb-{host.target}")
    port = Port(kind="image", dtype="uint8", shape=("batch", "height", "width", 3))
    task = Task(summary="The picture", inputs={"image": port}, outputs={"copy": port})
    graph = "(uint8[batch,height,width,3] image) => (uint8[batch,height,width,3] copy) { copy = Identity(image) }"
    pixels = np.arange(2 * 4 * 5 * 3, dtype=np.uint8).reshape(2, 4, 5, 3)
    return export(host, bundle(place / "copier", "copier", task, graph, image=pixels, copy=pixels), place / "out")


def chunk(name, body):
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png(pixels, filters=(0,), level=6, strategy=zlib.Z_DEFAULT_STRATEGY, idat=1 << 30, **changed):
    """A PNG of uint8 [height, width, channels], its rows filtered by these kinds in turn.

    Args:
        idat: the compressed bytes in each IDAT chunk.
        changed: fields of the header, `data` instead of the compressed bytes, or `extra` chunks.
    """
    height, width, channels = pixels.shape
    above, raw = np.zeros(width * channels, int), b""
    for y, row in enumerate(pixels.reshape(height, -1).astype(int)):
        left, corner = (np.concatenate([np.zeros(channels, int), a])[: len(a)] for a in (row, above))
        a, b, c = abs(above - corner), abs(left - corner), abs(left + above - 2 * corner)
        paeth = np.where((a <= b) & (a <= c), left, np.where(b <= c, above, corner))
        kind = filters[y % len(filters)]
        raw += (
            bytes([kind])
            + ((row - [0, left, above, (left + above) // 2, paeth][kind]) % 256).astype(np.uint8).tobytes()
        )
        above = row
    compressor = zlib.compressobj(level, zlib.DEFLATED, 15, 8, strategy)
    data = changed.get("data", compressor.compress(raw) + compressor.flush())
    head = {"width": width, "height": height, "depth": 8, "colours": COLOURS[channels], "interlaced": 0} | changed
    fields = head["width"], head["height"], head["depth"], head["colours"], 0, 0, head["interlaced"]
    parts = [chunk(b"IDAT", data[at : at + idat]) for at in range(0, len(data), idat)]
    return b"".join(
        [
            SIGNATURE,
            chunk(b"IHDR", struct.pack(">IIBBBBB", *fields)),
            *changed.get("extra", ()),
            *parts,
            chunk(b"IEND", b""),
        ]
    )


def noise(height, width, channels, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), np.uint8)


def slope(height, width, channels):
    """A smooth picture, whose differences and repetitions compress well."""
    return (np.add.outer(3 * np.arange(height), np.arange(width))[..., None] // 4 * [1, 2, 3][:channels] % 256).astype(
        np.uint8
    )


FILES = {
    "one pixel": (noise(1, 1, 3), {}),
    "every filter": (noise(31, 17, 3), {"filters": (0, 1, 2, 3, 4)}),
    "Paeth from the first row": (slope(20, 9, 3), {"filters": (4, 3)}),
    "stored": (noise(90, 300, 3), {"level": 0}),  # more than one stored block
    "fixed codes": (slope(40, 40, 3), {"strategy": zlib.Z_FIXED}),
    "Huffman only": (noise(40, 40, 3) // 16, {"strategy": zlib.Z_HUFFMAN_ONLY}),
    "runs": (slope(64, 64, 3), {"strategy": zlib.Z_RLE}),
    "the longest matches": (np.full((200, 300, 3), 7, np.uint8), {"level": 9}),
    "far matches": (np.tile(noise(60, 180, 3), (3, 1, 1)), {"level": 9}),  # 32,460 bytes apart
    "many chunks": (slope(50, 50, 3), {"idat": 7}),
    "some noise": (noise(120, 130, 3) // 50 * 50, {"filters": (1, 2, 4), "level": 1}),
}


@pytest.mark.parametrize("pixels, how", FILES.values(), ids=FILES)
def test_a_png_gives_its_pixels(host, rgb, tmp_path, pixels, how):
    path = tmp_path / "in.png"
    path.write_bytes(png(pixels, **how))
    np.testing.assert_array_equal(np.asarray(Image.open(path)), pixels)  # the test's own writer is right
    done = call(host, rgb, "play", "--image", path, "--out", tmp_path / "out.npy")
    assert done.returncode == 0, done.stderr
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy")[0], pixels)


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_grey_becomes_rgb_and_an_opaque_alpha_is_dropped(host, rgb, tmp_path, channels):
    pixels = noise(9, 8, channels)
    if channels % 2 == 0:
        pixels[..., -1] = 255
    Image.fromarray(pixels.squeeze(-1) if channels == 1 else pixels).save(tmp_path / "in.png")
    done = call(host, rgb, "play", "--image", tmp_path / "in.png", "--out", tmp_path / "out.png")
    assert done.returncode == 0, done.stderr
    wanted = pixels[..., :3] if channels == 4 else pixels[..., :1].repeat(3, axis=-1)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "out.png")), wanted)


def test_a_png_that_the_host_wrote_goes_in_again(host, grey, tmp_path):
    """An RGB file in which all is grey too."""
    done = call(host, grey, "generate", "--seed", "1,2", "--out", tmp_path / "one.png")
    assert done.returncode == 0, done.stderr
    pixels = np.asarray(Image.open(tmp_path / "one.png"))
    Image.fromarray(pixels[..., None].repeat(3, axis=-1)).save(tmp_path / "rgb.png")
    for name in ("one.png", "rgb.png"):
        done = call(host, grey, "reconstruct", "--image", tmp_path / name, "--out", tmp_path / "two.png")
        assert done.returncode == 0, done.stderr
        np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "two.png")), pixels)


PLAIN = np.full((8, 8, 1), 100, np.uint8)
WHOLE = zlib.compress(b"".join(b"\0" + row.tobytes() for row in PLAIN))
KIND = "must be a PNG with 8 bits per channel, grey or RGB, not interlaced"
REFUSED = {
    "interlaced": (png(PLAIN, interlaced=1), KIND),
    "16 bits": (png(PLAIN, depth=16), KIND),
    "a palette": (png(PLAIN, colours=3), KIND),
    "transparent": (png(noise(8, 8, 2)), "is partly transparent"),
    "a transparent colour": (png(PLAIN, extra=[chunk(b"tRNS", b"\0\7")]), "is partly transparent"),
    "in colour": (png(noise(8, 8, 3)), "is in colour; this task takes grey pictures"),
    "too large": (png(PLAIN, width=200, height=100), "is 200x100; at most 10000 pixels"),
    "far too large": (png(PLAIN, width=2**31 - 1, height=2**31 - 1), "at most 10000 pixels"),
    "no width": (png(PLAIN, width=0), "is 0x8"),
    "too small": (png(PLAIN[:7]), "image is 8x7.*8 pixels"),
    "fewer pixels than it says": (png(PLAIN, height=9), "is damaged"),
    "more pixels than it says": (png(np.full((99, 99, 1), 1, np.uint8), height=98), "is damaged"),
    "no such filter": (png(PLAIN, data=zlib.compress(bytes([5]) * 72)), "is damaged"),
    "not compressed data": (png(PLAIN, data=b"\x78\x9c" + bytes(range(7, 60))), "is damaged"),
    "compressed data cut short": (png(PLAIN, data=WHOLE[:-5]), "is damaged"),
    "another checksum": (png(PLAIN, data=WHOLE[:-1] + bytes([WHOLE[-1] ^ 1])), "is damaged"),
    "no data": (png(PLAIN, data=b""), "is damaged"),
    "another checksum of a chunk": (png(PLAIN)[:-1] + b"\0", "is damaged"),
    "cut short": (png(PLAIN)[:-9], "is damaged"),
    "only the signature": (SIGNATURE, "is damaged"),
    "a chunk that is too long": (SIGNATURE + b"\xff\xff\xff\xff" + png(PLAIN)[12:], "is damaged"),
    "a JPEG": (b"\xff\xd8\xff\xe0" + bytes(40), "is not a"),
    "nothing": (b"", "is not a"),
}


@pytest.mark.parametrize("data, says", REFUSED.values(), ids=REFUSED)
def test_another_png_is_one_line(host, grey, tmp_path, data, says):
    (tmp_path / "in.png").write_bytes(data)
    done = call(host, grey, "reconstruct", "--image", tmp_path / "in.png", "--out", tmp_path / "out.png")
    assert done.returncode == 1 and re.search(says, done.stderr), done.stderr
    assert done.stderr.startswith("Error: ") and done.stderr.count("\n") == 1
    assert not (tmp_path / "out.png").exists()


HELP = [
    "  --image FILE (PNG, PGM, PPM or .npy): uint8 [batch, height, width, 1];"
    " at least 8 pixels per side, at most 10000 in all",
    "  --label VALUE: int64 [batch], -1 .. 2, or a class: Shirt, Sneaker, Ankle boot; default -1",
    "  --seed VALUE: int64 [batch], 0 .. 9007199254740991",
    "  --steps VALUE: int64 [], 1 .. 50; default 20",
    "  --tokens FILE.npy: int64 [batch, rows, columns], 0 .. 3",
]


TASKS = ["reconstruct", "encode", "decode", "generate", "classify"]


def test_help_lists_the_inputs_of_every_task_and_its_examples_work(host, grey, tmp_path):
    done = call(host, grey, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert [line for line in HELP if line not in lines] == []
    assert "at least 1 pixels" not in done.stdout and "any .. any" not in done.stdout  # only limits that there are
    examples = [shlex.split(line.partition("example: ")[2]) for line in lines if "example: " in line]
    found = [next(i for i, word in enumerate(words) if word in TASKS) for words in examples]  # after the command
    assert [words[i] for words, i in zip(examples, found, strict=True)] == TASKS
    for words, i in zip(examples, found, strict=True):
        *rest, out = words[i:]
        done = call(host, grey, *rest, tmp_path / out)
        assert done.returncode == 0 and (tmp_path / out).stat().st_size, done.stderr


def test_help_for_one_task_and_without_a_task(host, grey):
    whole = call(host, grey, "--help").stdout
    assert call(host, grey).stdout == call(host, grey, "-h").stdout == whole
    one = call(host, grey, "generate", "--help")
    assert one.returncode == 0 and "\ngenerate: " in one.stdout and "\nencode: " not in one.stdout
    done = call(host, grey, "paint", "--help")
    assert done.returncode == 1 and "no task 'paint'" in done.stderr and done.stderr.count("\n") == 1


def test_a_name_that_the_host_cannot_write_is_one_line(host, grey, tmp_path):
    done = call(host, grey, "generate", "--seed", 1, "--out", tmp_path / "picture.jpg")
    assert done.returncode == 1 and re.search(r"picture\.jpg must end in \.png(, \.wav)? or \.npy", done.stderr)
    assert done.stderr.count("\n") == 1 and not (tmp_path / "picture.jpg").exists()
