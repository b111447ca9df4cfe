"""Sound: float32 [batch, samples, channels], -1 .. 1, at a sample rate that the port fixes; WAV in files."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from msgspec import UNSET

from ..errors import InvalidFileError, UsageError
from ..hookspecs import Port, Task, Tolerance
from ..media.files import InputFile
from ..media.grid import Grid
from ..media.pictures import encode_png
from ..media.sounds import MAX_SAMPLES, SOUND_ENDINGS, check_sound, longest, read_sound_file, read_sounds
from ..media.wav import decode, encode, is_wav, read_header
from ..text import warn
from .given import FILE_SCHEMA, files_of, numbers_of
from .kind import MAX_BATCH, Form, Kind, Number, Option, Read, Source, compare_floats, counted
from .map import colours

if TYPE_CHECKING:
    import numpy as np
    import PIL.Image

SOFTWARE = "zoo"
"""What the list of information of its WAV files says that wrote them."""

STEP = 2**-15
"""The difference between two neighbouring values of 16-bit PCM."""

WIDTH, WAVE_HEIGHT, SPECTRUM_HEIGHT, WINDOW = 512, 96, 128, 256
"""Of a sound as a picture: pixels, and the samples of one column of the spectrogram (half as many frequencies)."""

HOP, MELS = WINDOW // 2, 40
"""Of a log-mel spectrogram: samples from one column to the next, and bands."""

DARKEST_DB = -80
"""What a spectrogram draws darkest, dB below its loudest point."""


class SoundFile(Form):
    """A batch as one WAV, one sound after the other, with its recipe in the list of information."""

    name = "sound"
    suffixes = (".wav", ".png")
    shared = False
    media_type = "audio/wav"

    def __init__(self, sample_rate: int | None = None):
        self.sample_rate = sample_rate  # Hz; a form that only reads has none

    def named(self, suffix: str) -> Form:
        return SOUND_PICTURE if suffix == ".png" else self

    def encode_batch(self, batch: np.ndarray, recipe: str) -> bytes:
        import numpy as np

        assert self.sample_rate, "the form of a port has its sample rate"
        if not np.isfinite(batch).all():
            raise InvalidFileError("the model gave NaN or infinity, which is not sound")
        return encode(batch.reshape(-1, batch.shape[2]), self.sample_rate, SOFTWARE, recipe)

    def kept(self, batch: np.ndarray) -> np.ndarray:
        import numpy as np

        levels = np.clip(np.rint(batch / STEP), -1 / STEP, 1 / STEP - 1) + 0.0  # integers have no -0
        return (levels * STEP).astype(np.float32)

    def layout(self, batch: np.ndarray) -> int:
        return len(batch)

    def count(self, layout: Any, batch: np.ndarray) -> int:
        return counted(layout, "sounds")

    def reads(self, file: InputFile) -> bool:
        return is_wav(file.data)

    def recipe_of(self, file: InputFile) -> str | None:
        header = read_header(file)
        return header.comment or None if header.software == SOFTWARE else None

    def decode_batch(self, file: InputFile, layout: Any, index: int | None) -> np.ndarray:
        header = read_header(file)
        if (header.format, header.bits) != (1, 16) or header.frames * header.channels > MAX_BATCH * MAX_SAMPLES:
            raise InvalidFileError("its samples are not what zoo writes: another program changed it")
        wave = decode(file, header)
        count = 1 if index is not None else self.count(layout, wave)
        if not len(wave) or len(wave) % count:
            raise InvalidFileError("its length does not match its recipe: another program changed it")
        return wave.reshape(count, -1, header.channels)


class SoundPicture(Form):
    """A batch as one PNG: waveform and spectrogram. It has lost the samples, so it has no recipe."""

    name = "sound"
    suffixes = (".png",)
    shared = False

    def encode_batch(self, batch: np.ndarray, recipe: str) -> bytes:
        return _png(batch)


SOUND, SOUND_PICTURE = SoundFile(), SoundPicture()


class Audio(Kind):
    name = "audio"
    dtype = "float32"
    shape = "[batch, samples, channels]"
    meaning = "sound, -1 .. 1, mono or stereo, at the port's `sample_rate`; WAV in files"
    ranks = (3,)
    last = (1, 2)
    fields = ("sample_rate", "maximum_samples")
    follows = True
    form = SOUND
    codec = "floats"
    field = "sound"
    shown = "sound"
    sample = "sound.wav"

    def problem(self, port: Port) -> str:
        if wrong := super().problem(port):
            return wrong
        if port.sample_rate is None:
            return "ports of the kind audio state their sample_rate"
        if (port.minimum, port.maximum) != (None, None):
            return "ports of the kind audio are -1 .. 1: they have no minimum and no maximum"
        if isinstance(port.shape[1], int) and port.maximum_samples:
            return f"the port has {port.shape[1]:,} samples, so it has no maximum_samples"
        if (most := longest(port) * int(port.shape[2])) > MAX_SAMPLES:
            return f"a sound has at most {MAX_SAMPLES:,} samples, not {most:,}"
        return ""

    def bounds(self, port: Port) -> tuple[Number | None, Number | None]:
        return -1, 1

    def limits(self, port: Port) -> Iterator[str]:
        yield f"{port.sample_rate:,} Hz"
        if port.maximum_samples:
            yield f"at most {port.maximum_samples / (port.sample_rate or 1):,.6g} s"

    def form_in(self, port: Port, ports: Mapping[str, Port]) -> Form:
        return SoundFile(port.sample_rate)

    def images(self, array: np.ndarray) -> list[PIL.Image.Image]:
        from PIL import Image

        return [Image.fromarray(picture) for picture in drawn_sounds(array)]

    def png(self, array: np.ndarray) -> bytes:
        return _png(array)

    def annotation(self, port: Port) -> Any:
        import numpy as np

        one = str | Path | np.ndarray
        return one | Sequence[one]

    def from_value(self, name: str, port: Port, value: Any) -> np.ndarray:
        """An array, or the path of a file, or several paths; what is changed in a file gives a warning."""
        paths = value if isinstance(value, (list, tuple)) and value else [value]
        if all(isinstance(path, (str, PurePath)) for path in paths):
            return read_sounds([read_sound_file(str(path), port) for path in paths], port, warn)
        return super().from_value(name, port, value)

    def from_request(self, name: str, port: Port, value: Any) -> Any:
        """A sound's file, as bytes or in base64, or several; else an array, as nested lists."""
        if (files := files_of(name, value)) is not None:
            return read_sounds([read_sound_file(file, port) for file in files], port, lambda line: None)
        return numbers_of(name, value, port.dtype)

    def to_answer(self, port: Port, array: np.ndarray) -> Any:
        form = self.form_in(port, {})
        return [b64encode(form.encode_batch(sound[None], "")).decode() for sound in array]

    def schema(self, port: Port) -> dict[str, Any]:
        return FILE_SCHEMA

    def check_array(self, name: str, port: Port, array: np.ndarray) -> None:
        if array.shape[1] > longest(port):
            raise UsageError(f"{name} has {array.shape[1]:,} samples; at most {longest(port):,} are allowed")
        super().check_array(name, port, array)

    def option(self, name: str, port: Port, task: Task) -> Option:
        files = "WAV; FLAC, OGG, MP3 with genzoo[audio]; or - for stdin"
        help = self.help(name, port, "; ".join([*self.limits(port), files]))
        return Option(
            name, help, metavar="FILE", multiple=True, file=True, endings=SOUND_ENDINGS, folder=SOUND_ENDINGS,
            positional=True,
        )  # fmt: skip

    def read(self, given: Any, source: Source) -> Read:
        files = [read_sound_file(path, source.port) for path in given]
        return Read({source.name: read_sounds(files, source.port, source.note)}, files)

    def look(self, file: InputFile, port: Port) -> tuple[int, ...]:
        return (check_sound(file, port),)

    def compare(
        self, port: Port, expected: np.ndarray, actual: np.ndarray, tolerance: Tolerance
    ) -> tuple[float, bool, str]:
        """By sample, and where that fails, by log-mel distance if the tolerance has one.

        A tolerance below a step of 16 bits is one step, since files hold no more than that.
        """
        import numpy as np
        from msgspec.structs import replace

        at_least = replace(tolerance, absolute=max(tolerance.absolute, STEP))
        worst, within = compare_floats(expected, actual, at_least)
        text = f"worst sample {worst:.3g}"
        if within or tolerance.log_mel is UNSET or not np.isfinite(expected).all() or not np.isfinite(actual).all():
            return worst, within, text
        rate = port.sample_rate or 1
        distances = np.abs(log_mel(expected, rate) - log_mel(actual, rate)).mean(axis=(1, 2))
        return worst, bool(distances.max() <= tolerance.log_mel), f"log-mel distance {distances.max():.3g}, {text}"

    def host_sample(self, port: Port) -> str:
        return "sound.npy"

    def dimensions(self, port: Port, height: int, width: int) -> dict[str, int]:
        samples = port.shape[1]
        return {samples: min(longest(port), height * width)} if isinstance(samples, str) else {}

    def draw_case(self, port: Port, shape: Sequence[int], rng: np.random.Generator) -> np.ndarray:
        """Tones of half the range, one for each channel, with a little noise."""
        import numpy as np

        batch, samples, channels = shape
        pitch = rng.uniform(0.005, 0.25, (batch, 1, channels))  # periods a sample
        phase = rng.uniform(0, 2 * np.pi, (batch, 1, channels))
        tones = 0.5 * np.sin(2 * np.pi * pitch * np.arange(samples)[None, :, None] + phase)
        return (tones + rng.normal(0, 0.05, shape)).clip(-1, 1).astype(np.float32)


def log_mel(batch: np.ndarray, sample_rate: int) -> np.ndarray:
    """Log-mel spectrograms, float64 [batch, columns, MELS], in nats; of the mean of all channels.

    Power of the STFT with Hann windows of `WINDOW` samples, half overlapping, in triangles that overlap by half and are
    equally wide on the mel scale (O'Shaughnessy 1987: 2595 lg(1 + f / 700 Hz)); nothing is below `DARKEST_DB`, where a
    tone of the full range is 0 dB. Their mean absolute difference hears what ears do: a phase shift does not count.
    """
    import numpy as np

    waves = np.pad(batch.mean(axis=2, dtype=np.float64), ((0, 0), (WINDOW // 2, WINDOW // 2 + -batch.shape[1] % HOP)))
    columns = np.lib.stride_tricks.sliding_window_view(waves, WINDOW, axis=1)[:, ::HOP]
    window = np.hanning(WINDOW)
    power = np.abs(np.fft.rfft(columns * window)) ** 2 / (window.sum() / 2) ** 2
    mels = 2595 * np.log10(1 + np.linspace(0, sample_rate / 2, WINDOW // 2 + 1) / 700)
    middles = np.linspace(0, mels[-1], MELS + 2)[1:-1]
    triangles = np.maximum(0, 1 - np.abs(mels[:, None] - middles) / middles[0])  # [frequencies, MELS]
    return np.log(np.maximum(power @ triangles, 10 ** (DARKEST_DB / 10)))


def drawn_sounds(batch: np.ndarray) -> np.ndarray:
    """Sounds as pictures, uint8 [batch, height, width, 3]: the waveform, and below it the spectrogram.

    The mean of all channels is drawn. A column of the waveform goes from its smallest sample to its largest; of the
    spectrogram it is a Hann window of `WINDOW` samples, in dB, low frequencies at the bottom. NaN and infinity are
    drawn as silence.
    """
    import numpy as np

    waves = np.nan_to_num(batch.mean(axis=2, dtype=np.float64), nan=0.0, posinf=0.0, neginf=0.0).clip(-1, 1)
    samples = waves.shape[1]
    edges = np.linspace(0, samples, WIDTH + 1).astype(int)
    edges[:-1] = edges[:-1].clip(0, samples - 1)
    low, high = (extreme.reduceat(waves, edges[:-1], axis=1)[:, None] for extreme in (np.minimum, np.maximum))
    rows = np.linspace(1, -1, WAVE_HEIGHT)[None, :, None]  # the value at the middle of each row of pixels
    half = 1 / (WAVE_HEIGHT - 1)
    inside = (rows >= low - half) & (rows <= high + half)  # [number, WAVE_HEIGHT, WIDTH]

    padded = np.pad(waves, ((0, 0), (WINDOW // 2, WINDOW // 2)))
    middles = np.linspace(0, samples - 1, WIDTH).astype(int)
    frames = padded[:, middles[:, None] + np.arange(WINDOW)] * np.hanning(WINDOW)
    power = np.abs(np.fft.rfft(frames, axis=2))[:, :, :SPECTRUM_HEIGHT] ** 2  # [number, WIDTH, SPECTRUM_HEIGHT]
    loudest = power.max(axis=(1, 2), keepdims=True)
    decibels = 10 * np.log10(np.maximum(power / np.where(loudest > 0, loudest, 1), 10 ** (DARKEST_DB / 10)))
    spectra = decibels.transpose(0, 2, 1)[:, ::-1]  # [number, SPECTRUM_HEIGHT, WIDTH]
    top = np.where(inside, 0.0, float(DARKEST_DB))
    return np.concatenate([colours(picture[None]) for picture in np.concatenate([top, spectra], axis=1)])


def _png(batch: np.ndarray) -> bytes:
    pictures = drawn_sounds(batch)
    return encode_png(Grid.of(pictures, columns=1).join(pictures))
