"""A picture of what a model makes, from its golden cases, for `zoo info --show`."""

from __future__ import annotations

from pathlib import Path

from ..formats.golden import read_cases
from ..formats.manifest import Manifest
from ..media.grid import Grid
from ..media.pictures import encode_png
from ..names import GOLDEN
from ..ports.kinds import kind_of

SHOWN_PIXELS = 128
"""Smaller samples are enlarged to about this side length, so that a person sees something."""


def sampled_task(manifest: Manifest) -> str | None:
    """The task whose golden cases are shown: the default one, else the first that gives images; None if none does."""
    tasks = sorted(manifest.tasks, key=lambda name: name != manifest.default_task)
    return next((task for task in tasks if _images(manifest, task)), None)


def samples(folder: Path, manifest: Manifest, task: str) -> bytes:
    """A PNG: the images of the golden case with the most of them, in a grid."""
    (name, *_), cases = _images(manifest, task), read_cases(folder / GOLDEN, manifest)[task]
    images = max((case.outputs[name] for case in cases), key=lambda batch: (len(batch), batch.size))
    larger = max(1, SHOWN_PIXELS // max(images.shape[1:3]))
    images = images.repeat(larger, axis=1).repeat(larger, axis=2)
    return encode_png(Grid.of(images).join(images))


def _images(manifest: Manifest, task: str) -> list[str]:
    return [name for name, port in manifest.tasks[task].outputs.items() if kind_of(port).shown == "pictures"]
