"""Tokens: the codes of a picture, int64 [batch, rows, columns]; in files with its size and their model's digest.

A tokens file is safetensors: one tensor per port (`tokens`, or one per level), `size` (int64 [2]: height and width),
and one metadata entry `zoo` with the model's digest, since codes are meaningless with another codebook. A `.npy` array
of codes is accepted too; it does not store the size, so the picture comes out in the padded size. One option,
`--tokens`, fills all of a task's `tokens` ports and its `size`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..errors import InvalidFileError
from ..hookspecs import Port, Task, Tile
from ..media.files import InputFile, Note, read_input
from ..media.tensors import METADATA_KEY, NPY_MAGIC, encode_npy, encode_safetensors, read_npy, read_safetensors
from ..text import safe_text
from .integers import Integers
from .kind import Form, Option, Read, RealInputs, Source

if TYPE_CHECKING:
    import numpy as np

TOKENS = "tokens"
"""The option that fills every `tokens` port and `size`."""

SIZE = "size"

WHOLE = 1 << 31
"""A size larger than any picture: `decode` crops to `size`, so this keeps everything that the tokens give."""


class TokensFile(Form):
    """All tokens of a call in one file, with the picture's size and the model's digest."""

    name = "tokens"
    suffixes = (".safetensors", ".npy")
    shared = True

    def encode(self, arrays: Mapping[str, np.ndarray], made_by: Mapping[str, str], suffix: str) -> bytes:
        if suffix == ".npy":
            return encode_npy(next(array for name, array in arrays.items() if name != SIZE))
        return encode_safetensors(arrays, made_by)


TOKENS_FILE = TokensFile()


class Tokens(Integers):
    name = "tokens"
    shape = "[batch, rows, columns]"
    ranks = (3,)
    meaning = "codes in raster order"
    decides = True
    form = TOKENS_FILE
    shown = "codes"
    sample = "tokens.safetensors"

    def option(self, name: str, port: Port, task: Task) -> Option:
        help = "Tokens file: .safetensors that `encode` wrote, or .npy."
        endings = TOKENS_FILE.suffixes
        return Option(TOKENS, help, metavar="FILE", file=True, endings=endings, positional=True, shared=True)

    def read(self, given: Any, source: Source) -> Read:
        file = read_input(given)
        values = read_tokens(file, source.task, source.digest, source.model, source.note)
        levels = tokens_of(source.task.inputs)
        return Read({n: v for n, v in values.items() if n in levels or n not in source.given}, [file])

    def missing(self, name: str, port: Port, task: Task) -> tuple[str, str]:
        return TOKENS, self.asks

    def pixels_a_step(self, tile: Tile) -> int:
        return tile.multiple

    def host_sample(self, port: Port) -> str:
        return "tokens.npy"

    def real_case(self, name: str, port: Port, inputs: RealInputs) -> np.ndarray | None:
        return inputs.encoded.get(name)


def tokens_of(ports: Mapping[str, Port]) -> list[str]:
    """The names of the ports that are tokens, coarse levels first."""
    return [name for name, port in ports.items() if port.kind == Tokens.name]


def sizes_of(ports: Mapping[str, Port]) -> list[str]:
    """The names of the ports that are sizes of pictures."""
    return [name for name, port in ports.items() if port.kind == SIZE]


def read_tokens(file: InputFile, task: Task, digest: str, model: str, note: Note) -> dict[str, np.ndarray]:
    """The `tokens` and `size` inputs of a task, from a tokens file.

    Args:
        task: the task whose ports are filled.
        digest, model: digest of the model that will decode, and its name for messages.

    Raises:
        InvalidFileError: not a tokens file, one that another model made, or one without a port's tensor.
    """
    import numpy as np

    shown = file.shown
    levels = tokens_of(task.inputs)
    if file.data.startswith(NPY_MAGIC):
        if len(levels) > 1:
            raise InvalidFileError(f"{shown} contains one array; this model's tokens are {', '.join(levels)}")
        arrays = {levels[0]: read_npy(file)}
    else:
        arrays, metadata = read_safetensors(file)
        _check_maker(metadata, shown, digest, model, note)
        if missing := [name for name in levels if name not in arrays]:
            raise InvalidFileError(f"{shown} has no tensor {missing[0]}; it has {safe_text(', '.join(arrays))}")
    filled = {name: arrays[name] for name in levels}
    for name in sizes_of(task.inputs):
        if name not in arrays:
            note(f"{shown} does not store the picture's size: the picture includes the padding")
        filled[name] = arrays.get(name, np.array([WHOLE, WHOLE], np.int64))
    return filled


def _check_maker(metadata: Mapping[str, str], shown: str, digest: str, model: str, note: Note) -> None:
    try:
        made_by = json.loads(metadata.get(METADATA_KEY, "{}"))
        maker, made_digest = made_by.get("model", "?"), made_by.get("digest")
    except (ValueError, AttributeError, RecursionError):
        raise InvalidFileError(f"{shown}: its metadata '{METADATA_KEY}' is not what zoo writes") from None
    if made_digest is None:
        note(f"{shown} does not say which model made its tokens: assuming {model}")
    elif made_digest != digest:
        raise InvalidFileError(
            f"{shown} contains tokens of {safe_text(maker)[:100]} ({safe_text(made_digest)[:12]}…);"
            f" {model} ({digest[:12]}…) cannot decode another model's tokens"
        )
