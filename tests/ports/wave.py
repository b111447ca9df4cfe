"""A kind of port that zoo lacks, in one file: mono sound, float32 [batch, samples], as `.wave.json` in files."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from zoo.errors import InvalidFileError
from zoo.hookspecs import Port, Task
from zoo.media.files import InputFile, read_input
from zoo.ports.kind import Form, Kind, Option, Read, Source


class WaveFile(Form):
    """A batch of waves as JSON, with its recipe inside."""

    name = "waves"
    suffixes = (".json",)
    shared = False

    def encode_batch(self, batch: np.ndarray, recipe: str) -> bytes:
        return json.dumps({"wave": batch.tolist(), "zoo": recipe}).encode()

    def reads(self, file: InputFile) -> bool:
        return file.data.startswith(b'{"wave"')

    def recipe_of(self, file: InputFile) -> str | None:
        return _read(file).get("zoo")

    def decode_batch(self, file: InputFile, layout: Any, index: int | None) -> np.ndarray:
        return np.array(_read(file)["wave"], np.float32)


class Wave(Kind):
    name = "wave"
    dtype = "float32"
    shape = "[batch, samples]"
    meaning = "mono sound, -1 .. 1"
    since = "9.9"
    ranks = (2,)
    form = WaveFile()
    codec = "floats"
    sample = "sound.wave.json"

    def bounds(self, port: Port) -> tuple[float, float]:
        return -1, 1

    def option(self, name: str, port: Port, task: Task) -> Option:
        return Option(name, self.help(name, port, "a .wave.json file"), metavar="FILE", file=True, positional=True)

    def read(self, given: Any, source: Source) -> Read:
        file = read_input(given)
        return Read({source.name: self.form.decode_batch(file, None, None)}, [file])

    def host_sample(self, port: Port) -> str:
        return "wave.npy"


def _read(file: InputFile) -> dict[str, Any]:
    try:
        return json.loads(file.data)
    except ValueError:
        raise InvalidFileError(f"{file.name} is not a .wave.json file") from None
