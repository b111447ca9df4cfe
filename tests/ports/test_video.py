"""Video: animated pictures, films and folders of frames in and out; bad ones refused in one line."""

import io
import json
import resource
import struct
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageSequence

from tests.cli.commands import zoo
from tests.plugins.targets.hosts import HOSTS, call, need
from tests.plugins.targets.test_web import serving
from zoo import load
from zoo.errors import InvalidFileError, UsageError, ZooError
from zoo.hookspecs import Port, Task
from zoo.media.animation import encode_animation, timeline
from zoo.media.files import InputFile
from zoo.media.films import encode_film
from zoo.media.videos import read_video
from zoo.ports.kinds import KINDS, problem
from zoo.ports.video import VIDEO, VideoFile, strips
from zoo.site import Site

from .bundles import bundle

RATE = 8
FREE = Port(
    kind="video", dtype="uint8", shape=("batch", "frames", "height", "width", 3), frame_rate=RATE, maximum_frames=16,
    summary="A clip",
)  # fmt: skip
FIXED = Port(kind="video", dtype="uint8", shape=("batch", 4, 6, 8, 1), frame_rate=RATE)

NEGATIVE = """(uint8[batch,frames,height,width,3] video, float[batch] gain)
  => (uint8[batch,frames,height,width,3] negative)
  <float white = {255}, int64[4] last = {1, 2, 3, 4}> {
    floats = Cast <to = 1> (video)
    lit = Sub(white, floats)
    column = Unsqueeze(gain, last)
    scaled = Mul(lit, column)
    negative = Cast <to = 2> (scaled)
}"""


def clip(frames=6, height=8, width=12, seed=0, channels=3):
    """A bright block that moves over noise, uint8 [frames, height, width, channels]."""
    noise = np.random.default_rng(seed).integers(0, 200, (height, width, channels), np.uint8)
    video = np.stack([noise] * frames)
    for number in range(frames):
        video[number, 2:5, (number + seed) % width] = 255
    return video


CLIP = clip()
HELD = CLIP[[0, 0, 0, 1, 2, 2]]
"""With equal frames, which writers merge."""


@pytest.fixture
def negative(tmp_path, monkeypatch):
    """A bundle that takes and gives video; the working folder has `in.apng`."""
    monkeypatch.setenv("ZOO_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    write("in.apng", CLIP)
    gain = Port(kind="scalar", dtype="float32", shape=("batch",), minimum=0, maximum=1, default=1)
    task = Task(summary="The negative of a clip", inputs={"video": FREE, "gain": gain}, outputs={"negative": FREE})
    case = {"video": CLIP[None], "gain": np.ones(1, np.float32), "negative": 255 - CLIP[None]}
    return bundle(tmp_path / "negative", "negative", task, NEGATIVE, **case)


def write(path, video, rate=RATE, merged=False):
    """An animation by Pillow, without zoo's writer: frames as they are, or equal ones merged by the encoder."""
    images = [Image.fromarray(frame) for frame in video]
    extra = {
        ".webp": {"lossless": True},
        ".apng": {"format": "PNG"} | ({} if merged else {"blend": [0, 1] * len(video)}),
    }
    images[0].save(
        path, save_all=True, append_images=images[1:], duration=1000 / rate, loop=0, **extra.get(Path(path).suffix, {})
    )


def frames_in(folder, video, ending="png"):
    Path(folder).mkdir()
    for number, frame in enumerate(video):
        Image.fromarray(frame).save(Path(folder) / f"{number}.{ending}")


def decoded(path):
    """The frames of an animated picture by Pillow."""
    with Image.open(path) as image:
        return np.stack([np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(image)])


def given(data, name="x.apng"):
    return InputFile(name, data, "0" * 64)


def read(data, port=FREE):
    notes: list[str] = []
    return read_video(given(data), port, notes.append), notes


# --- The commands -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["apng", "webp"])
def test_run_writes_a_file_that_again_makes_again(negative, tmp_path, ending):
    done = zoo("run", "./negative", "--video", "in.apng", "--out", f"out.{ending}")
    assert (done.code, done.out) == (0, f"out.{ending}\n"), done.err
    np.testing.assert_array_equal(decoded(f"out.{ending}"), 255 - CLIP)
    done = zoo("again", f"out.{ending}", "--model", "./negative", "--out", f"again.{ending}")
    assert done.code == 0 and done.out.startswith("identical"), done.err
    assert (tmp_path / f"again.{ending}").read_bytes() == (tmp_path / f"out.{ending}").read_bytes()
    done = zoo("again", "in.apng", "--model", "./negative")
    assert done.code == 4 and "in.apng has no recipe" in done.err


@pytest.mark.parametrize("video", [HELD, np.stack([CLIP[0]] * 3)], ids=["some", "all"])
@pytest.mark.parametrize("ending", ["apng", "webp"])
def test_equal_frames_stay_exact(negative, ending, video):
    write("in.apng", video)
    done = zoo("run", "./negative", "play", "in.apng", "--out", f"out.{ending}")
    assert done.code == 0, done.err
    done = zoo("again", f"out.{ending}", "--model", "./negative")
    assert done.code == 0 and done.out.startswith("identical"), done.err


def test_again_finds_a_change(negative):
    assert zoo("run", "./negative", "play", "in.apng", "--out", "out.apng").code == 0
    with Image.open("out.apng") as image:
        recipe = image.text["zoo"]
    changed = 255 - CLIP
    changed[3, 0, 0] ^= 8
    Path("out.apng").write_bytes(encode_animation(changed, ".apng", RATE, metadata=recipe))
    done = zoo("again", "out.apng", "--model", "./negative")
    assert done.code == 5 and "out.apng differs: 99.82 % within 1 level, worst 8" in done.err
    Path("out.apng").write_bytes(encode_animation(changed[:5], ".apng", RATE, metadata=recipe))
    done = zoo("again", "out.apng", "--model", "./negative")
    assert done.code == 4 and "the number of its frames does not match its recipe" in done.err
    Path("out.apng").write_bytes(encode_animation(changed, ".apng", 2 * RATE + 3, metadata=recipe))
    done = zoo("again", "out.apng", "--model", "./negative")
    assert done.code == 4 and "another program changed it" in done.err


@pytest.mark.parametrize("ending", ["gif", "mp4", "webm"])
def test_what_is_not_exact_says_so(negative, ending):
    done = zoo("run", "./negative", "play", "in.apng", "--out", f"out.{ending}")
    assert done.code == 0 and f".{ending} is not exact: it " in done.err, done.err
    done = zoo("again", f"out.{ending}", "--model", "./negative")
    assert done.code == 4 and "which is not exact: zoo again takes .apng and .webp" in done.err
    done = zoo("run", "./negative", "play", f"out.{ending}", "--out", "back.apng")  # it can be read, of course
    assert done.code == 0, done.err
    back = decoded("back.apng").astype(int)
    assert back.shape == CLIP.shape and np.abs(back - CLIP).mean() < 40


def test_several_videos_are_a_grid_or_one_each(negative):
    other = clip(seed=5)
    write("b.webp", other)
    done = zoo("run", "./negative", "play", "in.apng", "b.webp", "--scale", "2", "--out", "both.apng")
    assert done.code == 0, done.err
    both = decoded("both.apng")
    assert both.shape == (6, 16, 2 * 24 + 2, 3)
    np.testing.assert_array_equal(both[:, ::2, 26::2], 255 - other)
    done = zoo("again", "both.apng", "--model", "./negative")
    assert done.code == 0 and done.out.startswith("identical"), done.err
    done = zoo("run", "./negative", "play", "in.apng", "b.webp", "--out", "x-{i}.webp", "--json")
    assert json.loads(done.out)["paths"] == ["x-0.webp", "x-1.webp"], done.err
    done = zoo("again", "x-1.webp", "--model", "./negative")
    assert done.code == 0 and done.out.startswith("identical"), done.err
    done = zoo("run", "./negative", "play", "in.apng", "b.webp", "--sheet", "--out", "sheet.apng")
    assert done.code == 0, done.err
    done = zoo("again", "sheet.apng", "--model", "./negative")
    assert done.code == 0 and done.out.startswith("identical"), done.err
    write("short.gif", CLIP[:3])
    done = zoo("run", "./negative", "play", "in.apng", "short.gif", "--out", "both.apng")
    assert (
        done.code == 4
        and ("in.apng has 6 frames of 12x8 and short.gif has 3 frames of 12x8 pixels at 8 frames a second; all videos")
        in done.err
    )


def test_a_folder_of_frames_is_a_video(negative):
    frames_in("frames", np.concatenate([CLIP, CLIP])[:11])
    expected = 255 - np.concatenate([CLIP, CLIP])[:11]  # 10.png comes last
    for words in (["frames"], ["frames/"], ["--video", "frames"]):
        done = zoo("run", "./negative", "play", *words, "--out", "out.apng")
        assert done.code == 0, done.err
        np.testing.assert_array_equal(decoded("out.apng"), expected)
        done = zoo("again", "out.apng", "--model", "./negative")
        assert done.code == 0 and done.out.startswith("identical"), done.err
    Path("frames").rename("moved")
    done = zoo("again", "out.apng", "--model", "./negative", "--file", "moved/")
    assert done.code == 0, done.err
    Path("moved/3.png").unlink()
    done = zoo("again", "out.apng", "--model", "./negative", "--file", "moved/")
    assert done.code == 3 and "was not found" in done.err


def test_folders_of_videos_and_of_frames_get_a_file_each(negative):
    for folder in ("in", "out", "more", "empty"):
        Path(folder).mkdir()
    write("in/a.webp", CLIP)
    write("in/b.gif", CLIP[:3])
    frames_in("in/c", CLIP[:4], "bmp")
    done = zoo("run", "./negative", "play", "in/", "--out", "out/{stem}.apng")
    assert done.code == 0, done.err
    assert done.out.splitlines() == [f"out/{name}.apng" for name in "abc"]
    np.testing.assert_array_equal(decoded("out/c.apng"), 255 - CLIP[:4])
    done = zoo("again", "out/c.apng", "--model", "./negative", "--file", "in/c")
    assert done.code == 0, done.err
    Path("in/bad.webp").write_bytes(b"RIFF\4\0\0\0WEBP")
    done = zoo("run", "./negative", "play", "in/", "--out", "more/{stem}.apng")
    assert done.code == 4 and "bad.webp" in done.err and not list(Path("more").iterdir())
    done = zoo("run", "./negative", "play", "empty/", "--out", "more/{stem}.apng")
    assert done.code == 4 and "the folder empty/ has no files (.apng, .bmp, .gif, " in done.err


def test_png_is_a_strip_of_frames(negative):
    done = zoo("run", "./negative", "play", "in.apng", "--out", "strip.png")
    assert done.code == 0, done.err
    strip = np.asarray(Image.open("strip.png"))
    assert strip.shape == (8, 6 * 12 + 5 * 2, 3)
    np.testing.assert_array_equal(strip[:, 14 : 14 + 12], 255 - CLIP[1])
    np.testing.assert_array_equal(strips(np.stack([CLIP, 255 - CLIP]))[10:], strip)
    done = zoo("run", "./negative", "play", "in.apng", "--out", "strip.jpg")
    assert done.code == 2 and "play gives videos; the name must end in .apng or .webp or .gif" in done.err


def test_verify_info_and_help(negative):
    (report,) = json.loads(zoo("verify", "./negative", "--replay", "--json").out)
    assert report["replay"][0]["outputs"]["negative"]["verdict"] == "identical"
    lines = [" ".join(line.split()) for line in zoo("info", "./negative").out.splitlines()]
    shape = "uint8 [batch, frames, height, width, 3]"  # its line is wrapped
    assert f"in video video {shape} 8 frames a second; at most 16" in lines and "frames; A clip" in lines
    assert "a folder of frames" in " ".join(zoo("run", "./negative", "play", "--help").out.split())


def test_compare_and_animate_refuse_it(negative):
    done = zoo("compare", "./negative", "./negative")
    assert done.code == 2 and "gives videos; compare is for pictures" in done.err
    done = zoo("animate", "./negative")
    assert done.code == 2 and "play gives videos, which cannot be animated" in done.err


def test_python_takes_arrays_files_and_folders(negative):
    model = load("./negative")
    frames_in("frames", CLIP)
    for value in (CLIP[None], "in.apng", Path("in.apng"), ["in.apng"], "frames"):
        result = model.play(video=value)
        np.testing.assert_array_equal(result["negative"], 255 - CLIP[None])
    [image] = result.images
    assert image.size == (6 * 12 + 5 * 2, 8)
    assert KINDS["video"].png(CLIP[None]).startswith(b"\x89PNG")
    for value, says in (
        (np.zeros((1, 17, 4, 4, 3), np.uint8), "video has 17 frames; at most 16 are allowed"),
        (np.zeros((1, 1, 4, 4, 3), np.uint8), "video has one frame; a video has at least two"),
        (np.zeros((1, 4, 4, 4, 3)), "video is float64; videos are uint8, 0 .. 255"),
        (CLIP, r"video has the shape \[6, 8, 12, 3\]; .* add the batch axis"),
    ):
        with pytest.raises(UsageError, match=says):
            model.play(video=value)


# --- What it is -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({}, ""),
        ({"shape": ("batch", 16, 32, 32, 1)}, ""),
        ({"maximum_frames": 9, "minimum_size": 8, "maximum_pixels": 4096}, ""),
        ({"shape": ("batch", "frames", "height", "width", 4)}, "the last dimension of the kind video is 1 or 3, not 4"),
        ({"shape": ("batch", "height", "width", 3)}, "ports of the kind video have the shape [batch, frames, height,"),
        ({"frame_rate": None}, "ports of the kind video state their frame_rate"),
        ({"shape": ("batch", 9, 4, 4, 1), "maximum_frames": 9}, "the port has 9 frames, so it has no maximum_frames"),
        ({"shape": ("batch", 1, 4, 4, 1)}, "a video has at least two frames; the kind image has one"),
        ({"dtype": "float32"}, "ports of the kind video are uint8, not float32"),
        ({"kind": "image", "shape": ("batch", 4, 4, 1)}, "ports of the kind image have no frame_rate"),
    ],
)
def test_what_a_port_may_declare(fields, says):
    declared = {"kind": "video", "dtype": "uint8", "shape": ("batch", "frames", "height", "width", 3)}
    found = problem(Port(**declared | {"frame_rate": RATE} | fields))
    assert found.startswith(says) and bool(found) == bool(says)


def test_golden_cases_move():
    kind = KINDS["video"]
    sizes = kind.dimensions(FREE, 28, 24)
    assert sizes == {"frames": 4, "height": 28, "width": 24}
    case = kind.draw_case(FREE, (2, 4, 28, 24, 3), np.random.default_rng(0))
    assert case.dtype == np.uint8 and case.shape == (2, 4, 28, 24, 3)
    assert all((case[:, number] != case[:, number + 1]).any() for number in range(3))


# --- Its files --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [1, 7, 24, 30, 60, 240])
@pytest.mark.parametrize("ending", [".apng", ".webp", ".gif"])
def test_what_is_written_has_the_rate_and_is_read_back(rate, ending):
    if ending == ".gif" and rate > 50:
        with pytest.raises(
            UsageError, match=f"play gives {rate} frames a second, and a GIF plays at most 50; use .apng"
        ):
            VideoFile(rate).check_name("play", ["video"], ".gif")
        return
    grey = clip(40, channels=1)
    grey[10:20] = grey[10]
    data = encode_animation(grey, ending, rate)
    times = timeline(data)
    assert times and sum(times.seconds) == pytest.approx(40 / rate, abs=0.006)
    video, notes = read(data, Port(kind="video", dtype="uint8", shape=("batch", "f", "h", "w", 1), frame_rate=rate))
    np.testing.assert_array_equal(video, grey)  # a GIF has 256 greys
    assert notes == []


def test_frames_that_another_writer_merged_are_expanded(tmp_path):
    for ending in ("apng", "webp", "gif"):
        write(tmp_path / f"x.{ending}", HELD, merged=True)
        data = (tmp_path / f"x.{ending}").read_bytes()
        assert len(timeline(data).seconds) == 3
        video, notes = read(data)
        assert len(video) == 6 and notes == []
        if ending != "gif":
            np.testing.assert_array_equal(video, HELD)


def test_another_frame_rate_keeps_the_speed():
    for rate, taken in ((16, [0, 2, 4, 6]), (6, [0, 1, 1, 2, 3, 4, 4, 5, 6, 7, 7]), (4, [0, 0, 1, 1, 2, 2])):
        video, notes = read(encode_animation(clip(8)[: 3 if rate == 4 else 8], ".apng", rate))
        np.testing.assert_array_equal(video, clip(8)[taken])
        if rate == 4:
            assert notes == []  # each frame is two
        else:
            seconds = f"{8 / rate:.4g}"
            assert notes[0].startswith(f"x.apng: 8 frames in {seconds}") and notes[0].endswith(
                f"taken at 8 a second as {len(taken)}"
            )


def test_a_fixed_port_gets_its_size_channels_and_length():
    video, notes = read(encode_animation(clip(3, 12, 16), ".webp", RATE), FIXED)
    assert video.shape == (4, 6, 8, 1)
    np.testing.assert_array_equal(video[2], video[3])
    assert notes == [
        "x.apng is in colour: converted to grey",
        "x.apng is 16x12: cropped at the centre and scaled to 8x6",
        "x.apng: its last frame repeated, from 3 frames to 4",
    ]
    with pytest.raises(InvalidFileError, match=r"x.apng has 5 frames \(0.625 s\) at 8 frames a second; at most 4"):
        read(encode_animation(clip(5), ".webp", RATE), FIXED)


def test_the_picture_for_viewers_that_do_not_animate_is_not_a_frame():
    images = [Image.fromarray(frame) for frame in CLIP]
    buffer = io.BytesIO()
    images[0].save(buffer, "PNG", save_all=True, append_images=images[1:], default_image=True, duration=125)
    np.testing.assert_array_equal(read(buffer.getvalue())[0], CLIP[1:])


def test_transparent_frames_are_put_on_white():
    clear = np.zeros((3, 4, 4, 4), np.uint8)
    clear[:, 0, 0] = [9, 8, 7, 255]
    clear[1, 1, 1] = [1, 2, 3, 255]
    for kind, extra in (("PNG", {}), ("WEBP", {"lossless": True}), ("GIF", {"disposal": 2})):
        buffer = io.BytesIO()
        images = [Image.fromarray(frame) for frame in clear]
        images[0].save(buffer, kind, save_all=True, append_images=images[1:], duration=125, **extra)
        video, notes = read(buffer.getvalue())
        assert notes == ["x.apng is partly transparent: put on white"]
        near = 4 if kind == "GIF" else 0  # Pillow chooses its colours
        assert (video[:, 3, 3] == 255).all() and np.abs(video[:, 0, 0].astype(int) - [9, 8, 7]).max() <= near
        assert np.abs(video[1, 1, 1].astype(int) - [1, 2, 3]).max() <= near and (video[2, 1, 1] == 255).all()


@pytest.mark.parametrize("ending", [".mp4", ".webm"])
def test_films_are_read(ending):
    steps = np.zeros((12, 32, 32, 3), np.uint8) + np.arange(12, dtype=np.uint8)[:, None, None, None] * 20
    video, notes = read(encode_film(steps, ending, RATE))
    assert video.shape == steps.shape and notes == []
    assert np.abs(video.astype(int) - steps).max() <= 4
    video, notes = read(encode_film(steps, ending, 2 * RATE))
    assert len(video) == 6 and np.abs(video.astype(int) - steps[::2]).max() <= 4
    assert notes[0].startswith("x.apng: 12 frames in 0.75") and notes[0].endswith("s, taken at 8 a second as 6")


def test_a_film_needs_even_sides(negative):
    write("odd.apng", clip(width=13))
    done = zoo("run", "./negative", "play", "odd.apng", "--out", "out.mp4")
    assert done.code == 2 and done.err.endswith(
        ".mp4 needs an even height and width, and the video is 13x8; use .webp, or --scale 2\n"
    )
    assert not Path("out.mp4").exists()
    done = zoo("run", "./negative", "play", "odd.apng", "--scale", "2", "--out", "out.mp4")
    assert done.code == 0, done.err


def test_films_need_pyav(negative, monkeypatch):
    Path("in.mp4").write_bytes(encode_film(CLIP, ".mp4", RATE))
    monkeypatch.setitem(sys.modules, "av", None)
    for words, says in (
        (["in.mp4", "--out", "out.apng"], "in.mp4 is MP4; reading it needs av: pip install 'genzoo[video]'"),
        (["in.apng", "--out", "out.webm"], "writing .webm needs av: pip install 'genzoo[video]'"),
    ):
        done = zoo("run", "./negative", "play", *words)
        assert done.code == 2 and done.err.endswith(f"{says}\n"), done.err
    assert not Path("out.apng").exists() and not Path("out.webm").exists()


# --- Bad input --------------------------------------------------------------------------------------------------------


def still(kind):
    buffer = io.BytesIO()
    Image.fromarray(CLIP[0]).save(buffer, kind)
    return buffer.getvalue()


def many_frames(number, width=4096):
    """An animated PNG of large, equal frames in few bytes; its frames are never read."""
    head = struct.pack(">IIBBBBB", width, width, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(width * (3 * width + 1)), 9)
    chunks = [b"IHDR" + head, b"acTL" + struct.pack(">II", number, 0)]
    for index in range(number):
        chunks.append(b"fcTL" + struct.pack(">IIIIIHHBB", 2 * index, width, width, 0, 0, 1, RATE, 0, 0))
        chunks.append(b"IDAT" + pixels if index == 0 else b"fdAT" + struct.pack(">I", 2 * index + 1))
    parts = [struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in (*chunks, b"IEND")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


APNG, WEBP, GIF = (encode_animation(CLIP, ending, RATE) for ending in (".apng", ".webp", ".gif"))

BAD = {
    "a still PNG": (still("PNG"), "bad.x has one frame: it is a picture; a video has at least two frames"),
    "a still WebP": (still("WEBP"), "bad.x has one frame: it is a picture"),
    "a still GIF": (still("GIF"), "bad.x has one frame: it is a picture"),
    "a JPEG": (still("JPEG"), "bad.x has one frame: it is a picture"),
    "text": (
        b"hello" * 9,
        "bad.x is not a video that zoo can read: an animated PNG, WebP or GIF, MP4, WebM, or a fold",
    ),
    "10,000 frames": (many_frames(10_000), "bad.x has 10,000 frames (1,250 s) at 8 frames a second; at most 16 are"),
    "seventeen frames": (encode_animation(clip(17), ".gif", RATE), "bad.x has 17 frames (2.12 s) at 8 frames a second"),
    "too many pixels": (many_frames(3), "bad.x is 3 frames of 4096x4096, 50,331,648 pixels; at most 40,000,000 are"),
    "a lie about its frames": (
        APNG.replace(b"acTL\0\0\0\6", b"acTL\0\0\0\7"),
        "bad.x is a damaged PNG file: its header",
    ),
    "too short for two": (encode_animation(CLIP[:2], ".apng", 100), "bad.x is 0.02 s long, less than two frames at 8"),
    "an APNG cut short": (APNG[:-60], "bad.x "),
    "a WebP cut short": (WEBP[:-60], "bad.x is a damaged WebP file: cut short"),
    "a GIF cut short": (GIF[:-60], "bad.x is a damaged GIF file: cut short"),
    "a damaged MP4": (b"\0\0\0\x20ftypisom" + b"x" * 99, "bad.x cannot be decoded"),
    "a damaged WebM": (b"\x1a\x45\xdf\xa3" + b"x" * 99, "bad.x cannot be decoded"),
    "an MP4 cut short": (encode_film(CLIP, ".mp4", RATE)[:-200], "bad.x cannot be decoded"),
    "a long MP4": (encode_film(clip(40), ".mp4", RATE), "bad.x has 40 frames (5 s) at 8 frames a second; at most 16"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_file_is_refused_in_one_line(case, negative, tmp_path):
    data, says = BAD[case]
    (tmp_path / "bad.x").write_bytes(data)
    before = resource.getrusage(resource.RUSAGE_SELF)
    done = zoo("run", "./negative", "play", "--video", "bad.x", "--out", "out.apng")
    after = resource.getrusage(resource.RUSAGE_SELF)
    assert done.code in (2, 4) and says in done.err and done.err.count("\n") == 1, done.err
    assert not (tmp_path / "out.apng").exists()
    assert after.ru_utime - before.ru_utime < 2
    assert after.ru_maxrss - before.ru_maxrss < 100 << 10  # kilobytes; a frame of 10,000 is 50 MB


@pytest.mark.parametrize("data", [b"#EXTM3U\n#EXTINF:1,\nin.mp4\n", b"ffconcat version 1.0\nfile in.mp4\n"])
def test_a_list_of_files_never_reaches_ffmpeg(negative, data):
    Path("in.mp4").write_bytes(encode_film(CLIP, ".mp4", RATE))
    for start in (b"", b"\0\0\0\x20ftypisom"):  # the second one is opened as MP4, and as nothing else
        Path("list.mp4").write_bytes(start + data)
        done = zoo("run", "./negative", "play", "list.mp4", "--out", "out.apng")
        says = "list.mp4 cannot be decoded" if start else "list.mp4 is not a video that zoo can read"
        assert done.code == 4 and says in done.err and not Path("out.apng").exists(), done.err


def test_bad_folders_are_refused_in_one_line(negative):
    frames_in("mixed", CLIP[:3])
    Image.fromarray(clip(1, 9, 9)[0]).save("mixed/7.png")
    frames_in("one", CLIP[:1])
    frames_in("long", clip(17, 2, 2))
    for folder, says in (
        ("mixed", "mixed has frames of 12x8 and 9x9 pixels (7.png); all must have the same size"),
        ("one", "one has one frame: it is a picture; a video has at least two frames"),
        ("long", "long has 17 frames at 8 frames a second; at most 16 are allowed"),
    ):
        done = zoo("run", "./negative", "play", "--video", folder, "--out", "out.apng")
        assert done.code == 4 and says in done.err and done.err.count("\n") == 1, done.err
        assert not Path("out.apng").exists()


@pytest.mark.slow
def test_10_000_frames_are_streamed_if_the_port_takes_them():
    long = np.zeros((10_000, 4, 4, 1), np.uint8)
    long[:, 0, 0, 0] = np.arange(10_000) % 251
    port = Port(kind="video", dtype="uint8", shape=("batch", "f", 4, 4, 1), frame_rate=RATE, maximum_frames=10_000)
    video, notes = read(encode_animation(long, ".gif", RATE), port)
    np.testing.assert_array_equal(video, long)
    assert notes == []


@pytest.mark.parametrize("whole", [APNG, WEBP, GIF], ids=["APNG", "WebP", "GIF"])
def test_no_damage_is_anything_but_one_line(whole):
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(300):
        data = bytearray(whole)
        for at in rng.integers(0, len(data), rng.integers(1, 4)):
            data[at] = rng.integers(256)
        data = data[: rng.integers(1, len(data))] if rng.random() < 0.3 else data
        try:
            read(bytes(data))
        except ZooError as e:
            refused += 1
            assert "\n" not in str(e)
    assert refused > 50


def test_a_recipe_cannot_ask_for_more_frames_than_zoo_writes():
    layout = {"frames": 39_000_000, "channels": 3, "frame_rate": 8, "count": 1, "columns": 1, "height": 8, "width": 12}
    still_webp = encode_animation(CLIP[[0, 0]], ".webp", RATE)
    for data, says in ((still_webp, "more frames than zoo writes"), (APNG, "does not match its recipe")):
        with pytest.raises(InvalidFileError, match=says):
            VIDEO.decode_batch(given(data), layout, None)


@pytest.mark.parametrize("layout", [None, 3, {}, {"frames": 10**9, "channels": 3, "frame_rate": 8, "count": 1}])
def test_a_recipe_without_a_layout_is_refused(layout):
    import msgspec

    with pytest.raises((InvalidFileError, msgspec.ValidationError)):
        VIDEO.decode_batch(given(APNG), layout, None)


# --- Hosts ------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", ["python", "node"])
def test_a_host_takes_data_and_writes_an_animation(name, negative, tmp_path):
    host = HOSTS[name]
    need(host.missing())
    done = zoo("export", "./negative", "--target", host.target, "-o", "out")
    assert done.code == 0, done.err
    np.save(tmp_path / "video.npy", CLIP[None])
    words = ["play", "--video", tmp_path / "video.npy", "--out"]
    for command in (["verify"], [*words, tmp_path / "out.npy"], [*words, tmp_path / "out.png"]):
        done = call(host, tmp_path / "out", *command)
        assert done.returncode == 0, done.stderr
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), 255 - CLIP[None])
    np.testing.assert_array_equal(decoded(tmp_path / "out.png"), 255 - CLIP)
    assert timeline((tmp_path / "out.png").read_bytes()).seconds == (1 / RATE,) * 6
    np.save(tmp_path / "long.npy", clip(17)[None])
    done = call(host, tmp_path / "out", "play", "--video", tmp_path / "long.npy")
    assert done.returncode == 1 and "video has 17 frames; at most 16 are allowed" in done.stderr, done.stderr
    done = call(host, tmp_path / "out", "play", "--video", tmp_path / "in.apng")
    assert done.returncode == 1 and "in.apng must be a .npy file" in done.stderr, done.stderr
    assert "--video video.npy --out negative.npy" in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.slow
def test_the_page_reads_plays_and_saves_it(negative, tmp_path):
    from playwright.sync_api import sync_playwright
    from zoo_targets.web import browser, flags

    need("" if browser() else "Chromium")
    done = zoo("export", "./negative", "--target", "web", "-o", "site")
    assert done.code == 0, done.err
    write("in.webp", HELD)
    write("in.gif", clip(4))
    Path("in.webm").write_bytes(encode_film(clip(8, 32, 32), ".webm", RATE))
    for name in ("one", "long", "text"):
        Path(f"{name}.webp").write_bytes(
            {"one": still("WEBP"), "long": encode_animation(clip(17), ".webp", RATE), "text": b"x" * 99}[name]
        )
    with sync_playwright() as playwright, serving(Site(tmp_path / "site")) as url:
        chromium = playwright.chromium.launch(executable_path=browser(), args=flags())
        page = chromium.new_page()
        page.goto(f"{url}?device=wasm")
        page.wait_for_selector("html[data-ready]", timeout=60_000)
        for name, says in (
            ("one", "one.webp has one frame: it is a picture"),
            ("long", "long.webp has 17 frames at 8 a second; at most 16"),
            ("text", "text.webp is not a video that this browser can play"),
        ):
            page.set_input_files("#port-video", tmp_path / f"{name}.webp")
            page.get_by_text(says).wait_for()
        for drawn, (name, video) in enumerate(
            {"in.webp": HELD, "in.gif": decoded("in.gif"), "in.webm": None, "in.apng": CLIP}.items(), 1
        ):
            page.set_input_files("#port-video", tmp_path / name)
            page.locator("#ports .drop .note", has_text=name).wait_for()
            page.click("#go")
            page.wait_for_selector(f"html[data-drawn='{drawn}']", timeout=30_000)
            with page.expect_download() as saved:
                page.get_by_text("Download APNG").click()
            saved.value.save_as(tmp_path / "saved.apng")
            if video is None:
                assert decoded("saved.apng").shape == (8, 32, 32, 3)
            else:
                np.testing.assert_array_equal(decoded("saved.apng"), 255 - video)
        canvas = page.locator("#outputs canvas[data-port=negative]")
        seen = {canvas.get_attribute("data-frame") for _ in range(40) if page.wait_for_timeout(50) is None}
        page.get_by_role("button", name="Pause").click()
        still_at = {canvas.get_attribute("data-frame") for _ in range(10) if page.wait_for_timeout(50) is None}
        chromium.close()
    assert seen == set("012345") and len(still_at) == 1
    video, notes = read(Path("saved.apng").read_bytes())
    np.testing.assert_array_equal(video, 255 - CLIP)
    assert notes == []
