import os
import threading
from pathlib import Path

import numpy as np
import pytest

from tests.tiny_tasks import bundle_of, studio
from zoo.errors import StoreError, UsageError
from zoo.hookspecs import Port, Task
from zoo.media import tensors
from zoo.ports.image import PICTURES
from zoo.ports.kind import VALUES
from zoo.ports.kinds import kind_of
from zoo.ports.tokens import TOKENS_FILE
from zoo.run.call import Call, Result
from zoo.run.model import Model
from zoo.run.outputs import Artifact, artifacts_of, check_out, write_file, write_outputs

PICTURE = Port(kind="image", dtype="uint8", shape=("batch", "height", "width", 1))
TOKENS = Port(kind="tokens", dtype="int64", shape=("batch", "rows", "columns"))
SIZE = Port(kind="size", dtype="int64", shape=(2,))
VECTOR = Port(kind="tensor", dtype="float32", shape=("batch", "features"))
LABEL = Port(kind="label", dtype="int64", shape=("batch",), classes=("Shirt", "Sneaker"))


def task(**outputs: Port) -> Task:
    return Task(summary="x", inputs={}, outputs=outputs)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)


@pytest.fixture
def model(tmp_path: Path) -> Model:
    """A model whose task `all` gives two pictures, tokens and a vector."""
    model = Model(bundle_of(studio(tmp_path / "studio")), "cpu")
    model.manifest.tasks["all"] = task(image=PICTURE, mask=PICTURE, tokens=TOKENS, size=SIZE, vector=VECTOR)
    return model


def write(model: Model, out: str | None, features: int = 3, seed: int | None = None):
    outputs = {
        "image": np.zeros((2, 4, 4, 1), np.uint8),
        "mask": np.ones((2, 4, 4, 1), np.uint8),
        "tokens": np.zeros((2, 1, 1), np.int64),
        "size": np.array([4, 4]),
        "vector": np.zeros((2, features), np.float32),
    }
    call = Call("all", {}, {}, {}, False, seed, None)
    return write_outputs(model, call, Result(outputs, "cpu", "cpu", 0.0), out)


def test_outputs_are_laid_into_few_files():
    both = task(vector=VECTOR, size=SIZE, tokens=TOKENS, image=PICTURE, label=LABEL)
    assert artifacts_of(both) == [
        Artifact(PICTURES, ("image",)),
        Artifact(TOKENS_FILE, ("size", "tokens")),
        Artifact(VALUES, ("vector", "label")),
    ]
    assert artifacts_of(task(size=SIZE)) == [Artifact(VALUES, ("size",))]


def test_the_first_file_has_the_given_name_and_the_others_follow(model: Model):
    written = write(model, "o.png")
    assert written.paths == ["o.png", "o-mask.png", "o-tokens.safetensors"]
    assert written.values == {"vector": [[0.0, 0.0, 0.0]] * 2}
    assert tensors.load(Path("o-tokens.safetensors")).keys() == {"tokens", "size"}


def test_names_are_made_of_model_task_seed_and_port(model: Model):
    assert write(model, None, seed=7).paths == [
        "studio-all-7.png",
        "studio-all-7-mask.png",
        "studio-all-7-tokens.safetensors",
    ]
    assert write(model, None, seed=7).paths[0] == "studio-all-7-2.png"


def test_numbers_that_are_too_many_to_show_go_to_a_file(model: Model):
    written = write(model, "o.png", features=501)
    assert written.values == {} and written.paths[-1] == "o-values.safetensors"
    assert tensors.load(Path("o-values.safetensors"))["vector"].shape == (2, 501)


def test_each_picture_in_its_file(model: Model):
    assert write(model, "o-{i}.png").paths == ["o-0.png", "o-1.png", "o-mask.png", "o-tokens.safetensors"]


def test_one_array_as_npy_and_several_as_safetensors(tmp_path: Path):
    check_out("features", task(vector=VECTOR), "f.npy")
    check_out("features", task(vector=VECTOR, label=LABEL), "f.safetensors")
    with pytest.raises(
        UsageError, match="features gives vector, label; .npy can only contain one array: use .safetensors"
    ):
        check_out("features", task(vector=VECTOR, label=LABEL), "f.npy")
    with pytest.raises(UsageError, match="more than one file"):
        check_out("all", task(image=PICTURE, tokens=TOKENS), "-")


def test_places_that_can_not_be_written_are_refused_before_anything_runs(monkeypatch):
    with pytest.raises(StoreError, match="the folder no does not exist"):
        check_out("it", task(image=PICTURE), "no/x.png")
    with pytest.raises(UsageError, match=r"^--out \. is a folder"):
        check_out("it", task(image=PICTURE), ".")
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write everywhere
    for out in ("x.png", None):
        with pytest.raises(StoreError, match=r"the folder \. cannot be written"):
            check_out("it", task(image=PICTURE), out)
    check_out("it", task(label=LABEL), None)  # is printed: no file


def test_labels_are_shown_with_their_names():
    assert kind_of(LABEL).to_json(LABEL, np.array([1, -1])) == [
        {"number": 1, "name": "Sneaker"},
        {"number": -1, "name": ""},
    ]


def test_a_file_is_replaced_in_one_step_and_a_pipe_is_written_into():
    assert write_file("a", b"one") == ["a"] and write_file("a", b"two") == ["a"]
    assert Path("a").read_bytes() == b"two" and [path.name for path in Path().iterdir()] == ["a"]
    os.mkfifo("pipe")
    writer = threading.Thread(target=write_file, args=("pipe", b"three"))
    writer.start()
    assert Path("pipe").read_bytes() == b"three"
    writer.join()
    assert Path("pipe").is_fifo()
    check_out("it", task(image=PICTURE), "/dev/null")
    write_file("/dev/null", b"x")
    assert Path("/dev/null").is_char_device()
