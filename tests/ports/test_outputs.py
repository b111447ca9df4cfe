import numpy as np
import pytest

from zoo.errors import InvalidFileError
from zoo.hookspecs import Port, Task
from zoo.ports.outputs import check_outputs

IMAGE = Port(kind="image", dtype="uint8", shape=("batch", "height", "width", 1))
LABEL = Port(kind="label", dtype="int64", shape=("batch",), classes=("Shirt", "Boot"))
TASK = Task(summary="Names it", inputs={"image": IMAGE}, outputs={"picture": IMAGE, "label": LABEL})
INPUTS = {"image": np.zeros((2, 4, 5, 1), np.uint8)}
RIGHT = {"picture": np.zeros((2, 7, 9, 1), np.uint8), "label": np.array([-1, 1])}


def test_right_outputs_pass():
    check_outputs("classify", TASK, INPUTS, RIGHT)
    check_outputs("classify", TASK, {}, RIGHT)


WRONG = {
    "dtype": ({"label": np.zeros(2, np.float32)}, "label is float32; it must be int64"),
    "rank": ({"picture": np.zeros(4, np.uint8)}, "picture has the shape [4]; it must be [2, height, width, 1]"),
    "channels": (
        {"picture": np.zeros((2, 4, 4, 3), np.uint8)},
        "picture has the shape [2, 4, 4, 3]; it must be [2, height, width, 1]",
    ),
    "batch": ({"label": np.zeros(3, int)}, "label has the shape [3]; it must be [2]"),
    "no batch": ({"label": np.zeros((), int)}, "label has the shape []; it must be [2]"),
    "empty": (
        {"picture": np.zeros((2, 0, 4, 1), np.uint8)},
        "picture has the shape [2, 0, 4, 1]; it must be [2, height, width, 1] and nothing may be 0",
    ),
    "range": ({"label": np.array([0, 2])}, "label has values from 0 to 2; they must be 0 .. 1"),
}


@pytest.mark.parametrize("outputs, reason", WRONG.values(), ids=WRONG.keys())
def test_wrong_outputs_are_one_line(outputs, reason):
    with pytest.raises(InvalidFileError) as e:
        check_outputs("classify", TASK, INPUTS, RIGHT | outputs)
    assert str(e.value) == f"the graph of classify does not match its manifest: {reason}"


def test_an_output_that_is_missing():
    with pytest.raises(InvalidFileError, match="^classify does not give its output label$"):
        check_outputs("classify", TASK, INPUTS, {"picture": RIGHT["picture"]})


def test_a_number_below_the_minimum_of_its_port():
    port = Port(kind="label", dtype="int64", shape=("batch",), minimum=-1, maximum=1)
    task = Task(summary="x", inputs={}, outputs={"label": port})
    check_outputs("classify", task, {}, {"label": np.array([-1, 1])})
    with pytest.raises(InvalidFileError, match=r"label has values from -2 to 1; they must be -1 \.\. 1$"):
        check_outputs("classify", task, {}, {"label": np.array([-2, 1])})
