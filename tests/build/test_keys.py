"""Renaming a foreign checkpoint's tensors."""

import pytest
import torch
from torch import nn

from zoo.build.keys import Keys
from zoo.errors import InvalidFileError


class Labelled(nn.Module):
    """An embedding of three classes and one for "no label", and a norm's counter without dimensions."""

    def __init__(self):
        super().__init__()
        self.label = nn.Embedding(4, 2)
        self.register_buffer("count", torch.zeros(()))


CLASSES = torch.arange(6.0).reshape(3, 2)


def keys(**more: torch.Tensor) -> Keys:
    return Keys({"classes.weight": CLASSES, "n": torch.tensor(5.0)} | more)


def test_an_embedding_gets_a_row():
    found = keys()
    found.move_tensor("classes.weight", "label.weight", more=torch.full((1, 2), 9.0))
    found.move_tensor("n", "count")
    state, unused = found.finish(Labelled())
    assert state["label.weight"].tolist() == [[0, 1], [2, 3], [4, 5], [9, 9]]
    assert (state["count"].item(), unused) == (5, ())


@pytest.mark.parametrize(
    ("classes", "says"),
    [
        (torch.zeros(2, 2), r"classes.weight is \[2, 2\], not \[3, 2\]"),
        (torch.zeros(3, 5), r"classes.weight is \[3, 5\], not \[3, 2\]"),
    ],
)
def test_a_row_does_not_hide_another_shape(classes, says):
    found = Keys({"classes.weight": classes, "n": torch.tensor(5.0)})
    found.move_tensor("classes.weight", "label.weight", more=torch.zeros(1, 2))
    found.move_tensor("n", "count")
    with pytest.raises(InvalidFileError, match=says):
        found.finish(Labelled())


def test_a_missing_embedding_is_named_with_the_shape_it_should_have():
    found = Keys({"n": torch.tensor(5.0)})
    found.move_tensor("classes.weight", "label.weight", more=torch.zeros(1, 2))
    found.move_tensor("n", "count")
    with pytest.raises(InvalidFileError, match=r"classes.weight \[3, 2\] is missing"):
        found.finish(Labelled())


def test_unused_names_are_prefixes_or_patterns():
    found = keys(**{"loss.weight": CLASSES, "blocks.1.mask": CLASSES, "blocks.1.masked": CLASSES})
    found.move_tensor("classes.weight", "label.weight", more=torch.zeros(1, 2))
    found.move_tensor("n", "count")
    with pytest.raises(InvalidFileError, match=r"config: blocks.1.masked \[3, 2\] is unexpected$"):
        found.finish(Labelled(), unused=("loss.", "*.mask"))
    assert found.finish(Labelled(), unused=("loss.", "*.mask*"))[1] == (
        "loss.weight",
        "blocks.1.mask",
        "blocks.1.masked",
    )
