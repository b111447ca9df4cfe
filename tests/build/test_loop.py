import inspect
import re

import onnx_ir as ir
import pytest
import torch
from onnxruntime import InferenceSession
from torch import Tensor, nn

from zoo.build import loop
from zoo.build.loop import while_loop
from zoo.build.random import normal, uniform
from zoo.build.tracing import _export
from zoo.errors import ExportError


class Double(nn.Module):
    """x, times -> x * 2^times."""

    def forward(self, x: Tensor, times: Tensor) -> Tensor:
        start = (torch.zeros_like(times), x)
        return while_loop(lambda i, x: i < times, lambda i, x: (i + 1, x * 2), start)[1]


def test_outside_of_an_export_nothing_is_compiled(monkeypatch):
    """torch.while_loop compiles at every call, which took most of the time of an export."""
    monkeypatch.delattr(torch, "while_loop")
    assert [Double()(torch.ones(1), torch.tensor(times)).item() for times in (0, 1, 5)] == [1, 2, 32]


def test_an_export_keeps_the_loop():
    exported = torch.export.export(Double(), (torch.ones(1), torch.tensor(3)))
    assert "while_loop" in exported.graph_module.code
    assert exported.module()(torch.ones(1), torch.tensor(5)).item() == 32


class Kept(nn.Module):
    """Noise of the image's own size in each pass, where the mask is set: inpainting of images of any size."""

    def forward(self, image: Tensor, mask: Tensor, seed: Tensor, times: Tensor) -> Tensor:
        x, redrawn = image.permute(0, 3, 1, 2).float(), (mask >= 128).permute(0, 3, 1, 2)

        def step(i: Tensor, now: Tensor) -> tuple[Tensor, Tensor]:
            return i + 1, torch.where(redrawn, 0.5 * now + normal(seed, now.shape[1:], stream=i), x)

        start = torch.where(redrawn, normal(seed, x.shape[1:]), x)
        return while_loop(lambda i, _: i < times, step, (torch.zeros_like(times), start))[1]


@pytest.mark.slow
def test_noise_of_a_varying_size_in_a_loop_is_refused_with_the_way_out():
    size = dict.fromkeys(range(3), torch.export.Dim.DYNAMIC)
    image = torch.zeros(2, 8, 12, 3, dtype=torch.uint8)
    given = image, image[..., :1], torch.tensor([1, 2]), torch.tensor(3)
    with pytest.raises(ExportError) as e:
        _export(Kept(), given, (size, size, {0: torch.export.Dim.DYNAMIC}, {}), "kept")
    assert "a size that varies in the body of a loop; in a loop's body, sizes of new tensors" in str(e.value)


# --- The examples in the docstring, which docs/contract.md shows ------------------------------------------------------

EXAMPLES = re.findall(r"((?:^    .*\n|^\n)+)", inspect.cleandoc(loop.__doc__) + "\n", re.MULTILINE)
EXAMPLES = [inspect.cleandoc(text) for text in EXAMPLES if "def forward" in text]
NAMES = ["flow", "Langevin", "autoregressive", "masked"]


class Sampler(nn.Module):
    """What an example's `forward` finds in its module."""

    shape, length, codes, rate, noise = (1, 2, 3), 6, 5, 0.1, 0.05

    def __init__(self, name: str):
        super().__init__()
        self.name = name
        self.table = nn.Parameter(torch.randn(7, 5, generator=torch.Generator().manual_seed(0)))

    def network(self, x: Tensor, t: Tensor | None = None) -> Tensor:
        if x.dtype != torch.int64:
            return x * self.table[0, 0] + t[:, None, None, None]
        return nn.functional.embedding(x.roll(1, 1), self.table)  # [batch, length, codes]

    def gradient(self, x: Tensor) -> Tensor:
        return x - self.table[0, 0]


def sampler(name: str) -> nn.Module:
    scope = {"torch": torch, "while_loop": while_loop, "normal": normal, "uniform": uniform}
    exec(EXAMPLES[NAMES.index(name)], scope)
    return type("Example", (Sampler,), {"forward": scope["forward"]})(name)


def test_there_is_an_example_for_each_kind_of_sampler():
    assert len(EXAMPLES) == len(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_an_example_draws_by_its_seed_alone(name):
    module, seeds = sampler(name), torch.tensor([1, 2, 3])
    given = torch.ones(3) if name == "autoregressive" else torch.tensor(4)
    with torch.no_grad():
        drawn = module(seeds, given)
        one = module(seeds[1:2], given[1:2] if given.dim() else given)
    assert torch.equal(drawn[1:2], one)
    assert not torch.equal(drawn[0], drawn[1])
    if drawn.dtype == torch.int64:
        assert drawn.shape == (3, Sampler.length) and drawn.min() >= 0 and drawn.max() < Sampler.codes
    else:
        assert drawn.shape == (3, *Sampler.shape) and drawn.isfinite().all()


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_an_example_is_exported_as_a_loop(name):
    module, seeds = sampler(name), torch.tensor([1, 2])
    given = torch.ones(2) if name == "autoregressive" else torch.tensor(4)
    dynamic = {0: torch.export.Dim.DYNAMIC}
    how = (dynamic, dynamic if given.dim() else {})
    model = _export(module, (seeds, given), how, name, input_names=["seed", "given"], output_names=["drawn"])
    assert "Loop" in {node.op_type for node in model.graph.all_nodes()}
    session = InferenceSession(ir.to_proto(model).SerializeToString())
    seeds = torch.tensor([1, 5, 3])
    given = torch.ones(3) if name == "autoregressive" else torch.tensor(6)
    [drawn] = session.run(None, {"seed": seeds.numpy(), "given": given.numpy()})
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(drawn), module(seeds, given), atol=1e-5, rtol=1e-5)
