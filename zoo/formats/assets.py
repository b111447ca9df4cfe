"""Assets: files that a plugin puts into a bundle besides weights and graphs, such as a vocabulary.

Running a model does not read them; they are for building it again (`make_assets` in the contract). Every file of a
bundle that is not its own is an asset, so names, number and sizes are limited.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import IntegrityError, UsageError
from ..names import CARD, GOLDEN, graph_file
from ..text import safe_text
from .fields import File, compare_files

if TYPE_CHECKING:
    from .manifest import Manifest

MOST = 16
MAX_BYTES = 16 << 20  # of one; a manifest with a larger one is refused before anything is fetched

SUFFIXES = (".txt", ".json", ".jsonl", ".csv", ".tsv", ".npy", ".vocab", ".model")
"""Data that neither a system nor a browser, nor an importer of checkpoints, runs or takes for weights."""

TAKEN = (
    "config", "export", "generation_config", "golden", "index", "licence", "license", "manifest", "model",
    "model_index", "notice", "package", "readme", "recipe", "registry",
)  # fmt: skip
"""What a name may not begin with, up to its first dot: people and programs look for another file there."""


def asset_names(files: Iterable[str], tasks: Iterable[str]) -> list[str]:
    """The files of a bundle that are not its own, sorted."""
    own = {CARD, GOLDEN, *map(graph_file, tasks)}
    return sorted(name for name in files if name not in own and not name.endswith(".safetensors"))


def problem(name: str) -> str:
    """What is wrong with an asset's name; empty if nothing is."""
    if not name.endswith(SUFFIXES):
        return f"'{name}' is not an asset's name: it must end in {', '.join(SUFFIXES)}"
    if name.split(".")[0].lower() in TAKEN:
        return f"'{name}' is not an asset's name: it could be mistaken for another file"
    return ""


def wrong(sizes: Mapping[str, int]) -> str:
    """What is wrong with assets of these names and sizes in bytes; empty if nothing is."""
    if len(sizes) > MOST:
        return f"{len(sizes):,} assets; at most {MOST} are allowed"
    for name, size in sizes.items():
        if why := problem(name):
            return why
        if size > MAX_BYTES:
            return f"'{name}' has {size:,} bytes; an asset may have at most {MAX_BYTES:,}"
    return ""


def check(assets: Mapping[str, bytes], hook: str) -> dict[str, bytes]:
    """The assets that a plugin gave, if a bundle can contain them.

    Args:
        hook: that gave them, for the message.
    """
    from msgspec import ValidationError, convert

    from ..names import FileName

    for name, data in assets.items():
        if not isinstance(data, bytes):
            raise UsageError(f"{hook}: '{safe_text(name)}' is {type(data).__name__}; an asset is bytes")
        try:
            convert(name, FileName)
        except ValidationError:
            raise UsageError(f"{hook}: '{safe_text(name)}' is not a file name") from None
    if why := wrong({name: len(data) for name, data in assets.items()}):
        raise UsageError(f"{hook}: {safe_text(why)}")
    return dict(assets)


def read(folder: Path, manifest: "Manifest") -> dict[str, bytes]:
    """The assets in a bundle's folder, as its manifest lists them.

    Raises:
        IntegrityError: one is missing or was changed.
    """
    listed: dict[str, File] = {name: manifest.files[name] for name in asset_names(manifest.files, manifest.tasks)}
    if changed := compare_files(folder, listed):
        raise IntegrityError(f"{safe_text(folder)}: {safe_text('; '.join(changed))}")
    return {name: (folder / name).read_bytes() for name in listed}
