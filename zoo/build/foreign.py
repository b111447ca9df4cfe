"""Reads checkpoints that other projects wrote, for all importers.

safetensors files are read directly, PyTorch's files and pickles through `torchfile`, which runs none of their code.
"""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InvalidFileError, NotFoundError, UsageError
from ..formats import strictyaml
from ..media import tensors
from ..text import human_bytes, safe_text
from . import torchfile
from .torchfile import StoredTensor
from .unpickle import StandIn

if TYPE_CHECKING:
    import torch

SUFFIXES = (".safetensors", ".ckpt", ".pt", ".pth", ".bin", ".pkl")
CONFIGS = ("config.json", "config.yaml")
WRAPPINGS = ("ema", "model", "state_dict", "params", "module")
"""Keys under which training scripts store the weights, in order of preference: DiT and LlamaGen save both `ema` and
`model`, and their own samplers use the first."""

PREFIXES = ("module.", "_orig_mod.")  # prefixes that DDP and torch.compile add to every name
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
    path: Path  # the weights file
    notes: tuple[str, ...]  # what was unwrapped and left out, one line each


def read(path: Path) -> Foreign:
    """Reads a checkpoint's file, or the one in a folder (such as `diffusion_pytorch_model.safetensors`).

    Raises:
        NotFoundError: there is no such file, or no weights in the folder. UsageError: the folder contains several.
        InvalidFileError: the file is damaged, hostile or in an unsupported format; or a tensor contains NaN or
        infinity.
    """
    file = _weights_file(path)
    notes: list[str] = []
    try:
        weights = _read_safetensors(file) if _is_safetensors(file) else _read_pickled(file, notes)
    except OSError as e:
        raise InvalidFileError(f"{safe_text(file)} cannot be read: {e.strerror}") from None
    except _BROKEN as e:
        reason = safe_text(e)[:300] if isinstance(e, ValueError) else f"its pickle is broken ({type(e).__name__})"
        raise InvalidFileError(f"{safe_text(file)} is not a readable checkpoint: {reason}") from None
    weights = _without_prefix(weights, notes)
    _check_finite(weights, file)
    return Foreign(weights, _config(file.parent), file, tuple(notes))


# --- Which file -------------------------------------------------------------------------------------------------------


def _weights_file(path: Path) -> Path:
    if not path.is_dir():
        if not path.exists():
            raise NotFoundError(f"there is no checkpoint at {safe_text(path)}")
        if not path.is_file():  # a pipe would be waited for
            raise InvalidFileError(f"{safe_text(path)} is not a plain file")
        return path
    found = [file for file in sorted(path.iterdir()) if file.suffix in SUFFIXES and file.is_file()]
    # The same weights in two formats: use the one that is not a pickle.
    safe = [file for file in found if file.suffix == ".safetensors"]
    found = safe or found
    if not found:
        inner = sorted({file.parent.name for suffix in SUFFIXES for file in path.glob(f"*/*{suffix}")})
        if len(inner) == 1 and (path / "model_index.json").is_file():  # a diffusers pipeline with one network
            return _weights_file(path / inner[0])
        hint = f"; its folders {', '.join(inner)} contain some: name one" if inner else f" ({', '.join(SUFFIXES)})"
        raise NotFoundError(f"{safe_text(path)} contains no weights{safe_text(hint)}")
    if len(found) > 1:
        names = ", ".join(file.name for file in found[:8])
        raise UsageError(f"{safe_text(path)} contains several weights files: {safe_text(names)}; name one")
    return found[0]


def _is_safetensors(file: Path) -> bool:
    if file.suffix == ".safetensors":
        return True
    with file.open("rb") as f:
        start = f.read(9)
    return start[8:] == b"{" and int.from_bytes(start[:8], "little") < file.stat().st_size


# --- What is in it ----------------------------------------------------------------------------------------------------


def _read_safetensors(file: Path) -> "dict[str, torch.Tensor]":
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    tensors.read_header(file)
    try:
        return load_file(file)
    except SafetensorError as e:
        raise ValueError(str(e)) from None


def _read_pickled(file: Path, notes: list[str]) -> "dict[str, torch.Tensor]":
    root = _unwrap(torchfile.read(file), notes)
    found: dict[str, StoredTensor] = {}
    skipped: list[str] = []
    _Flatten(found, skipped).walk("", root, 0)
    if not found:
        raise ValueError("it contains no tensors")
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


def _unwrap(root: Any, notes: list[str]) -> Any:
    """The state dict inside the data that a training script saved."""
    for _ in range(MAX_DEPTH):
        entries = _entries(root)
        key = next((key for key in WRAPPINGS if _entries(entries.get(key))), None)
        if key is None or isinstance(root, StandIn):  # a part of a module may have such a name
            break
        left = [str(name) for name in entries if name != key]
        notes.append(f"used '{key}'" + (f", left {some(left)}" if left else ""))
        root = entries[key]
    return root


def _entries(value: Any) -> dict:
    """The named parts of a dict or, if a whole module was pickled, of the module."""
    if isinstance(value, dict):
        return value
    if not isinstance(value, StandIn):
        return {}
    state = value.state if isinstance(value.state, dict) else {}
    parts = (state.get(part) for part in ("_parameters", "_buffers", "_modules"))
    return value.entries | {name: item for part in parts if isinstance(part, dict) for name, item in part.items()}


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


def _without_prefix(weights: "dict[str, torch.Tensor]", notes: list[str]) -> "dict[str, torch.Tensor]":
    for prefix in PREFIXES:
        if weights and all(name.startswith(prefix) for name in weights):
            notes.append(f"removed the prefix '{prefix}' from all names")
            weights = {name.removeprefix(prefix): tensor for name, tensor in weights.items()}
    return weights


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


# --- Its config -------------------------------------------------------------------------------------------------------


def _config(folder: Path) -> dict[str, Any] | None:
    file = next((folder / name for name in CONFIGS if (folder / name).is_file()), None)
    if file is None:
        return None
    try:
        if file.stat().st_size > MAX_CONFIG_BYTES:
            raise ValueError(f"more than {MAX_CONFIG_BYTES:,} bytes")
        data = file.read_bytes()
        config = json.loads(data) if file.suffix == ".json" else strictyaml.parse(data, str(file))[0]
        if not isinstance(config, dict):
            raise ValueError("it contains no fields")
    except OSError as e:
        raise InvalidFileError(f"{safe_text(file)} cannot be read: {e.strerror}") from None
    except (ValueError, RecursionError) as e:
        raise InvalidFileError(f"{safe_text(file)} is not a config: {safe_text(e)[:200]}") from None
    return config
