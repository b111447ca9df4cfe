"""Reads checkpoints that other projects wrote, for all importers.

safetensors files are read directly, PyTorch's files and pickles through `torchfile`, which runs none of their code.
"""

import json
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InvalidFileError
from ..formats import strictyaml
from ..media import tensors
from ..text import human_bytes, one_line, safe_text, stand_in
from . import torchfile, weightfiles
from .torchfile import StoredTensor
from .unpickle import StandIn
from .wrappers import EMA, choose, complete, without_prefixes

if TYPE_CHECKING:
    import torch

CONFIGS = ("config.json", "config.yaml", weightfiles.PIPELINE)
README = "README.md"
_LICENSE = re.compile(r"[A-Za-z0-9.+-]{1,100}")
MAX_CONFIG_BYTES = 1 << 20
MAX_DEPTH = 32  # of nested modules
MAX_NODES = 200_000
MAX_REPEATS = 8
"""How often the elements of a file may be used by all tensors: twice with tied weights, far more in a bomb of views."""
SMALL = 64 << 20  # bytes to which any file may expand

# What a broken pickle can raise.
_BROKEN = (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, MemoryError, EOFError, RuntimeError)


@dataclass(frozen=True)
class Foreign:
    """A foreign checkpoint."""

    tensors: "Mapping[str, torch.Tensor]"  # flat; may share memory with each other and with the file
    config: dict[str, Any] | None  # its config.json or config.yaml
    path: Path  # the weights file, or the index of its shards
    notes: tuple[str, ...]  # what was unwrapped and left out, one line each
    files: tuple[Path, ...] = ()  # all files with weights


def read(path: Path) -> Foreign:
    """Reads a checkpoint's file, or the one in a folder (such as `diffusion_pytorch_model.safetensors`), or its shards.

    Raises:
        NotFoundError: there is no such file, or no weights in the folder. UsageError: the folder contains several.
        InvalidFileError: the file is damaged, hostile or in an unsupported format; or a tensor contains NaN or
        infinity.
    """
    if (parts := weightfiles.parts(path)) and (config := _config(path)):
        return _read_parts(path, parts, config)
    notes: list[str] = []
    file = path
    try:
        found = weightfiles.find(path)
        weights: dict[str, torch.Tensor] = {}
        for file in found.files:
            part = _read_file(file, notes)
            if twice := weights.keys() & part.keys():
                raise ValueError(f"another shard has the tensor '{min(twice)[:100]}' too")
            weights |= part
        if found.index and (odd := found.index.keys() ^ weights.keys()):
            raise ValueError(f"its shards and {found.path.name} do not list the same tensors: {some(sorted(odd))}")
        if len(found.files) > 1:
            notes.append(f"read {len(found.files)} shards")
        file = found.path
        weights = without_prefixes(weights, notes)
    except OSError as e:
        raise InvalidFileError(f"{safe_text(file)} cannot be read: {e.strerror}") from None
    except _BROKEN as e:
        reason = one_line(e) if isinstance(e, ValueError) else f"its pickle is broken ({type(e).__name__})"
        raise InvalidFileError(f"{safe_text(file)} is not a readable checkpoint: {reason}") from None
    _check_finite(weights, file)
    return Foreign(weights, _config(file.parent), file, tuple(notes), found.files)


def _read_parts(path: Path, parts: Mapping[str, Path], config: dict[str, Any]) -> Foreign:
    """A pipeline of several networks: the tensors of each under its folder's name, and the pipeline's own config."""
    found = {name: read(folder) for name, folder in parts.items()}
    weights = {f"{name}.{key}": tensor for name, part in found.items() for key, tensor in part.tensors.items()}
    notes = (f"{name}: {line}" for name, part in found.items() for line in part.notes)
    files = (file for part in found.values() for file in part.files)
    return Foreign(weights, config, path / weightfiles.PIPELINE, tuple(notes), tuple(files))


# --- What is in it ----------------------------------------------------------------------------------------------------


def _read_file(file: Path, notes: list[str]) -> "dict[str, torch.Tensor]":
    with file.open("rb") as f:
        start = f.read(512)
    if known := stand_in(start):
        raise ValueError(f"it is {known}")
    if not start:
        raise ValueError("it is empty")
    return _read_safetensors(file) if weightfiles.is_safetensors(file) else _read_pickled(file, notes)


def _read_safetensors(file: Path) -> "dict[str, torch.Tensor]":
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    tensors.read_header(file)
    try:
        return load_file(file)
    except SafetensorError as e:
        raise ValueError(str(e)) from None


def _read_pickled(file: Path, notes: list[str]) -> "dict[str, torch.Tensor]":
    tree = torchfile.read(file)
    root, trained = _unwrap(tree, notes)
    skipped: list[str] = []
    found = _flat(root, skipped)
    if trained is not None:  # averages: buffers are only in the trained weights
        found = complete(without_prefixes(found, notes), [without_prefixes(_flat(trained, []), [])], notes)
    if not found:
        listed = _count_listed(tree)
        raise ValueError(
            f"its {listed} tensors are in a list without names, as averages (EMA) are saved; give the checkpoint that "
            "contains the model's state_dict"
            if listed
            else "it contains no tensors"
        )
    if skipped:
        notes.append(f"left out what is not a tensor: {some(skipped)}")
    size = file.stat().st_size
    if (total := sum(tensor.nbytes for tensor in found.values())) > max(SMALL, size * MAX_REPEATS):
        raise ValueError(f"its tensors expand to {human_bytes(total)}, but the file has only {human_bytes(size)}")
    weights = {}
    for name, tensor in found.items():
        try:
            weights[name] = tensor.read()
        except ValueError as e:
            raise ValueError(f"the tensor '{name}': {e}") from None
    return weights


def _unwrap(root: Any, notes: list[str]) -> tuple[Any, Any]:
    """The state dict inside the data that a training script saved; and if it is an average, the trained weights."""
    trained = None
    for _ in range(MAX_DEPTH):
        if isinstance(root, StandIn):  # a part of a module may have such a name
            break
        entries = _entries(root)
        keys = choose(entries, _has_names)
        for key in EMA:
            if key not in keys and (listed := _count_listed(entries.get(key))):
                notes.append(f"'{key}' is a list of {listed} tensors without names, so it is not used")
        if not keys:
            break
        left = [str(name) for name in entries if name != keys[0]]
        notes.append(f"used '{keys[0]}'" + (f", left {some(left)}" if left else ""))
        root = entries[keys[0]]
        if keys[0] in EMA:
            trained = next((entries[key] for key in keys if key not in EMA), trained)
    return root, trained if trained is None else _unwrap(trained, [])[0]


def _walk(value: Any) -> Iterator[Any]:
    """The parts of nested dicts, lists and tuples, up to a number that no checkpoint has."""
    waiting = [value]
    for _ in range(MAX_NODES):
        if not waiting:
            return
        part = waiting.pop()
        yield part
        if isinstance(part, list | tuple):
            waiting += part[:MAX_NODES]
        else:
            waiting += list(_entries(part).values())[:MAX_NODES]


def _has_names(value: Any) -> bool:
    """Whether there is a tensor in nested dicts; those in lists have no names."""
    waiting = [value]
    for _ in range(MAX_NODES):
        if not waiting:
            return False
        part = waiting.pop()
        if isinstance(part, StoredTensor):
            return part is not value
        waiting += _entries(part).values()
    return False


def _count_listed(value: Any) -> int:
    """The number of tensors in lists of nested data."""
    lists = [part for part in _walk(value) if isinstance(part, list | tuple)]
    return sum(isinstance(item, StoredTensor) for items in lists for item in items)


def _entries(value: Any) -> dict:
    """The named parts of a dict or, if a whole module was pickled, of the module."""
    if isinstance(value, dict):
        return value
    if not isinstance(value, StandIn):
        return {}
    state = value.state if isinstance(value.state, dict) else {}
    parts = (state.get(part) for part in ("_parameters", "_buffers", "_modules"))
    return value.entries | {name: item for part in parts if isinstance(part, dict) for name, item in part.items()}


def _flat(root: Any, skipped: list[str]) -> dict[str, StoredTensor]:
    found: dict[str, StoredTensor] = {}
    _Flatten(found, skipped).walk("", root, 0)
    return found


class _Flatten:
    """Walks nested dicts and joins their keys with dots."""

    def __init__(self, found: dict[str, StoredTensor], skipped: list[str]):
        self.found, self.skipped, self.nodes = found, skipped, 0

    def walk(self, name: str, value: Any, depth: int) -> None:
        self.nodes += 1
        if self.nodes > MAX_NODES or depth > MAX_DEPTH:
            raise ValueError(f"more than {MAX_NODES:,} entries, or nested more than {MAX_DEPTH} deep")
        if isinstance(value, StoredTensor):
            if not name.isprintable() or len(name) > tensors.MAX_NAME:
                raise ValueError(
                    f"a tensor's name may have at most {tensors.MAX_NAME} printable characters, not '{name[:50]}'"
                )
            if name in self.found:
                raise ValueError(f"two tensors have the name '{name}'")
            self.found[name] = value
        elif entries := _entries(value):
            for key, item in entries.items():
                key = str(key)[: tensors.MAX_NAME + 1]
                self.walk(f"{name}.{key}" if name else key, item, depth + 1)
        elif value is not None:
            self.skipped.append(name[:100])


def some(names: Collection[str]) -> str:
    """The first few names, and the number of further ones."""
    return ", ".join(safe_text(name[:100]) for name in islice(names, 6)) + (
        f" and {len(names) - 6} more" if len(names) > 6 else ""
    )


def _check_finite(weights: "Mapping[str, torch.Tensor]", file: Path) -> None:
    import torch

    for name, tensor in weights.items():
        if tensor.is_complex():
            tensor = torch.view_as_real(tensor)
        if not tensor.is_floating_point() or not tensor.numel():
            continue
        if tensor.element_size() == 1:
            tensor = tensor.float()  # float8 has no minimum
        low, high = torch.aminmax(tensor)  # both are NaN if any element is; unlike isfinite, it makes no second tensor
        if not (torch.isfinite(low) and torch.isfinite(high)):
            raise InvalidFileError(f"{safe_text(file)}: the tensor '{safe_text(name)}' contains NaN or infinity")


# --- Its licence and config -------------------------------------------------------------------------------------------


def stated_license(folder: Path) -> str:
    """The licence that the README.md of a folder states in its front matter, as on Hugging Face's hub; empty: none.

    `other` and `unknown` state nothing.
    """
    try:
        with (folder / README).open("rb") as f:
            lines = f.read(MAX_CONFIG_BYTES).decode("utf-8", "replace").splitlines()
    except OSError:
        return ""
    if not lines or lines[0].strip() != "---":
        return ""
    for line in lines[1:]:
        if line.strip() == "---":
            break
        name, _, value = line.partition(":")
        if name == "license" and _LICENSE.fullmatch(value.strip()):
            return "" if value.strip() in ("other", "unknown") else value.strip()
    return ""


def _project(folder: Path) -> Path | None:
    """The config in the folder of a run of taming-transformers or latent-diffusion, for its `checkpoints/last.ckpt`."""
    found = list((folder.parent / "configs").glob("*-project.yaml")) if folder.name == "checkpoints" else []
    return found[0] if len(found) == 1 else None


def _config(folder: Path) -> dict[str, Any] | None:
    file = next((folder / name for name in CONFIGS if (folder / name).is_file()), None) or _project(folder)
    if file is None:
        return None
    try:
        if file.stat().st_size > MAX_CONFIG_BYTES:
            raise ValueError(f"more than {MAX_CONFIG_BYTES:,} bytes")
        data = file.read_bytes()
        if known := stand_in(data):
            raise ValueError(f"it is {known}")
        config = json.loads(data) if file.suffix == ".json" else strictyaml.parse(data, str(file))[0]
        if not isinstance(config, dict):
            raise ValueError("it contains no fields")
    except OSError as e:
        raise InvalidFileError(f"{safe_text(file)} cannot be read: {e.strerror}") from None
    except (ValueError, RecursionError) as e:
        raise InvalidFileError(f"{safe_text(file)} is not a config: {one_line(e)}") from None
    return config
