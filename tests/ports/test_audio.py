"""Sound: WAV in and out, in every command and host; bad files refused in one line."""

import json
import resource
import struct
import sys
import wave
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image

from tests.cli.commands import zoo
from tests.plugins.targets.hosts import HOSTS, call, need
from tests.plugins.targets.test_web import serving
from zoo import load
from zoo.errors import InvalidFileError, UsageError, ZooError
from zoo.hookspecs import Port, Task, Tolerance
from zoo.media.files import InputFile, read_input
from zoo.media.sounds import read_sound
from zoo.media.wav import decode, encode, read_header
from zoo.ports.audio import (
    MELS,
    SOUND,
    SPECTRUM_HEIGHT,
    STEP,
    WAVE_HEIGHT,
    WIDTH,
    SoundFile,
    drawn_sounds,
    log_mel,
)
from zoo.ports.kinds import KINDS, problem
from zoo.site import Site

from .bundles import bundle

RATE = 8_000
FREE = Port(
    kind="audio",
    dtype="float32",
    shape=("batch", "samples", 1),
    sample_rate=RATE,
    maximum_samples=RATE,
    summary="Speech",
)
SHORT = np.array([0, 0.5, -1, 0.25, 1 - STEP, -0.125], np.float32)[:, None]  # exact in 16 bits
HALF = np.array([0.5], np.float32)

GRAPH = """(float[batch,samples,1] audio, float[batch] gain) => (float[batch,samples,1] louder)
  <int64[2] last = {1, 2}> {
    column = Unsqueeze(gain, last)
    louder = Mul(audio, column)
}"""


@pytest.fixture
def amplifier(tmp_path, monkeypatch):
    """A bundle that takes and gives sound; the working folder has `in.wav`, written by the standard library."""
    monkeypatch.setenv("ZOO_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    write("in.wav", SHORT)
    gain = Port(kind="scalar", dtype="float32", shape=("batch",), minimum=0, maximum=2, default=1)
    task = Task(summary="A louder sound", inputs={"audio": FREE, "gain": gain}, outputs={"louder": FREE})
    return bundle(
        tmp_path / "amplifier", "amplifier", task, GRAPH, audio=SHORT[None], gain=HALF, louder=SHORT[None] / 2
    )


def write(path, samples, rate=RATE):
    """A WAV file of 16 bits by the standard library; samples [frames, channels]."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(samples.shape[1])
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((samples * 2**15).astype("<i2").tobytes())


def read(path):
    """Samples [frames, channels] and sample rate of a WAV file of 16 bits, by the standard library."""
    with wave.open(str(path), "rb") as file:
        assert file.getsampwidth() == 2
        levels = np.frombuffer(file.readframes(file.getnframes()), "<i2").reshape(-1, file.getnchannels())
        return levels.astype(np.float32) / 2**15, file.getframerate()


def run_it(out="out.wav", *more):
    done = zoo("run", "./amplifier", "--audio", "in.wav", "--gain", "0.5", "--out", out, *more)
    assert (done.code, done.out) == (0, f"{out}\n"), done.err
    return done


# --- The commands -----------------------------------------------------------------------------------------------------


def test_run_reads_and_writes_wav(amplifier, tmp_path):
    run_it()
    samples, rate = read("out.wav")
    np.testing.assert_array_equal(samples, np.rint(SHORT * 2**14) / 2**15)
    assert rate == RATE
    help = zoo("run", "./amplifier", "play", "--help").out
    assert "--audio FILE" in help and "8,000 Hz; at most 1 s" in " ".join(help.split())
    done = zoo("run", "./amplifier", "--audio", "in.wav", "--out", "out.mp3")
    assert done.code == 2 and "play gives sound; the name must end in .wav or .png" in done.err


def test_again_makes_it_again_and_finds_a_change(amplifier, tmp_path):
    run_it()
    done = zoo("again", "out.wav", "--model", "./amplifier", "--out", "again.wav")
    assert done.code == 0 and done.out.startswith("identical"), done.err
    assert (tmp_path / "again.wav").read_bytes() == (tmp_path / "out.wav").read_bytes()
    data = bytearray((tmp_path / "out.wav").read_bytes())
    data[-1] ^= 1  # the last sample, by 256 levels
    (tmp_path / "out.wav").write_bytes(data)
    done = zoo("again", "out.wav", "--model", "./amplifier")
    assert done.code == 5 and "out.wav differs: worst sample 0.00781" in done.err
    done = zoo("again", "in.wav", "--model", "./amplifier")
    assert done.code == 4 and "in.wav has no recipe" in done.err


def test_several_sounds_are_one_file_or_one_each(amplifier, tmp_path):
    write("b.wav", -SHORT / 2)
    done = zoo("run", "./amplifier", "play", "in.wav", "b.wav", "--out", "both.wav")
    assert done.code == 0, done.err
    np.testing.assert_array_equal(read("both.wav")[0], np.concatenate([SHORT, np.trunc(-SHORT * 2**14) / 2**15]))
    done = zoo("again", "both.wav", "--model", "./amplifier")
    assert done.code == 0 and done.out.startswith("identical"), done.err
    done = zoo("run", "./amplifier", "play", "in.wav", "b.wav", "--out", "x-{i}.wav", "--json")
    report = json.loads(done.out)
    assert report["paths"] == ["x-0.wav", "x-1.wav"] and report["values"] == {}, done.err
    done = zoo("again", "x-1.wav", "--model", "./amplifier")
    assert done.code == 0 and done.out.startswith("identical"), done.err
    write("long.wav", np.zeros((9, 1), np.float32))
    done = zoo("run", "./amplifier", "play", "in.wav", "long.wav", "--out", "both.wav")
    assert done.code == 4 and "in.wav has 6 samples and long.wav has 9 at 8,000 Hz" in done.err


def test_a_product_of_numbers_and_a_sound(amplifier):
    done = zoo("run", "./amplifier", "play", "in.wav", "--gain", "0,0.5,1", "--out", "gains.wav")
    assert done.code == 0, done.err
    np.testing.assert_array_equal(
        read("gains.wav")[0], np.concatenate([np.rint(SHORT * gain * 2**15) / 2**15 for gain in (0, 0.5, 1)])
    )
    done = zoo("again", "gains.wav", "--model", "./amplifier")
    assert done.code == 0 and done.out.startswith("identical"), done.err


def test_a_folder_of_sounds_of_any_length_gets_a_file_each(amplifier, tmp_path):
    for folder in ("in", "out", "more", "empty"):
        (tmp_path / folder).mkdir()
    for number in range(1, 5):
        write(f"in/{number}.wav", SHORT[: number // 2 + 1])
    (tmp_path / "in" / "notes.txt").write_text("not a sound")
    done = zoo("run", "./amplifier", "play", "in/", "--gain", "0.5", "--out", "out/{stem}.wav")
    assert done.code == 0, done.err
    assert done.out.splitlines() == [f"out/{number}.wav" for number in range(1, 5)]
    for number in range(1, 5):
        np.testing.assert_array_equal(read(f"out/{number}.wav")[0], np.rint(SHORT[: number // 2 + 1] * 2**14) / 2**15)
    done = zoo("again", "out/3.wav", "--model", "./amplifier", "--file", "in/3.wav")
    assert done.code == 0 and done.out.startswith("identical"), done.err
    (tmp_path / "in" / "5.wav").write_bytes(wav()[:-3])
    done = zoo("run", "./amplifier", "play", "in/", "--out", "more/{stem}.wav")
    assert done.code == 4 and "in/5.wav is cut short" in done.err and not list((tmp_path / "more").iterdir())
    done = zoo("run", "./amplifier", "play", "in/", "--out", "more/{stem}.wav", "--keep-going")
    assert done.code == 4 and "passed over" in done.err and len(list((tmp_path / "more").iterdir())) == 4
    done = zoo("run", "./amplifier", "play", "empty/", "--out", "more/{stem}.wav")
    assert done.code == 4 and "the folder empty/ has no files (.flac, .mp3, .ogg, .wav)" in done.err


def test_a_sound_can_be_looked_at(amplifier, tmp_path):
    run_it("out.png")
    picture = np.asarray(Image.open(tmp_path / "out.png"))
    np.testing.assert_array_equal(picture, drawn_sounds(SHORT[None] / 2)[0])
    assert picture.shape == (WAVE_HEIGHT + SPECTRUM_HEIGHT, WIDTH, 3)


def test_verify_replays_it_and_info_shows_it(amplifier):
    (report,) = json.loads(zoo("verify", "./amplifier", "--replay", "--json").out)
    assert report["replay"][0]["outputs"]["louder"]["verdict"] == "identical"
    lines = [" ".join(line.split()) for line in zoo("info", "./amplifier").out.splitlines()]
    assert "in audio audio float32 [batch, samples, 1] 8,000 Hz; at most 1 s; Speech" in lines


def test_python_takes_arrays_and_files(amplifier):
    model = load("./amplifier")
    for given in (SHORT[None], "in.wav", Path("in.wav"), ["in.wav"]):
        result = model.play(audio=given, gain=0.5)
        np.testing.assert_array_equal(result["louder"], SHORT[None] / 2)
    [image] = result.images
    assert image.size == (WIDTH, WAVE_HEIGHT + SPECTRUM_HEIGHT)
    assert KINDS["audio"].png(SHORT[None]).startswith(b"\x89PNG")
    with pytest.raises(UsageError, match=r"audio has 8,001 samples; at most 8,000 are allowed"):
        model.play(audio=np.zeros((1, RATE + 1, 1), np.float32))


# --- What it is -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({}, ""),
        ({"shape": ("batch", 8192, 2)}, ""),
        ({"shape": ("batch", "samples", 3)}, "the last dimension of the kind audio is 1 or 2, not 3"),
        ({"shape": ("batch", "samples")}, "ports of the kind audio have the shape [batch, samples, channels], not"),
        ({"sample_rate": None}, "ports of the kind audio state their sample_rate"),
        ({"minimum": 0}, "ports of the kind audio are -1 .. 1: they have no minimum and no maximum"),
        ({"shape": ("batch", 10, 1), "maximum_samples": 9}, "the port has 10 samples, so it has no maximum_samples"),
        ({"maximum_samples": 10**9}, "a sound has at most 40,000,000 samples, not 1,000,000,000"),
        ({"dtype": "uint8"}, "ports of the kind audio are float32, not uint8"),
        ({"kind": "tensor"}, "ports of the kind tensor have no sample_rate"),
    ],
)
def test_what_a_port_may_declare(fields, says):
    declared = {"kind": "audio", "dtype": "float32", "shape": ("batch", "samples", 1), "sample_rate": RATE}
    found = problem(Port(**declared | fields))
    assert found.startswith(says) and bool(found) == bool(says)


def test_samples_are_compared_within_the_tolerance_and_a_step_of_16_bits():
    compare, near = partial(KINDS["audio"].compare, FREE), Tolerance(absolute=0, relative=0)
    assert compare(SHORT, SHORT + np.float32(STEP), near)[1]
    assert not compare(SHORT, SHORT + np.float32(1.5 * STEP), near)[1]
    assert compare(SHORT, SHORT + np.float32(0.05), Tolerance(absolute=0.06, relative=0))[1]
    assert not compare(SHORT, np.full_like(SHORT, np.nan), Tolerance())[1]


def test_sounds_that_differ_in_phase_are_compared_by_log_mel_distance():
    compare, t = partial(KINDS["audio"].compare, FREE), np.arange(4_000) / RATE
    tone, shifted, higher, quieter = (
        (0.5 * gain * np.sin(2 * np.pi * pitch * t + phase)).astype(np.float32)[None, :, None]
        for gain, pitch, phase in ((1, 440, 0), (1, 440, 2), (1, 660, 0), (0.5, 440, 0))
    )
    assert not compare(tone, shifted, Tolerance())[1]
    near = Tolerance(log_mel=0.3)
    worst, within, text = compare(tone, shifted, near)
    assert within and worst > 0.5 and text.startswith("log-mel distance 0.") and text.endswith("worst sample 0.841")
    assert compare(tone, tone + np.float32(STEP), near)[1:] == (True, "worst sample 3.05e-05")
    for other in (higher, quieter, np.zeros_like(tone), np.full_like(tone, np.nan)):
        assert not compare(tone, other, near)[1]
    both = np.concatenate([tone, tone])
    assert not compare(both, np.concatenate([shifted, higher]), near)[1]  # every one of a batch counts
    assert log_mel(tone, RATE).shape == (1, 33, MELS) and log_mel(tone[:, :1], RATE).shape == (1, 2, MELS)


def test_the_band_of_a_tone_is_where_the_mel_scale_has_it():
    for pitch in (300, 1_000, 3_000):
        tone = np.sin(2 * np.pi * pitch * np.arange(RATE) / RATE).astype(np.float32)[None, :, None]
        spectrum = log_mel(tone, RATE)[0]
        band = (MELS + 1) * np.log1p(pitch / 700) / np.log1p(RATE / 2 / 700) - 1
        assert abs(spectrum.mean(axis=0).argmax() - band) <= 1
        assert spectrum.max() == pytest.approx(0, abs=1)


def test_golden_cases_are_sound_of_any_length():
    kind, rng = KINDS["audio"], np.random.default_rng(0)
    lengths = kind.dimensions(FREE, 28, 28), kind.dimensions(FREE, 32, 24), kind.dimensions(FREE, 512, 512)
    assert lengths == ({"samples": 784}, {"samples": 768}, {"samples": RATE})
    case = kind.draw_case(FREE, (2, 784, 1), rng)
    assert case.dtype == np.float32 and case.shape == (2, 784, 1) and 0.4 < np.abs(case).max() <= 1


def test_a_picture_shows_where_and_how_high_it_sounds():
    t = np.arange(RATE) / RATE
    tone = np.where(t < 0.5, np.sin(2 * np.pi * 1000 * t), 0).astype(np.float32)[None, :, None]
    picture = drawn_sounds(tone)[0].astype(int).sum(axis=2)
    loud = picture[WAVE_HEIGHT:, 100]
    row = SPECTRUM_HEIGHT - 1 - loud.argmax()  # from the bottom, half of the sample rate in WINDOW / 2 rows
    assert abs(row - 1000 / (RATE / 2) * SPECTRUM_HEIGHT) <= 1
    assert picture[WAVE_HEIGHT:, 400].max() == picture.min()  # silent
    drawn = picture[:WAVE_HEIGHT] > picture.min()
    assert drawn[:, 100].all() and drawn[:, 400].sum() <= 2
    odd = np.array([[[np.nan], [np.inf], [0.5]]], np.float32)
    np.testing.assert_array_equal(drawn_sounds(odd), drawn_sounds(np.array([[[0], [0], [0.5]]], np.float32)))


# --- Its files --------------------------------------------------------------------------------------------------------


def wav(samples=b"\0\0" * 8, *, format=1, channels=1, rate=RATE, bits=16, extra=b"", **lies):
    """A WAV file; `riff` and `data` are lengths that it states."""
    block, length = channels * bits // 8, 16 + len(extra)
    layout = struct.pack("<HHIIHH", format, channels, rate, rate * block % 2**32, block, bits)
    chunk = b"fmt " + struct.pack("<I", length) + layout + extra
    chunk += b"data" + struct.pack("<I", lies.get("data", len(samples))) + samples
    return b"RIFF" + struct.pack("<I", lies.get("riff", 4 + len(chunk))) + b"WAVE" + chunk


def given(data, name="x.wav"):
    return InputFile(name, data, "0" * 64)


@pytest.mark.parametrize(
    ("bits", "format", "samples", "expected"),
    [
        (8, 1, bytes([0, 128, 255, 64]), [-1, 0, 127 / 128, -0.5]),
        (16, 1, struct.pack("<4h", -(2**15), 0, 2**15 - 1, 2**14), [-1, 0, 1 - 2**-15, 0.5]),
        (24, 1, bytes.fromhex("000080 000000 ffff7f 0000c0"), [-1, 0, 1 - 2**-23, -0.5]),
        (32, 1, struct.pack("<4i", -(2**31), 0, 2**30, -(2**30)), [-1, 0, 0.5, -0.5]),
        (32, 3, struct.pack("<4f", -1, 0, 0.1, 1), [-1, 0, 0.1, 1]),
        (64, 3, struct.pack("<4d", -1, 0, 0.1, 1), [-1, 0, 0.1, 1]),
    ],
)
@pytest.mark.parametrize("extensible", [False, True])
@pytest.mark.parametrize("channels", [1, 2])
def test_every_depth_is_read(bits, format, samples, expected, extensible, channels):
    guid = bytes.fromhex("0000 0000 1000 8000 00aa 0038 9b71")
    extra = struct.pack("<HHIH", 22, bits, 0, format) + guid if extensible else b""
    file = given(wav(samples, format=0xFFFE if extensible else format, bits=bits, channels=channels, extra=extra))
    header = read_header(file)
    assert (header.frames, header.channels, header.sample_rate) == (4 // channels, channels, RATE)
    got = decode(file, header)
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got, np.array(expected, np.float32).reshape(-1, channels))


def test_what_is_written_is_read_back_and_is_clipped():
    levels = np.arange(-(2**15), 2**15, dtype=np.int32).astype(np.float32)[:, None] / 2**15
    file = given(encode(levels, 44_100, "zoo", '{"label": "é"}'))
    header = read_header(file)
    assert (header.sample_rate, header.software, header.comment) == (44_100, "zoo", '{"label": "é"}')
    np.testing.assert_array_equal(decode(file, header), levels)
    loud = np.array([[2], [-2], [1]], np.float32)
    file = given(encode(loud, RATE))
    assert decode(file, read_header(file))[:, 0].tolist() == [1 - STEP, -1, 1 - STEP]
    assert SoundFile(RATE).kept(loud)[:, 0].tolist() == [1 - STEP, -1, 1 - STEP]
    with pytest.raises(InvalidFileError, match="the model gave NaN or infinity"):
        SoundFile(RATE).encode_batch(np.full((1, 3, 1), np.nan, np.float32), "{}")


def test_more_than_a_wav_file_holds_is_one_line():
    whole = np.broadcast_to(np.float32(0), (2**31, 1))  # takes no memory
    with pytest.raises(InvalidFileError, match="a WAV file holds at most 4,293,918,720: write a file each"):
        encode(whole, 8000)


def test_a_file_of_another_program_has_no_recipe():
    assert SOUND.recipe_of(given(wav())) is None
    assert SOUND.recipe_of(given(encode(SHORT, RATE, "Audacity", "my first sound"))) is None
    assert SOUND.recipe_of(given(encode(SHORT, RATE, "zoo", "{}"))) == "{}"


@pytest.mark.parametrize("layout", [None, 0, -1, 10**6, True, "3", {"count": 3}])
def test_a_recipe_without_a_number_of_sounds_is_refused(layout):
    with pytest.raises(InvalidFileError, match="does not say how many sounds"):
        SOUND.count(layout, SHORT[None])


def test_a_file_whose_length_does_not_match_its_recipe_is_refused():
    for layout, index in ((4, None), (None, None)):
        with pytest.raises(InvalidFileError, match="another program changed it"):
            SOUND.decode_batch(given(encode(SHORT, RATE)), layout, index)
    with pytest.raises(InvalidFileError, match="not what zoo writes"):
        SOUND.decode_batch(given(wav(bits=8)), 1, None)


def test_channels_are_mixed_with_a_note():
    stereo = np.array([[0.5, -0.25], [1 - STEP, 0]], np.float32)
    notes: list[str] = []
    mono = read_sound(given(encode(stereo, RATE)), FREE, notes.append)
    np.testing.assert_array_equal(mono, stereo.mean(axis=1, keepdims=True))
    two = Port(kind="audio", dtype="float32", shape=("batch", "samples", 2), sample_rate=RATE)
    np.testing.assert_array_equal(read_sound(given(encode(SHORT, RATE)), two, notes.append), SHORT.repeat(2, axis=1))
    np.testing.assert_array_equal(read_sound(given(encode(stereo, RATE)), two, notes.append), stereo)
    assert notes == ["x.wav: two channels mixed to one", "x.wav: one channel used for both"]


def test_a_fixed_length_is_filled_up_with_silence():
    fixed = Port(kind="audio", dtype="float32", shape=("batch", 9, 1), sample_rate=RATE)
    notes: list[str] = []
    np.testing.assert_array_equal(
        read_sound(given(encode(SHORT, RATE)), fixed, notes.append),
        np.concatenate([SHORT, np.zeros((3, 1), np.float32)]),
    )
    assert notes == ["x.wav: 6 samples filled up with silence to 9"]


def test_a_float_file_that_is_too_loud_is_clipped_with_a_note():
    notes: list[str] = []
    file = given(wav(struct.pack("<2f", 1.5, -0.5), format=3, bits=32))
    assert read_sound(file, FREE, notes.append)[:, 0].tolist() == [1, -0.5]
    assert notes == ["x.wav: its peak of 1.5 clipped to 1"]


def test_another_sample_rate_is_resampled(tmp_path):
    long, notes = np.arange(22_050) / 44_100, []
    tone = (0.5 * np.sin(2 * np.pi * 440 * long)).astype(np.float32)[:, None]
    got = read_sound(given(encode(tone, 44_100)), FREE, notes.append)
    assert got.shape == (4_000, 1) and got.dtype == np.float32
    expected = 0.5 * np.sin(2 * np.pi * 440 * np.arange(4_000) / RATE)
    np.testing.assert_allclose(got[200:-200, 0], expected[200:-200], atol=2e-3)
    assert notes == ["x.wav: resampled from 44,100 to 8,000 Hz"]


@pytest.mark.parametrize("ending", ["flac", "ogg", "mp3"])
def test_other_formats_are_read(amplifier, ending):
    tone = np.rint(2**14 * np.sin(2 * np.pi * 440 * np.arange(4_000) / RATE)).astype(np.float32)[:, None] / 2**15
    soundfile.write(f"in.{ending}", tone, RATE)
    got = read_sound(read_input(f"in.{ending}"), FREE, lambda line: None)
    if ending == "flac":
        np.testing.assert_array_equal(got, tone)
    assert abs(len(got) - 4_000) <= 1_200  # mp3 pads its frames
    assert 0.4 < np.abs(got).max() < 0.6
    done = zoo("run", "./amplifier", "play", f"in.{ending}", "--gain", "0.5", "--out", "out.wav")
    assert done.code == 0, done.err
    done = zoo("again", "out.wav", "--model", "./amplifier")
    assert done.code == 0 and done.out.startswith("identical"), done.err


# --- Bad input --------------------------------------------------------------------------------------------------------


TEN_HOURS = 36_000 * 1_000  # samples of 8 bits at 1,000 Hz, a file of 36 MB

BAD = {
    "not audio": (b"GIF89a" + b"x" * 99, "bad.wav is not sound: it is not a WAV, FLAC, OGG or MP3 file"),
    "no samples": (wav(b""), "bad.wav has no samples"),
    "ten hours": (wav(b"\0" * TEN_HOURS, bits=8, rate=1_000), "bad.wav is 10 h long; at most 1 s (8,000 samples)"),
    "NaN": (wav(struct.pack("<2f", 0, np.nan), format=3, bits=32), "bad.wav contains NaN or infinity"),
    "infinity": (wav(struct.pack("<2d", 0, 1e300), format=3, bits=64), "bad.wav contains NaN or infinity"),
    "seven channels": (wav(b"\0" * 28, channels=7), "bad.wav has 7 channels; one or two are read"),
    "no channels": (wav(channels=0), "bad.wav has a damaged header: 0 channels of 16 bits"),
    "too long": (wav(b"\0\0" * 8_001), "bad.wav is 1.00012 s long; at most 1 s (8,000 samples) are allowed"),
    "cut short": (wav()[:-3], "bad.wav is cut short: its header states 60 bytes, and it has 57"),
    "data longer than the file": (wav(data=1 << 31), "its chunk data states 2,147,483,648 bytes, and 16 are there"),
    "data shorter than the file": (wav(data=2, riff=4 + 24 + 8 + 2), "states a wrong length: its header states 46"),
    "half a sample": (wav(b"\0" * 4 + b"\0", riff=4 + 24 + 8 + 5), "its last sample is not whole"),
    "a rate of 0": (wav(rate=0), "bad.wav has a sample rate of 0 Hz; it must be 1,000 .. 1,000,000"),
    "a rate of 4 GHz": (wav(rate=2**32 - 1), "a sample rate of 4,294,967,295 Hz; it must be 1,000 .. 1,000,000"),
    "a rate of 1 kHz, for long": (wav(rate=1_000, samples=b"\0\0" * 1_001), "is 1.001 s long; at most 1 s"),
    "no format": (b"RIFF\x0c\0\0\0WAVEdata\0\0\0\0", "bad.wav has no format: it is damaged"),
    "no data": (wav()[:36].replace(b"RIFF\x34", b"RIFF\x1c"), "bad.wav has no samples: it is damaged"),
    "only its beginning": (b"RIFF", "bad.wav is not sound"),
    "17 bits": (
        wav(bits=17),
        "bad.wav is WAV with samples of 17 bits; 8, 16, 24 and 32 bits are read",
    ),
    "a damaged FLAC": (b"fLaC" + b"x" * 200, "bad.wav cannot be decoded"),
    "a damaged MP3": (b"ID3" + b"x" * 200, "bad.wav cannot be decoded"),
    "a damaged OGG": (b"OggS" + b"x" * 200, "bad.wav cannot be decoded"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_file_is_refused_in_one_line(case, amplifier, tmp_path):
    data, says = BAD[case]
    (tmp_path / "bad.wav").write_bytes(data)
    before = resource.getrusage(resource.RUSAGE_SELF)
    done = zoo("run", "./amplifier", "--audio", "bad.wav", "--out", "out.wav")
    after = resource.getrusage(resource.RUSAGE_SELF)
    assert done.code in (2, 4) and says in done.err and done.err.count("\n") == 1, done.err
    assert not (tmp_path / "out.wav").exists()
    assert after.ru_utime - before.ru_utime < 2
    assert after.ru_maxrss - before.ru_maxrss < 150 << 10  # kilobytes; ten hours decoded would be 144 MB and more


def test_ten_hours_are_refused_without_reading_them(amplifier, tmp_path):
    seconds, rate = 36_000, 16_000
    with (tmp_path / "long.wav").open("wb") as file:
        file.write(wav(b"", rate=rate, riff=36 + 2 * rate * seconds, data=2 * rate * seconds))
        file.truncate(44 + 2 * rate * seconds)  # 1.2 GB that take no place
    before = resource.getrusage(resource.RUSAGE_SELF)
    done = zoo("run", "./amplifier", "--audio", "long.wav", "--out", "out.wav")
    after = resource.getrusage(resource.RUSAGE_SELF)
    assert done.code == 4 and done.err == ("Error: long.wav is 10 h long; at most 1 s (8,000 samples) are allowed\n"), (
        done.err
    )
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1
    assert after.ru_maxrss - before.ru_maxrss < 50 << 10  # kilobytes


def test_192_khz_needs_soxr_or_is_resampled(amplifier, monkeypatch):
    write("high.wav", SHORT.repeat(1_000, axis=0), rate=192_000)
    monkeypatch.setitem(sys.modules, "soxr", None)
    done = zoo("run", "./amplifier", "--audio", "high.wav", "--out", "out.wav")
    assert done.code == 2 and done.err.endswith(
        "high.wav has 192,000 Hz and this model takes 8,000; resampling needs soxr: pip install 'genzoo[audio]'\n"
    )
    assert not Path("out.wav").exists()


def test_other_formats_need_soundfile(amplifier, monkeypatch):
    Path("in.flac").write_bytes(b"fLaC" + b"x" * 200)
    monkeypatch.setitem(sys.modules, "soundfile", None)
    done = zoo("run", "./amplifier", "--audio", "in.flac", "--out", "out.wav")
    assert done.code == 2 and done.err.endswith(
        "in.flac is FLAC; reading it needs soundfile: pip install 'genzoo[audio]'\n"
    )


def test_a_length_that_was_not_known_when_a_pipe_was_written_is_that_of_the_file():
    file = given(wav(riff=2**32 - 1, data=2**32 - 1))
    assert read_header(file).frames == 8


def test_no_damage_to_a_header_is_anything_but_one_line():
    whole = encode(SHORT, RATE, "zoo", "{}")
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(500):
        data = bytearray(whole)
        for at in rng.integers(0, len(data) - 12, rng.integers(1, 4)):
            data[at] = rng.integers(256)
        data = data[: rng.integers(1, len(data))] if rng.random() < 0.3 else data
        try:
            read_sound(given(bytes(data)), FREE, lambda line: None)
        except ZooError as e:
            refused += 1
            assert "\n" not in str(e)
    assert refused > 100


# --- Hosts ------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", ["python", "node"])
def test_a_host_takes_and_gives_it(name, amplifier, tmp_path):
    host = HOSTS[name]
    need(host.missing())
    done = zoo("export", "./amplifier", "--target", host.target, "-o", "out")
    assert done.code == 0, done.err
    np.save(tmp_path / "sound.npy", SHORT[None])
    words = ["play", "--audio", tmp_path / "sound.npy", "--gain", "0.5", "--out", tmp_path / "louder.npy"]
    for command in (["verify"], words):
        done = call(host, tmp_path / "out", *command)
        assert done.returncode == 0, done.stderr
    np.testing.assert_array_equal(np.load(tmp_path / "louder.npy"), SHORT[None] / 2)
    words = ["play", "--audio", tmp_path / "in.wav", "--gain", "0.5", "--out", tmp_path / "louder.wav"]
    done = call(host, tmp_path / "out", *words)
    assert done.returncode == 0, done.stderr
    np.testing.assert_array_equal(read(tmp_path / "louder.wav")[0], np.rint(SHORT * 2**14) / 2**15)
    write(tmp_path / "high.wav", SHORT, 2 * RATE)
    (tmp_path / "short.wav").write_bytes((tmp_path / "in.wav").read_bytes()[:30])
    np.save(tmp_path / "long.npy", np.zeros((1, RATE + 1, 1), np.float32))
    for name, says in (
        ("high.wav", "high.wav must have 16 bits, 8000 Hz and 1 channel"),
        ("short.wav", "short.wav is "),
        ("long.npy", "audio has 8001 samples; at most 8000 are allowed"),
    ):
        done = call(host, tmp_path / "out", "play", "--audio", tmp_path / name)
        assert done.returncode == 1 and says in done.stderr and done.stderr.count("\n") == 1, done.stderr
    np.save(tmp_path / "loud.npy", SHORT[None] * 2)
    done = call(host, tmp_path / "out", "play", "--audio", tmp_path / "loud.npy")
    assert done.returncode == 1 and "audio is -2" in done.stderr
    assert "--audio sound.npy --out louder.npy" in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.slow
def test_the_page_reads_plays_and_saves_it(amplifier, tmp_path):
    from playwright.sync_api import sync_playwright
    from zoo_targets.web import browser, flags

    need("" if browser() else "Chromium")
    done = zoo("export", "./amplifier", "--target", "web", "-o", "site")
    assert done.code == 0, done.err
    (tmp_path / "bad.wav").write_bytes(b"GIF89a" + b"x" * 99)
    write("long.wav", np.zeros((RATE + 1, 1), np.float32))
    with sync_playwright() as playwright, serving(Site(tmp_path / "site")) as url:
        chromium = playwright.chromium.launch(executable_path=browser(), args=flags())
        page = chromium.new_page()
        page.goto(f"{url}?device=wasm")
        page.wait_for_selector("html[data-ready]", timeout=60_000)
        for name, says in (("bad", "bad.wav is not sound"), ("long", "long.wav is 1.00012 s long; at most 1 s")):
            page.set_input_files("#port-audio", tmp_path / f"{name}.wav")
            page.get_by_text(says).wait_for()
        page.set_input_files("#port-audio", tmp_path / "in.wav")
        page.locator("#ports .drop audio[src^=blob]").wait_for()
        page.fill("#port-gain", "0.5")
        page.click("#go")
        page.wait_for_selector("html[data-drawn='1']", timeout=30_000)
        player = page.locator("#outputs audio[data-port=louder]")
        length = player.evaluate(
            "player => new Promise((done, fail) => { player.onloadedmetadata = () => done(player.duration);"
            " player.onerror = () => fail(player.error.message); player.load(); })"
        )
        with page.expect_download() as saved:
            page.get_by_text("Download WAV").click()
        saved.value.save_as(tmp_path / "saved.wav")
        chromium.close()
    assert length == pytest.approx(len(SHORT) / RATE, abs=1e-4)
    samples, rate = read("saved.wav")
    np.testing.assert_allclose(samples, SHORT / 2, atol=1.01 * STEP)
    assert rate == RATE
