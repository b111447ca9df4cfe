import numpy as np
import pytest

from tests.tiny_tasks import CLASSES, _tasks
from zoo.errors import UsageError
from zoo.hookspecs import Port, Task
from zoo.ports.inputs import check, complete
from zoo.ports.kinds import kind_of
from zoo.ports.label import number as label_number
from zoo.ports.seed import MAX_SEED

TASKS = _tasks()
GENERATE, RECONSTRUCT, DECODE = TASKS["generate"], TASKS["reconstruct"], TASKS["decode"]


def refused(task: Task, **values: object) -> str:
    with pytest.raises(UsageError) as caught:
        complete("it", task, values)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def picture(*shape: int) -> np.ndarray:
    return np.zeros(shape, np.uint8)


def test_defaults_are_filled_and_numbers_spread_over_the_batch():
    inputs = complete("generate", GENERATE, {"seed": [1, 2, 3], "label": "sneaker"})
    assert {name: (a.dtype.name, a.tolist()) for name, a in inputs.items() if name != "guidance"} == {
        "label": ("int64", [1, 1, 1]),
        "seed": ("int64", [1, 2, 3]),
        "steps": ("int64", 20),
    }
    assert inputs["guidance"].dtype == np.float32 and inputs["guidance"].shape == (3,)


def test_a_call_of_numbers_alone_is_a_batch_of_one():
    assert complete("generate", GENERATE, {"seed": 7})["label"].tolist() == [-1]


def test_labels_by_name_and_number():
    assert complete("it", GENERATE, {"seed": [1, 2], "label": ["Shirt", 2]})["label"].tolist() == [0, 2]
    port = GENERATE.inputs["label"]
    assert [label_number("label", port, t) for t in ("ankle BOOT", "2", " -1 ")] == [2, 2, -1]
    assert refused(GENERATE, seed=1, label="sneker") == (
        "label 'sneker' is not a class of this model; did you mean 'sneaker'?"
    )
    assert refused(GENERATE, seed=1, label="xyz") == (
        "label 'xyz' is not a class of this model; there are Shirt, Sneaker, Ankle boot"
    )
    assert refused(GENERATE, seed=1, label=3) == "label is 3; it must be -1 .. 2"


def test_a_class_that_is_called_like_a_number_wins_over_the_number():
    port = Port(kind="label", dtype="int64", shape=("batch",), classes=("7", "3"))
    assert label_number("label", port, "7") == 0 and label_number("label", port, "1") == 1
    with pytest.raises(UsageError, match="not a class"):
        label_number("label", port, "²")


def test_unknown_and_missing_inputs():
    assert refused(GENERATE, seeds=1) == (
        "it has no input 'seeds'; it takes label, seed, steps, guidance; did you mean 'seed'?"
    )
    assert refused(GENERATE) == f"it needs seed: int64 [batch], 0 .. {MAX_SEED}"
    assert refused(DECODE, tokens=np.zeros((1, 2, 2), int)) == "it needs size: int64 [2], 1 or more"


def test_pictures_of_the_wrong_type_or_shape_get_the_mend():
    assert refused(RECONSTRUCT, image=np.zeros((1, 8, 8, 1))) == "image is float64; pictures are uint8, 0 .. 255"
    assert refused(RECONSTRUCT, image=picture(4, 8, 8)).endswith("add the channel axis, image[..., None]")
    assert refused(RECONSTRUCT, image=picture(1, 8, 8, 3)) == (
        "image has the shape [1, 8, 8, 3]; it must be [batch, height, width, 1]"
    )
    assert refused(RECONSTRUCT, image=picture(0, 8, 8, 1)) == "image is empty (batch is 0)"
    assert refused(RECONSTRUCT, image=picture(1, 5, 9, 1)) == "image is 9x5 pixels; it must be at least 8x8"
    assert refused(RECONSTRUCT, image=picture(1, 101, 100, 1)) == (
        "image is 100x101, 10,100 pixels; it may have at most 10,000"
    )
    assert "must be uint8" in refused(RECONSTRUCT, image=None) or "needs image" in refused(RECONSTRUCT, image=None)
    assert refused(RECONSTRUCT, image=[[1], [1, 2]]) == "image has rows of different lengths; give an array"


def test_numbers_out_of_their_range():
    assert refused(GENERATE, seed=-1) == f"seed is -1; it must be 0 .. {MAX_SEED}"
    assert refused(GENERATE, seed=2**53) == f"seed is {2**53}; it must be 0 .. {MAX_SEED}"
    assert refused(GENERATE, seed=10**30) == f"seed is {10**30}; it must be 0 .. {MAX_SEED}"
    assert refused(GENERATE, seed=1, steps=0) == "steps is 0; it must be 1 .. 50"
    assert refused(GENERATE, seed=1, steps=2.5) == "steps is float; it must be int64, 1 .. 50"
    assert refused(GENERATE, seed=1, steps=True) == "steps is bool; it must be int64, 1 .. 50"
    assert refused(GENERATE, seed=1, guidance=0.2) == "guidance is 0.2; it must be 0 .. 0.1"
    assert refused(GENERATE, seed=1, guidance=float("nan")) == "guidance contains NaN or infinity"
    assert refused(GENERATE, seed=1, guidance="much") == "guidance is str; it must be float32 [batch], 0 .. 0.1"
    tokens = np.full((1, 2, 2), 4)
    assert refused(DECODE, tokens=tokens, size=[8, 8]) == "tokens is 4; it must be 0 .. 3"


def test_a_bound_that_is_no_float32_is_still_inside():
    assert complete("it", GENERATE, {"seed": 1, "guidance": 0.1})["guidance"][0] == np.float32(0.1)


def test_inputs_of_different_batches_are_told_apart():
    assert refused(GENERATE, seed=[1, 2, 3], label=[0, 1]) == "label has batch 2; the other inputs have 3"


def test_range_text():
    def port(**limits: object) -> Port:
        return Port(kind="scalar", dtype="float32", shape=("batch",), **limits)

    assert [
        kind_of(port(**k)).range_text(port(**k))
        for k in ({}, {"minimum": 0}, {"maximum": 8}, {"minimum": 0.5, "maximum": 1})
    ] == [
        "",
        "0 or more",
        "at most 8",
        "0.5 .. 1",
    ]
    label = Port(kind="label", dtype="int64", shape=("batch",), classes=CLASSES)
    assert kind_of(label).range_text(label) == "0 .. 2"


def test_check_wants_the_exact_dtype():
    with pytest.raises(UsageError, match="^tokens is int32; it must be int64$"):
        check(DECODE.inputs, {"tokens": np.zeros((1, 2, 2), np.int32), "size": np.array([8, 8])})
    with pytest.raises(UsageError, match="^the input size is missing$"):
        check(DECODE.inputs, {"tokens": np.zeros((1, 2, 2), np.int64)})
