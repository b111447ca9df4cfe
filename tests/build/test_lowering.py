"""What `torch.export` gives becomes operators with an ONNX form, without another trace where that is possible."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.onnx._internal.exporter import _fx_passes

from zoo.build import tracing
from zoo.build.lowering import REWRITES, lowered
from zoo.build.weights import Weights
from zoo.hookspecs import Port, Task
from zoo.runtime import open_session

X = torch.linspace(-3, 3, 2 * 4 * 6 * 6).reshape(2, 4, 6, 6)
UP = nn.ConvTranspose2d(4, 3, 4, stride=2, padding=1, output_padding=1, dilation=1)

FORMS = {
    "another type": lambda x: x.to(torch.float64).sin().to(torch.float32),
    "the same type": lambda x: x.to(torch.float32) + 1,
    "another device's type": lambda x: x.to("cpu", torch.float64).cos().float(),
    "no gradient": lambda x: x.detach() * 2,
    "a constant": lambda x: x + torch.tensor([1.5, 2, 3, 4])[:, None, None],
    "no dropout": lambda x: nn.functional.dropout(x, 0.5, training=False) + x,
    "reversed subtraction": lambda x: 1.0 - x,
    "integers": lambda x: (((x * 9).long() & 6) ^ 3 | 8).float(),
    "two integers": lambda x: ((x * 9).long() & (x * 5).long() | (x * 3).long() ^ (x * 2).long()).float(),
    "truths": lambda x: ((x > 0) & (x < 2) | (x < -2)).float(),
    "transposed convolution": lambda x: UP(x),
    "joined axes": lambda x: x.flatten(1).softmax(1),
    "all axes joined but one": lambda x: x.flatten(0, 2).cumsum(1)[None],
    "split axes": lambda x: x.permute(0, 2, 3, 1).unflatten(3, (2, 2)).sum(3),
    "a turned picture's rows": lambda x: x.permute(0, 2, 3, 1).reshape(x.shape[0], -1, 4).softmax(1),
}


class Module(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function, self.up = function, UP

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(x)


def traced(function):
    with torch.no_grad():
        dynamic = ({0: torch.export.Dim.DYNAMIC},)
        return torch.export.export(Module(function), (X,), dynamic_shapes=dynamic, strict=False)


def exported(function, folder: Path):
    """What the graph gives, for a batch that was not traced."""
    module = Module(function)
    with torch.no_grad():
        expected = module(torch.cat([X, X[:1] + 0.1])).numpy()
    x = Port(kind="tensor", dtype="float32", shape=("batch", 4, 6, 6))
    y = Port(kind="tensor", dtype="float32", shape=("batch", *expected.shape[1:]))
    if expected.shape[0] != 3:
        y = Port(kind="tensor", dtype="float32", shape=(1, "rows", *expected.shape[2:]))
    task = Task(summary="x", inputs={"x": x}, outputs={"y": y})
    tracing.export_task(module, "work", task, Weights(module, ["model"], folder), folder / "work.onnx")
    given = open_session(folder / "work.onnx", "cpu").run({"x": torch.cat([X, X[:1] + 0.1]).numpy()})["y"]
    np.testing.assert_allclose(given, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", FORMS)
def test_it_computes_the_same_without_a_second_trace(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def traced_again(program, registry):
        raise AssertionError(program.graph)

    monkeypatch.setattr(_fx_passes, "decompose_with_registry", traced_again)
    exported(FORMS[name], tmp_path)


def test_every_rewritten_operator_is_in_one_of_these():
    met = {node.target for function in FORMS.values() for node in traced(function).graph.nodes}
    assert REWRITES.keys() <= met


def written_into(x):
    y = x * 1
    y[:, 0] = 7.0
    return y


LONG = {
    "a write into a part": written_into,
    "a write into all": lambda x: (x + 1).mul_(2),
    "dropout of a training": lambda x: nn.functional.dropout(x + 1, 0.0, training=True) * 2,
    "a part is translated, not the whole": lambda x: nn.functional.pairwise_distance(x, x + 1),
}


@pytest.mark.parametrize("name", LONG)
def test_what_cannot_be_rewritten_is_decomposed_by_torch(name: str, tmp_path: Path):
    assert lowered(traced(LONG[name]), tracing._registry()) is None
    exported(LONG[name], tmp_path)
