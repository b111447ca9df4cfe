"""Training checkpoints: one safetensors file, no pickle, written atomically.

A trainer's state is a tree of dicts and lists with tensors and plain values at its leaves. Tensors become the
tensors of the file, named by their path; the rest of the tree becomes JSON in the file's metadata.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from ..errors import InvalidFileError, NotFoundError, StoreError
from ..system.files import default_mode, sniff_file, sync_file, sync_folder
from ..system.temporary import unfinished_folder
from ..text import safe_text

CHECKPOINT = "checkpoint.safetensors"
_ASSET = "asset/"  # begins the names of the tensors that are assets; those of the state begin with a slash
_TENSOR = "\0tensor"  # marks a leaf that is a tensor; no state contains such a key


@dataclass(frozen=True)
class Checkpoint:
    """A training, unfinished or finished."""

    run: dict[str, Any]  # what `zoo train` was given: family, config, name, seed, …; see train.Run
    step: int  # steps done
    seconds: float  # of training so far
    state: dict[str, Any]  # of the trainer
    assets: dict[str, bytes] = field(default_factory=dict)  # of the model, by name; see formats.assets


def save(path: Path, checkpoint: Checkpoint) -> None:
    """Writes a temporary file, syncs and renames it: a killed process leaves the old checkpoint or the new one.

    A new file has the mode of the umask; one that was there keeps its own.
    """
    tensors: dict[str, torch.Tensor] = {}
    tree = _split(checkpoint.state, "", tensors)
    for name, data in checkpoint.assets.items():
        tensors[_ASSET + name] = torch.from_numpy(np.frombuffer(data, np.uint8).copy())
    about = {"run": checkpoint.run, "step": checkpoint.step, "seconds": checkpoint.seconds, "state": tree}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with unfinished_folder(path.parent, noted=False) as folder:
            temporary = folder / "file"
            save_file(tensors, temporary, metadata={"zoo_checkpoint": json.dumps(about)})
            sync_file(temporary)
            temporary.chmod(path.stat().st_mode & 0o777 if path.exists() else default_mode(folder) & 0o666)
            temporary.replace(path)
            sync_folder(path.parent)
    except (OSError, SafetensorError) as e:
        raise StoreError(f"cannot write the checkpoint {safe_text(path)}: {safe_text(e)}") from None


def load(path: Path) -> Checkpoint:
    """Reads a checkpoint from its file, or from its folder."""
    about, state, assets = _read(path, with_state=True)
    return Checkpoint(about["run"], about["step"], about["seconds"], state, assets)


def command_of(path: Path) -> str:
    """The command of a checkpoint's training; its tensors are not read."""
    return str(_read(path, with_state=False)[0]["run"].get("command", ""))


def _read(path: Path, *, with_state: bool) -> tuple[dict[str, Any], dict[str, Any], dict[str, bytes]]:
    """What the metadata says, the trainer's state, and the assets."""
    path = path / CHECKPOINT if path.is_dir() else path
    if not path.exists():
        raise NotFoundError(f"no checkpoint at {safe_text(path)}")
    try:
        with safe_open(path, framework="pt") as f:
            about = json.loads((f.metadata() or {})["zoo_checkpoint"])
            if not with_state:
                return about, {}, {}
            stored = [name for name in f.keys() if name.startswith(_ASSET)]  # noqa: SIM118  # not a dict
            assets = {name.removeprefix(_ASSET): f.get_tensor(name).numpy().tobytes() for name in stored}
            return about, _join(about["state"], f), assets
    except KeyError:
        raise InvalidFileError(f"{safe_text(path)} is not a checkpoint of `zoo train`") from None
    except (SafetensorError, ValueError, TypeError, OSError) as e:
        raise InvalidFileError(
            f"{safe_text(path)} is not a readable checkpoint: {safe_text(e)}{sniff_file(path)}"
        ) from None


def _split(value: Any, path: str, tensors: dict[str, torch.Tensor]) -> Any:
    if isinstance(value, torch.Tensor):
        while path in tensors:  # {"a/b": x, "a": {"b": y}}, or the keys 1 and "1"
            path += "'"
        tensors[path] = value.detach().cpu().contiguous().clone()
        return {_TENSOR: path}
    if isinstance(value, dict):
        # JSON only has text keys; an optimiser's state has numbers as keys.
        return {"dict": [[key, _split(item, f"{path}/{key}", tensors)] for key, item in value.items()]}
    if isinstance(value, list | tuple):
        return {"list": [_split(item, f"{path}/{i}", tensors) for i, item in enumerate(value)]}
    if value is None or isinstance(value, bool | int | float | str):
        return {"value": value}
    raise TypeError(f"a trainer's state may contain tensors, dicts, lists and plain values; {path} is a {type(value)}")


def _join(tree: Any, f: Any) -> Any:
    if _TENSOR in tree:
        return f.get_tensor(tree[_TENSOR])
    if "dict" in tree:
        return {key: _join(item, f) for key, item in tree["dict"]}
    if "list" in tree:
        return [_join(item, f) for item in tree["list"]]
    return tree["value"]
