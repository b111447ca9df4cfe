from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.tiny_tasks import bundle_of, studio
from zoo.errors import InvalidFileError, NotFoundError, UsageError, ZooError
from zoo.hookspecs import Port, Task
from zoo.media import tensors
from zoo.media.pictures import encode_png
from zoo.ports.kinds import KINDS
from zoo.run.call import Call, execute, gather, option_name, options_of
from zoo.run.model import Model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return Model(bundle_of(studio(tmp_path_factory.mktemp("run") / "studio")), "cpu")


@pytest.fixture
def photo(tmp_path: Path) -> str:
    path = tmp_path / "photo.png"
    path.write_bytes(encode_png(np.arange(80, dtype=np.uint8).reshape(8, 10, 1)))
    return str(path)


def call(model: Model, task: str | None, given: dict[str, Any], **options: Any) -> tuple[Call, list[str]]:
    notes: list[str] = []
    return gather(model, task, given, note=notes.append, **options), notes


def refused(model: Model, task: str | None, given: dict[str, Any], kind: type[ZooError] = UsageError, **options) -> str:
    with pytest.raises(kind) as caught:
        call(model, task, given, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_default_task_takes_a_picture(model: Model, photo: str):
    made, notes = call(model, None, {"image": [photo]})
    assert made.task == "reconstruct" and made.inputs["image"].shape == (1, 8, 10, 1) and notes == []
    assert made.options == {} and made.seed is None and [f.name for f in made.files["image"]] == ["photo.png"]
    result = execute(model, made)
    assert (result.outputs["reconstruction"] == made.inputs["image"]).all()
    assert result.provider == "cpu" and result.device == "cpu" and result.seconds > 0


def test_several_pictures_are_a_batch(model: Model, photo: str):
    assert call(model, None, {"image": [photo, photo]})[0].inputs["image"].shape[0] == 2


def test_seeds_count_up_and_one_label_serves_all(model: Model):
    made, notes = call(model, "generate", {"seed": 7, "label": ("sneaker",)}, number=3)
    assert made.inputs["seed"].tolist() == [7, 8, 9] and made.inputs["label"].tolist() == [1, 1, 1]
    assert made.options == {"label": 1, "steps": 20, "guidance": pytest.approx(0.1)} and notes == []
    assert made.seed == 7 and made.number == 3


def test_labels_make_the_batch(model: Model):
    made, _ = call(model, "generate", {"seed": 1, "label": ("0", "sneaker")})
    assert made.inputs["seed"].tolist() == [1, 2] and made.options["label"] == [0, 1]


def test_a_seed_is_drawn_and_said(model: Model):
    made, notes = call(model, "generate", {})
    assert notes == [f"seed {made.seed}"] and made.inputs["seed"].tolist() == [made.seed]


def test_the_example_fills_what_is_not_given(model: Model, photo: str):
    made, notes = call(model, "generate", {"label": ("2",)}, example=True)
    assert made.inputs["seed"].tolist() == [1, 2] and made.inputs["label"].tolist() == [2, 2] and notes == []
    assert made.options == {"label": 2} and made.example and made.seed is None
    for task in model.manifest.tasks:
        execute(model, call(model, task, {}, example=True)[0])
    assert call(model, None, {"image": [photo]}, example=True)[0].inputs["image"].shape == (1, 8, 10, 1)


def test_a_tokens_file_fills_tokens_and_size(model: Model, tmp_path: Path):
    tensors.save(tmp_path / "t.safetensors", {"tokens": np.zeros((1, 2, 3), int), "size": np.array([7, 9])})
    made, _ = call(model, "decode", {"tokens": str(tmp_path / "t.safetensors")})
    assert made.inputs["size"].tolist() == [7, 9] and made.options == {} and list(made.files) == ["tokens"]
    made, _ = call(model, "decode", {"tokens": str(tmp_path / "t.safetensors"), "size": "5x6"})
    assert made.inputs["size"].tolist() == [5, 6] and made.options == {"size": [5, 6]}
    assert execute(model, made).outputs["image"].shape == (1, 5, 6, 1)


def test_an_array_of_tokens_gives_the_padded_picture(model: Model, tmp_path: Path):
    np.save(tmp_path / "t.npy", np.ones((1, 2, 3), np.int64))
    made, notes = call(model, "decode", {"tokens": str(tmp_path / "t.npy")})
    assert execute(model, made).outputs["image"].shape == (1, 8, 12, 1) and len(notes) == 1


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (np.ones((1, 2, 3), np.float32), "tokens is float32; it must be int64 [batch, rows, columns], 0 .. 3"),
        (np.ones((2, 3), np.int64), "tokens has the shape [2, 3]; it must be [batch, rows, columns]: add the batch"),
        (np.full((1, 2, 3), 4), "tokens is 4; it must be 0 .. 3"),
        (np.full((1, 2, 3), -1), "tokens is -1; it must be 0 .. 3"),
        (np.ones((1, 0, 3), np.int64), "tokens is empty (rows is 0)"),
    ],
)
def test_wrong_arrays_of_tokens(model: Model, tmp_path: Path, array: np.ndarray, said: str):
    np.save(tmp_path / "t.npy", array)
    assert refused(model, "decode", {"tokens": str(tmp_path / "t.npy")}).startswith(said)


def test_what_is_missing_is_named_as_an_option(model: Model):
    assert refused(model, None, {}) == (
        "reconstruct needs --image FILE; --example uses the model's own example, --help lists options"
    )
    assert refused(model, "decode", {}).startswith("decode needs --tokens FILE; ")
    assert refused(model, "decode", {"size": "8x8"}).startswith("decode needs --tokens FILE; ")


def test_wrong_values_are_said_before_anything_runs(model: Model, photo: str):
    said = {
        "-n is 0; it must be 1 .. 10000": {"number": 0, "given": {"seed": 1}},
        "-n is 10001; it must be 1 .. 10000": {"number": 10_001, "given": {"seed": 1}},
        "seed is -1; it must be 0 .. 9007199254740991": {"given": {"seed": -1}},
        "seed is 9007199254740991; it must be 0 .. 9007199254740990": {"given": {"seed": 2**53 - 1}, "number": 2},
        "label 'snaeker' is not a class of this model; did you mean 'sneaker'?": {
            "given": {"seed": 1, "label": ("snaeker",)}
        },
        "2 values of label for 3 pictures; give one for all, or 3": {
            "given": {"seed": 1, "label": ("0", "1")},
            "number": 3,
        },
        "steps is 51; it must be 1 .. 50": {"given": {"seed": 1, "steps": 51}},
    }
    for line, options in said.items():
        assert refused(model, "generate", options.pop("given"), **options) == line
    assert refused(model, None, {"image": [photo]}, number=2) == (
        "-n is only for tasks with a seed; this one gives the same picture every time"
    )
    assert refused(model, "decode", {"tokens": photo, "size": "8"}) == (
        "size is '8'; it must look like HEIGHTxWIDTH, 28x28"
    )
    for size in ("2000000000x2000000000", "1x" + "9" * 4000):
        assert "pixels; it may be at most 40,000,000" in refused(model, "decode", {"tokens": photo, "size": size})
    assert "stdin" in refused(model, None, {"image": ["-", "-"]})
    assert "did you mean 'encode'" in refused(model, "encod", {}, NotFoundError)
    assert refused(model, "decode", {"tokens": photo}, InvalidFileError) == (
        f"{photo} is not a safetensors file, but a PNG picture"
    )


def test_options_name_ranges_and_defaults(model: Model):
    options = {o.name: o.help for o in options_of(model.manifest.tasks["generate"])}
    assert options == {
        "label": "Label  [a class name, or -1 .. 2; default: -1]",
        "seed": "Seed of the first picture; each further picture adds one  [default: random, and printed]",
        "steps": "Sampler steps  [1 .. 50; default: 20]",
        "guidance": "Guidance  [0 .. 0.1; default: 0.1]",
    }
    assert [o.name for o in options_of(model.manifest.tasks["decode"])] == ["tokens", "size"]


def test_a_port_with_the_name_of_an_own_option_gets_a_prefix():
    assert option_name("mask_image") == "--mask-image" and option_name("out") == "--port-out"


def test_a_kind_without_an_option_is_not_for_a_command_line(model: Model, monkeypatch):
    monkeypatch.setattr(type(KINDS["video"]), "option", lambda *_: None)
    port = Port(kind="video", dtype="uint8", shape=("batch", "frames", "height", "width", 3))
    task = Task(summary="x", inputs={"clip": port}, outputs={"clip_out": port})
    assert options_of(task) == []
    manifest = type(model.manifest)(**{f: getattr(model.manifest, f) for f in model.manifest.__struct_fields__})
    manifest.tasks["watch"] = task
    try:
        assert refused(model, "watch", {}) == "watch takes video (clip), for which there is no option; use zoo.load"
    finally:
        del manifest.tasks["watch"]
