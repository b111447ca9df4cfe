"""Judges of several labels that the data have by name."""

import pytest
import torch
from zoo_judge import plugin
from zoo_judge.config import JudgeConfig, read_config
from zoo_judge.model import Classify, Judge, patches
from zoo_judge.training import coloured

from tests.trainers import batch_of, drawings, generator, run_of, trainer_of
from zoo.errors import UsageError
from zoo.hookspecs import ArrayFacts, Batch, ConfigRequest, DataFacts, TasksRequest

FACTS = DataFacts(
    height=16,
    width=16,
    channels=1,
    arrays={
        "shape": ArrayFacts(dtype="int64", shape=(), classes=("square", "disc")),
        "light": ArrayFacts(dtype="int64", shape=(), classes=("dark", "grey", "bright")),
        "place": ArrayFacts(dtype="float32", shape=(2,)),
    },
)
LABELS = [{"name": "shape", "classes": ["square", "disc"]}, {"name": "light", "classes": ["dark", "grey", "bright"]}]


def validate(**config):
    return plugin.validate_config(ConfigRequest(family="judge", config=config, data=FACTS))


def test_names_are_enough_where_the_data_name_the_classes():
    config = validate(labels=["shape", "light"])
    assert config["num_classes"] == 5 and config["image_channels"] == 1
    assert read_config(config).sizes == {"shape": 2, "light": 3}
    assert config == validate(labels=LABELS) == plugin.validate_config(ConfigRequest(family="judge", config=config))


@pytest.mark.parametrize(
    "config, line",
    [
        ({"labels": ["lihgt"]}, "the data has no label 'lihgt' with names of its classes (in an .npz, an array"
         " lihgt_classes); those that it has: shape, light; did you mean 'light'?"),
        ({"labels": ["place"]}, "the data has no label 'place' with names of its classes (in an .npz, an array"
         " place_classes); those that it has: shape, light"),
        ({"labels": ["shape", "shape"]},
         "judge config: the names in labels are shape, shape; they must differ, and none may be 'image' or another"
         " one's with '_probabilities'"),
        ({"labels": ["shape"], "num_classes": 3},
         "judge config: num_classes is 3; the labels have 2 classes together"),
    ],
)  # fmt: skip
def test_a_wrong_label_is_one_line(config, line):
    with pytest.raises(UsageError) as error:
        validate(**config)
    assert str(error.value) == line


def test_a_label_may_not_take_the_name_of_another_ones_probabilities():
    two = ({"name": name, "classes": ["a", "b"]} for name in ("shape", "shape_probabilities"))
    with pytest.raises(UsageError, match="none may be 'image' or another one's with '_probabilities'"):
        read_config({"labels": [*two]})


def test_each_label_has_its_ports_and_an_array_of_the_data():
    tasks = plugin.list_tasks(TasksRequest(family="judge", config=validate(labels=LABELS)))
    outputs = tasks.tasks["classify"].outputs
    assert list(outputs) == ["shape", "light", "shape_probabilities", "light_probabilities"]
    assert outputs["light"].classes == ("dark", "grey", "bright") and outputs["light"].maximum == 2
    assert outputs["light_probabilities"].shape == ("batch", 3)
    assert tasks.example == {name: outputs[name] for name in ("shape", "light")}


def test_a_label_is_the_most_probable_of_its_own_classes():
    judge = Judge(read_config({"widths": [8], "labels": LABELS}))
    image = torch.randint(0, 256, (5, 9, 12, 1), dtype=torch.uint8)
    shape, light, of_shape, of_light = Classify(judge)(image)
    assert of_shape.shape == (5, 2) and of_light.shape == (5, 3)
    torch.testing.assert_close(of_light.sum(dim=1), torch.ones(5))
    assert torch.equal(shape, of_shape.argmax(1)) and torch.equal(light, of_light.argmax(1))


def test_patches_of_any_size_keep_every_pixel_and_add_white():
    x = torch.rand(2, 3, 9, 7) - 0.5
    found = patches(x, 4)
    assert found.shape == (2, 48, 3, 2)
    whole = torch.pixel_shuffle(found, 4)
    assert torch.equal(whole[:, :, :9, :7], x)
    assert (whole[:, :, 9:] == 1).all() and (whole[:, :, :, 7:] == 1).all()
    assert Judge(JudgeConfig(widths=(8, 16), patch_size=4))(torch.rand(2, 1, 9, 7)).shape == (2, 10)


def test_colours_change_by_at_most_the_share_and_white_stays_white():
    x = torch.linspace(-1, 1, 9).expand(200, 3, 1, 9).clone()
    changed = coloured(x, 0.25, generator())
    assert (changed[..., -1] == 1).all() and changed.min() >= -1
    factor = (1 - changed[..., 4]) / (1 - x[..., 4])  # of grey, which is not clamped
    assert 0.75 <= factor.min() < 0.78 and 1.22 < factor.max() <= 1.25
    assert len(factor.unique()) > 500  # every channel of every picture has its own


def two_labels(number: int) -> Batch:
    """Squares and discs, and whether the brightest pixel is over 180."""
    batch = batch_of(drawings(number))
    light = (batch.images.amax((1, 2, 3)) > 180).long() * 2
    return Batch(images=batch.images, labels=torch.full((number,), -1), arrays={"shape": batch.labels, "light": light})


@pytest.mark.slow
def test_training_learns_both_labels():
    run = run_of(plugin, "judge", {"labels": LABELS, "num_classes": 5}, steps=200, shift=0, label_smoothing=0.0)
    training = trainer_of(plugin, run)
    history = [training.step(two_labels(64), step, generator(step)) for step in range(200)]
    assert set(history[0]) == {"loss", "shape_accuracy", "light_accuracy"}
    assert history[-1]["loss"] < 0.8 * history[0]["loss"]
    assert history[-1]["shape_accuracy"] > 0.9 and history[-1]["light_accuracy"] > 0.9
    assert set(training.validate(two_labels(8), generator())) == set(history[0])


def test_a_label_beyond_its_classes_is_one_line():
    training = trainer_of(plugin, run_of(plugin, "judge", {"labels": LABELS, "num_classes": 5}))
    batch = two_labels(8)
    batch.arrays["shape"][3] = 2
    with pytest.raises(UsageError, match="a label is 2, but num_classes is 2"):
        training.step(batch, 0, generator())
