import torch
from torch import Tensor, nn

from zoo.build.loop import while_loop


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
