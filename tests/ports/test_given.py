"""Inputs as Python programs have them. The same picture in every form gives the same batch."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.tiny_tasks import _tasks
from zoo.errors import ZooError
from zoo.hookspecs import Port, Task
from zoo.ports.inputs import complete

TASKS = _tasks()
RECONSTRUCT = TASKS["reconstruct"]
PICTURE = np.random.default_rng(0).integers(0, 256, (9, 10, 1), dtype=np.uint8)
RGB = Task(
    summary="x",
    inputs={"image": Port(kind="image", dtype="uint8", shape=("batch", 8, 8, 3))},
    outputs={"image": Port(kind="image", dtype="uint8", shape=("batch", 8, 8, 3))},
)


def batch(value: object, task: Task = RECONSTRUCT) -> np.ndarray:
    return complete("it", task, {"image": value})["image"]


def refused(value: object, task: Task = RECONSTRUCT) -> str:
    with pytest.raises(ZooError) as caught:
        batch(value, task)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    Image.fromarray(PICTURE[..., 0]).save(tmp_path / "a.png")
    return tmp_path / "a.png"


def test_one_picture_in_every_form(file: Path):
    import torch

    tensor = torch.from_numpy(PICTURE)
    forms = [PICTURE, PICTURE[..., 0], file, str(file), Image.open(file), Image.fromarray(PICTURE[..., 0])]
    forms += [tensor, tensor[..., 0]]
    for form in (*forms, PICTURE[None], tensor[None], [PICTURE]):
        assert batch(form).dtype == np.uint8 and (batch(form) == PICTURE[None]).all(), form
    assert batch(forms).shape == (8, 9, 10, 1) and (batch(forms) == PICTURE).all()
    assert batch(tuple(forms[:2])).shape == (2, 9, 10, 1)


def test_the_usual_batch_is_not_copied():
    given = PICTURE[None]
    assert batch(given) is given


def test_pillows_pictures_are_read_as_files_are(tmp_path: Path, caplog):
    rng = np.random.default_rng(1)
    colours = Image.fromarray(rng.integers(0, 256, (12, 8, 4), dtype=np.uint8))
    for image in (colours, colours.convert("P"), colours.convert("L"), colours.convert("LA"), colours.convert("1")):
        image.save(tmp_path / "a.png")
        for task in (RECONSTRUCT, RGB):
            assert (batch(image, task) == batch(tmp_path / "a.png", task)).all(), image.mode
    deep = Image.fromarray(rng.integers(0, 65536, (9, 10), dtype=np.uint16))
    deep.save(tmp_path / "deep.png")
    assert (batch(deep) == batch(tmp_path / "deep.png")).all()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(PICTURE[..., 0]).save(tmp_path / "turned.jpg", exif=exif)
    turned = batch(Image.open(tmp_path / "turned.jpg"))
    assert turned.shape == (1, 10, 9, 1) and (turned == batch(tmp_path / "turned.jpg")).all()
    assert "image is 8x12: cropped at the centre and scaled to 8x8" in caplog.text
    assert "partly transparent: put on white" in caplog.text


def test_what_is_not_a_picture_is_one_line(tmp_path: Path, file: Path):
    Image.fromarray(np.random.default_rng(2).integers(0, 256, (99, 99), dtype=np.uint8)).save(tmp_path / "b.png")
    (tmp_path / "b.png").write_bytes((tmp_path / "b.png").read_bytes()[:5000])
    assert "none.png" in refused(tmp_path / "none.png") and "b.png" in refused(tmp_path / "b.png")
    with Image.open(tmp_path / "b.png") as cut:
        assert refused(cut).startswith("image cannot be decoded: ")
    assert refused(Image.new("F", (8, 8))) == (
        "image is a picture of floats (mode F); convert it to L or RGB, 0 .. 255"
    )
    assert refused(Image.new("L", (9, 5))) == "image is 9x5 pixels; it must be at least 8x8"
    assert refused(PICTURE / 255) == "image is float64; pictures are uint8, 0 .. 255"
    assert refused([]) == "image is float64; pictures are uint8, 0 .. 255"
    assert refused(np.zeros((8, 8), np.uint8), RGB) == "image has the shape [8, 8]; it must be [batch, 8, 8, 3]"
    assert refused(np.zeros((1, 9, 9), np.uint8)).endswith("add the channel axis, image[..., None]")


def test_pictures_of_a_list_have_one_size(file: Path):
    assert refused([file, np.zeros((8, 10, 1), np.uint8)]) == (
        "image[1] has the shape [8, 10, 1] and image[0] [9, 10, 1]; all pictures of one call must have the same size"
    )
    assert refused([file, PICTURE[None]]) == (
        "image[1] has the shape [1, 9, 10, 1]; a picture of a list is [height, width, channels]"
    )
    assert refused([file, 3.5]) == "image[1] is float64; pictures are uint8, 0 .. 255"


def test_tensors_of_torch_that_numpy_cannot_take_directly():
    import torch

    inputs = complete("it", TASKS["generate"], {"seed": torch.tensor([1, 2]), "label": [torch.tensor(0), 1]})
    assert inputs["seed"].tolist() == [1, 2] and inputs["label"].tolist() == [0, 1]
    learnt = torch.tensor([0.05], requires_grad=True)
    assert complete("it", TASKS["generate"], {"seed": 1, "guidance": learnt})["guidance"] == np.float32(0.05)
    with pytest.raises(ZooError, match="^guidance cannot be made an array: .*BFloat16$"):
        complete("it", TASKS["generate"], {"seed": 1, "guidance": learnt.bfloat16()})


def test_class_names_in_an_array():
    labels = complete("it", TASKS["generate"], {"seed": [1, 2], "label": np.array(["Sneaker", "shirt"])})["label"]
    assert labels.tolist() == [1, 0]


def test_drawn_seeds_count_up_over_the_batch_and_only_if_asked():
    drawn = complete("it", TASKS["generate"], {"label": [0, 1, 2]}, draw=True)["seed"]
    assert (drawn == drawn[0] + np.arange(3)).all()
    with pytest.raises(ZooError, match="^it needs seed"):
        complete("it", TASKS["generate"], {"label": [0, 1, 2]})
