"""Masks: which pixels of a picture to redraw, uint8 [batch, height, width, 1]."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..hookspecs import Port, Task
from ..media.files import InputFile, read_input
from ..media.pictures import PICTURE_ENDINGS, check_masks, read_pictures
from .image import Image, Pixels
from .kind import Option, Read, RealInputs, Source

if TYPE_CHECKING:
    import numpy as np


REDRAWN = 128
"""The smallest value of a pixel that is redrawn."""


class Mask(Pixels):
    name = "mask"
    shape = "[batch, height, width, 1]"
    last = (1,)
    meaning = "pixels of 128 or more are redrawn"
    field = "brush"
    marks = True
    sample = "mask.png"

    def option(self, name: str, port: Port, task: Task) -> Option:
        help = self.help(
            name, port, "a picture file; white (128 or more) is redrawn, black and transparent parts are kept"
        )
        return Option(name, help, metavar="FILE", multiple=True, file=True, endings=PICTURE_ENDINGS)

    def read(self, given: Any, source: Source) -> Read:
        files = [read_input(path) for path in given]
        masks = read_pictures(files, source.name, source.port, source.note, mask=True, whole=source.whole)
        for file, mask in zip(files, masks, strict=True):
            rule = f"{REDRAWN} or more is redrawn"
            if mask.max() < REDRAWN:
                source.note(f"{file.shown} marks nothing: its brightest pixel is {mask.max()}; {rule}")
            elif mask.min() >= REDRAWN:
                source.note(f"{file.shown} marks the whole picture: its darkest pixel is {mask.min()}; {rule}")
        return Read({source.name: masks}, files)

    def check_together(self, name: str, files: Mapping[str, list[InputFile]], task: Task) -> None:
        images = [
            file
            for port in files
            if port in task.inputs and task.inputs[port].kind == Image.name
            for file in files[port]
        ]
        check_masks(images, files[name])

    def draw_case(self, port: Port, shape: Sequence[int], rng: np.random.Generator) -> np.ndarray:
        import numpy as np

        from ..media.drawings import drawing

        batch, height, width, channels = shape
        return np.stack(
            [(drawing(height, width, channels, rng) >= REDRAWN).astype(np.uint8) * 255 for _ in range(batch)]
        )

    def real_case(self, name: str, port: Port, inputs: RealInputs) -> np.ndarray | None:
        """The right half of each picture is redrawn."""
        import numpy as np

        pictures = super().real_case(name, port, inputs)
        if pictures is None:
            return None
        mask = np.zeros((*pictures.shape[:3], 1), np.uint8)
        mask[:, :, pictures.shape[2] // 2 :] = 255
        return mask
