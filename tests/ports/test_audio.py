"""Sound: WAV in and out, in every command and host; bad files refused in one line."""

import wave

import numpy as np
import pytest

from tests.cli.commands import zoo
from zoo.hookspecs import Port, Task
from zoo.ports.audio import STEP

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
