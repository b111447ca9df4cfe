"""Sound files to arrays: WAV by `wav.py`, other formats by soundfile, other sample rates by soxr (extra `audio`).

What a file's header states is compared with the port before samples are decoded.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ..errors import InvalidFileError
from ..system.paths import is_file, read_file, user_path
from ..text import one_line
from .extras import need
from .files import STDIN, InputFile, Note, read_input, shown_name
from .wav import FLOAT, PCM, decode, is_wav, read_header, readable, stated_length

if TYPE_CHECKING:
    import numpy as np

    from ..hookspecs import Port

WAV_ENDINGS = (".wav",)
SOUND_ENDINGS = (*WAV_ENDINGS, ".flac", ".ogg", ".mp3")
"""The endings of sound files; contents decide what a file is."""

MAX_SAMPLES = 40_000_000
"""The most samples of a sound, of all channels: as many as a picture has pixels."""

RATES = (1_000, 1_000_000)
"""The sample rates, Hz, of files that are read."""

_START_BYTES = 64 << 10
"""The part of a WAV file that usually has its header."""

_OTHERS = {
    "FLAC": re.compile(rb"fLaC"),
    "OGG": re.compile(rb"OggS"),
    "MP3": re.compile(rb"ID3|\xff[\xe2-\xff]"),
}
"""How files begin that soundfile reads."""


def longest(port: Port) -> int:
    """The most samples of each channel that a port takes."""
    if isinstance(port.shape[1], int):
        return port.shape[1]
    return port.maximum_samples or MAX_SAMPLES // int(port.shape[2])


def read_sound_file(source: str | InputFile, port: Port) -> InputFile:
    """The bytes of a file, as `zoo.media.files.read_input` gives them. A WAV file that is too long for the port is
    refused by its beginning, without reading the rest.
    """
    if isinstance(source, str) and source != STDIN and is_file(path := user_path(source)):
        start = read_file(path, _START_BYTES)
        if len(start) > _START_BYTES and (stated := stated_length(start, shown_name(source))):
            _samples_for(port, shown_name(source), *stated)
    return read_input(source)


def check_sound(file: InputFile, port: Port) -> int:
    """The samples of each channel that the file has for a port, by its header.

    Raises:
        InvalidFileError: it is not sound, is damaged, empty or too long, or has channels that cannot be mixed.
        UsageError: it needs a package that is not installed.
    """
    frames, channels, sample_rate, _ = _look(file)
    shown = file.shown
    if not frames:
        raise InvalidFileError(f"{shown} has no samples")
    if channels > 2:
        raise InvalidFileError(f"{shown} has {channels} channels; one or two are read")
    samples, rate = _samples_for(port, shown, frames, channels, sample_rate), _rate(port)
    if sample_rate != rate:
        need("soxr", "audio", f"{shown} has {sample_rate:,} Hz and this model takes {rate:,}; resampling")
    return port.shape[1] if isinstance(port.shape[1], int) else samples


def read_sound(file: InputFile, port: Port, note: Note) -> np.ndarray:
    """One sound as an `audio` port needs it: float32 [samples, channels], -1 .. 1, at the port's sample rate.

    Stereo becomes mono as the mean of both channels, mono becomes stereo twice the same. If the port fixes the length,
    silence is added at the end.

    Args:
        note: called with one line for each change.

    Raises:
        InvalidFileError, UsageError: as for `check_sound`, or it contains NaN or infinity.
    """
    import numpy as np

    samples = check_sound(file, port)
    frames, channels, sample_rate, decoded = _look(file)
    wave, shown = decoded(), file.shown
    if len(wave) != frames:
        raise InvalidFileError(f"{shown} is cut short: its header states {frames:,} samples, and it has {len(wave):,}")
    if not np.isfinite(wave).all():
        raise InvalidFileError(f"{shown} contains NaN or infinity")
    rate, wanted = _rate(port), int(port.shape[2])
    if channels != wanted:
        wave = wave.mean(axis=1, keepdims=True) if wanted == 1 else wave.repeat(2, axis=1)
        note(f"{shown}: {'two channels mixed to one' if wanted == 1 else 'one channel used for both'}")
    if sample_rate != rate:
        soxr = need("soxr", "audio", "resampling")
        wave = soxr.resample(wave, sample_rate, rate)
        note(f"{shown}: resampled from {sample_rate:,} to {rate:,} Hz")
    if (peak := float(np.abs(wave).max(initial=0))) > 1:  # a float file, or what a filter adds at an edge
        note(f"{shown}: its peak of {peak:.3g} clipped to 1")
        wave = wave.clip(-1, 1)
    wave = np.ascontiguousarray(wave[:samples], np.float32)
    if len(wave) < samples:  # a resampler may round down
        if isinstance(port.shape[1], int) and len(wave) < samples - 1:
            note(f"{shown}: {len(wave):,} samples filled up with silence to {samples:,}")
        wave = np.pad(wave, ((0, samples - len(wave)), (0, 0)))
    return wave


def read_sounds(files: Sequence[InputFile], port: Port, note: Note) -> np.ndarray:
    """Sounds as a batch, float32 [number, samples, channels].

    Raises:
        InvalidFileError: as for `read_sound`, or a file with another length than the first.
    """
    import numpy as np

    waves = [read_sound(file, port, note) for file in files]
    for file, wave in zip(files, waves, strict=True):
        if len(wave) != len(waves[0]):
            raise InvalidFileError(
                f"{files[0].shown} has {len(waves[0]):,} samples and {file.shown} has {len(wave):,} at"
                f" {_rate(port):,} Hz; all sounds of one call must have the same length"
            )
    return np.stack(waves)


def _samples_for(port: Port, shown: str, frames: int, channels: int, sample_rate: int) -> int:
    """The samples of each channel at the port's sample rate; an InvalidFileError if they are too many."""
    if not RATES[0] <= sample_rate <= RATES[1]:
        raise InvalidFileError(
            f"{shown} has a sample rate of {sample_rate:,} Hz; it must be {RATES[0]:,} .. {RATES[1]:,}"
        )
    rate, most = _rate(port), longest(port)
    samples = -(-frames * rate // sample_rate)
    if samples > most or frames * channels > MAX_SAMPLES:
        limit = f"{most / rate:,.6g} s ({most:,} samples)" if samples > most else f"{MAX_SAMPLES:,} samples"
        raise InvalidFileError(f"{shown} is {_length(frames / sample_rate)} long; at most {limit} are allowed")
    return samples


def _rate(port: Port) -> int:
    assert port.sample_rate, "the kind audio requires it"
    return port.sample_rate


def _look(file: InputFile) -> tuple[int, int, int, Callable[[], np.ndarray]]:
    """Samples of each channel, channels and sample rate from the header, and what decodes the samples."""
    if is_wav(file.data):
        header = read_header(file)
        if readable(header.format, header.bits):
            return header.frames, header.channels, header.sample_rate, lambda: decode(file, header)
        if header.format in (PCM, FLOAT):
            raise InvalidFileError(
                f"{file.shown} is WAV with samples of {header.bits} bits; 8, 16, 24 and 32 bits are read, floats of 32"
                " and 64"
            )
        kind = f"WAV of the format {header.format}"
    else:
        kind = next((name for name, magic in _OTHERS.items() if magic.match(file.data)), "")
    if not kind:
        raise InvalidFileError(f"{file.shown} is not sound: it is not a WAV, FLAC, OGG or MP3 file")
    soundfile = need("soundfile", "audio", f"{file.shown} is {kind}; reading it")
    with _readable(file), soundfile.SoundFile(io.BytesIO(file.data)) as opened:
        frames, channels, sample_rate = opened.frames, opened.channels, opened.samplerate

    def decoded() -> np.ndarray:
        with _readable(file), soundfile.SoundFile(io.BytesIO(file.data)) as opened:
            return opened.read(frames + 1, dtype="float32", always_2d=True)

    return frames, channels, sample_rate, decoded


@contextmanager
def _readable(file: InputFile) -> Iterator[None]:
    """Turns what soundfile raises into one line."""
    try:
        yield
    except RuntimeError as e:  # its own error is one
        raise InvalidFileError(f"{file.shown} cannot be decoded: {one_line(e)[:200]}") from None


def _length(seconds: float) -> str:
    return f"{seconds / 3600:,.3g} h" if seconds >= 3600 else f"{seconds:,.6g} s"
