"""Masks from files: what a mask marks, and the notes about it."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from zoo.errors import InvalidFileError
from zoo.hookspecs import Port, Task
from zoo.media.files import read_input
from zoo.ports.kind import Source
from zoo.ports.mask import Mask

PORT = Port(kind="mask", dtype="uint8", shape=("batch", "height", "width", 1))
TASK = Task(
    summary="Inpaints",
    inputs={"image": Port(kind="image", dtype="uint8", shape=("batch", "height", "width", 3)), "mask": PORT},
    outputs={"inpainted": Port(kind="image", dtype="uint8", shape=("batch", "height", "width", 3))},
)


def read(path: Path) -> tuple[np.ndarray, list[str]]:
    notes: list[str] = []
    source = Source("mask", PORT, TASK, "studio:1", "", ["mask"], notes.append)
    return Mask().read([str(path)], source).values["mask"], notes


def saved(path: Path, pixels: np.ndarray) -> Path:
    Image.fromarray(pixels).save(path)
    return path


def test_a_mask_with_soft_edges_keeps_them_and_needs_no_word(tmp_path: Path):
    soft = np.array([[0, 60, 127, 128, 200, 255]] * 2, np.uint8)
    mask, notes = read(saved(tmp_path / "m.png", soft))
    assert (mask[0, ..., 0] == soft).all() and mask.shape == (1, 2, 6, 1) and notes == []


@pytest.mark.parametrize(
    "value, said",
    [
        (0, "marks nothing: its brightest pixel is 0; 128 or more is redrawn"),
        (1, "marks nothing: its brightest pixel is 1; 128 or more is redrawn"),  # 0 and 1 instead of 0 and 255
        (127, "marks nothing: its brightest pixel is 127; 128 or more is redrawn"),
        (128, "marks the whole picture: its darkest pixel is 128; 128 or more is redrawn"),
        (255, "marks the whole picture: its darkest pixel is 255; 128 or more is redrawn"),
    ],
)
def test_a_mask_of_nothing_or_of_everything_is_said(tmp_path: Path, value: int, said: str):
    path = saved(tmp_path / "m.png", np.full((4, 4), value, np.uint8))
    assert read(path)[1] == [f"{path} {said}"]


def test_dark_strokes_on_transparency_are_said_to_mark_nothing(tmp_path: Path):
    layer = np.zeros((4, 4, 4), np.uint8)
    layer[1, :, 3] = 255
    path = saved(tmp_path / "m.png", layer)
    assert read(path)[1] == [
        f"{path} is partly transparent: its transparent parts are not marked",
        f"{path} marks nothing: its brightest pixel is 0; 128 or more is redrawn",
    ]


def test_white_strokes_on_transparency_are_marked(tmp_path: Path):
    layer = np.full((4, 4, 4), 255, np.uint8)
    layer[1:, :, 3] = 0
    mask, notes = read(saved(tmp_path / "m.png", layer))
    assert mask[0, ..., 0].tolist() == [[255] * 4] + [[0] * 4] * 3 and len(notes) == 1


def test_a_mask_of_another_size_is_named_with_its_path(tmp_path: Path):
    files = {
        "image": [read_input(str(saved(tmp_path / "p.png", np.zeros((4, 5, 3), np.uint8))))],
        "mask": [read_input(str(saved(tmp_path / "m.png", np.zeros((5, 4), np.uint8))))],
    }
    with pytest.raises(InvalidFileError) as error:
        Mask().check_together("mask", files, TASK)
    assert str(error.value) == (
        f"the mask {tmp_path}/m.png is 4x5 pixels and {tmp_path}/p.png is 5x4; they must have the same size"
    )
