"""Finds the files of a foreign checkpoint: one file, or the shards of a large one.

A file is recognised by its content, since trainers name the same thing `.pt`, `.PTH`, `.bin` or `.pth.tar`.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import InvalidFileError, NotFoundError, UsageError
from ..system.files import sniff_file
from ..system.leftovers import left_behind
from ..text import safe_text

SUFFIXES = (".safetensors", ".ckpt", ".pt", ".pth", ".bin", ".pkl")
INDEX = ".index.json"
PIPELINE = "model_index.json"
"""In a folder of several networks, as diffusers writes it: the class of the whole and of each part."""
LEFT_OUT = ("safety_checker", "feature_extractor", "image_encoder", "watermark")
"""Parts of pipelines that no family of zoo has; their weights are not read."""
MAX_INDEX_BYTES = 32 << 20
MAX_ENTRIES = 2000  # of a folder that is searched

_SHARD = re.compile(r"(.+)-(\d{5})-of-(\d{5})(\.\w+)\Z")  # as huggingface_hub names them
_NOT_WEIGHTS = re.compile(r"(optimizer|scheduler|scaler|rng_state|random_states|training_args|trainer_state)", re.I)
"""How trainers name the other states that they save next to the weights."""


@dataclass(frozen=True)
class Weights:
    """The files of a checkpoint."""

    path: Path  # the file, or the index of the shards, or the first shard if there is no index
    files: tuple[Path, ...]
    index: dict[str, str] = field(default_factory=dict)  # tensor: name of its file; empty without an index

    @property
    def is_safetensors(self) -> bool:
        return is_safetensors(self.files[0])


def find(path: Path) -> Weights:
    """The checkpoint at a path: a file, a shard or the index of shards, or a folder with one of these.

    Raises:
        NotFoundError: there is none. UsageError: the folder contains several. InvalidFileError: shards are missing.
    """
    if not path.is_dir():
        if not path.exists():
            raise NotFoundError(f"there is no checkpoint at {safe_text(path)}")
        if not path.is_file():  # a pipe would be waited for
            raise InvalidFileError(f"{safe_text(path)} is not a plain file")
        if path.name.endswith(INDEX):
            return _indexed(path)
        return _all_shards(path) if _SHARD.match(path.name) else Weights(path, (path,))
    found = list(_in_folder(path))
    # The same weights in two formats: use the one that is not a pickle.
    found = [weights for weights in found if weights.name.removesuffix(INDEX).endswith(".safetensors")] or found
    # A variant, `model.fp16.safetensors` or `model.non_ema.safetensors`, is next to the file that it is a variant of.
    plain = [f for f in found if not any(o is not f and f.name.startswith(f"{_stem(o)}.") for o in found)]
    if len(plain) == 1:
        return find(plain[0])
    if not found:
        inner = sorted(f.name for f in path.iterdir() if not left_behind(f.name) and f.is_dir() and any(_in_folder(f)))
        if len(inner) == 1 and (path / PIPELINE).is_file():  # a diffusers pipeline with one network
            return find(path / inner[0])
        hint = f"; its folders {', '.join(inner)} contain some: name one" if inner else f" ({', '.join(SUFFIXES)})"
        raise NotFoundError(f"{safe_text(path)} contains no weights{safe_text(hint)}")
    names = ", ".join(file.name for file in found[:8])
    raise UsageError(f"{safe_text(path)} contains several weights files: {safe_text(names)}; name one")


def parts(path: Path) -> dict[str, Path]:
    """The folders with weights of a pipeline of several networks, by name; empty if the path is not one."""
    if not (path / PIPELINE).is_file() or any(_in_folder(path)):
        return {}
    inner = sorted(f for f in path.iterdir() if not left_behind(f.name) and f.name not in LEFT_OUT and f.is_dir())
    found = {folder.name: folder for folder in inner if any(_in_folder(folder))}
    return found if len(found) > 1 else {}


def _stem(file: Path) -> str:
    name = file.name.removesuffix(INDEX)
    return name.removesuffix(Path(name).suffix)


def _in_folder(folder: Path) -> Iterator[Path]:
    """The folder's weights: plain files, indices of shards, and the first of the shards that have no index."""
    entries = sorted(path for path, _ in zip(folder.iterdir(), range(MAX_ENTRIES), strict=False))
    entries = [path for path in entries if not left_behind(path.name)]  # `._name` is what macOS leaves next to a file
    indices = [path for path in entries if path.name.endswith(INDEX)]
    yield from indices
    for path in entries:
        if _NOT_WEIGHTS.match(path.name) or not path.is_file():
            continue
        shard = _SHARD.match(path.name)
        if shard and (int(shard[2]) != 1 or any(index.name.startswith(f"{shard[1]}.") for index in indices)):
            continue
        if _has_known_ending(path.name) or is_safetensors(path) or _is_torch(path):
            yield path


def _has_known_ending(name: str) -> bool:
    return name.lower().removesuffix(".tar").endswith(SUFFIXES)


def is_safetensors(file: Path) -> bool:
    with file.open("rb") as f:
        start = f.read(9)
    if start[8:] == b"{" and int.from_bytes(start[:8], "little") < file.stat().st_size:
        return True
    # Damaged or something else: the reader of the format that it claims to be says what is wrong.
    return file.name.lower().endswith(".safetensors") and not start.startswith((b"PK\x03\x04", b"\x80"))


def _is_torch(file: Path) -> bool:
    """Whether `torch.save` wrote the file; its zip begins with data.pkl, which an .npz does not have."""
    with file.open("rb") as f:
        start = f.read(512)
    return (start.startswith(b"PK\x03\x04") and b"/data.pkl" in start) or start[:2] in (b"\x80\x02", b"\x80\x04")


# --- Shards -----------------------------------------------------------------------------------------------------------


def _indexed(path: Path) -> Weights:
    """The shards that an index lists; its `weight_map` maps each tensor to the name of a file next to it."""
    try:
        if path.stat().st_size > MAX_INDEX_BYTES:
            raise ValueError(f"more than {MAX_INDEX_BYTES:,} bytes")
        tree = json.loads(path.read_bytes())
        index = tree.get("weight_map") if isinstance(tree, dict) else None
        if not isinstance(index, dict) or not index or not all(isinstance(name, str) for name in index.values()):
            raise ValueError("it has no weight_map")
    except OSError as e:
        raise InvalidFileError(f"{safe_text(path)} cannot be read: {e.strerror}") from None
    except (ValueError, RecursionError) as e:
        raise InvalidFileError(f"{safe_text(path)} is not an index: {safe_text(e)}{sniff_file(path)}") from None
    names = sorted(set(index.values()))
    for name in names:
        if not name.isprintable() or name in (".", "..") or "/" in name or "\\" in name:
            raise InvalidFileError(f"{safe_text(path)}: '{safe_text(name[:100])}' is not the name of a file next to it")
    if missing := [name for name in names if not (path.parent / name).is_file()]:
        raise NotFoundError(
            f"{safe_text(path)}: {len(missing)} of its {len(names)} shards are missing, such as {safe_text(missing[0])}"
        )
    return Weights(path, tuple(path.parent / name for name in names), index)


def _all_shards(path: Path) -> Weights:
    """All shards of the checkpoint that a shard belongs to: by its index, or without one by their names."""
    shard = _SHARD.match(path.name)
    assert shard is not None
    base, _, total, suffix = shard.groups()
    for index in (path.with_name(f"{base}{suffix}{INDEX}"), path.with_name(f"{base}{INDEX}")):
        if index.is_file():
            return _indexed(index)
    files = [path.with_name(f"{base}-{number:05}-of-{total}{suffix}") for number in range(1, int(total) + 1)]
    missing = [file for file in files if not file.is_file()]
    if missing or not files:
        what = missing[0].name if missing else path.name
        raise NotFoundError(
            f"{safe_text(path)} is one of {int(total)} shards; {len(missing)} are missing, such as {safe_text(what)}"
        )
    return Weights(files[0], tuple(files))
