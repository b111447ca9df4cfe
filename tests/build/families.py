"""Small families for tests of the exporter: what a loaded plugin looks like to it, without a plugin."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.build.loop import while_loop
from zoo.hookspecs import Family, Port, Task, TaskModuleRequest, Tasks, Tolerance

IMAGE = Port(kind="image", dtype="uint8", shape=("batch", "height", "width", 3), minimum_size=4)
TOKENS = Port(kind="tokens", dtype="int64", shape=("batch", "rows", "columns"), minimum=0, maximum=7)
STEPS = Port(kind="count", dtype="int64", shape=(), default=10, minimum=1, maximum=50)


class Loaded:
    """Answers the hooks that the exporter calls, out of plain values."""

    def __init__(self, tasks: Mapping[str, tuple[Task, Callable[[nn.Module], nn.Module]]], weights=("model",)):
        self.tasks = tasks
        self.weights = weights
        self.tolerance = Tolerance()

    def call(self, hook: str, request: Any) -> Any:
        if hook == "describe_family":
            return Family(name="small", summary="s", paper="https://example.org", presets={}, weights=self.weights)
        if hook == "list_tasks":
            tasks = {name: task for name, (task, _) in self.tasks.items()}
            return Tasks(tasks=tasks, default=next(iter(tasks)), tolerance=self.tolerance)
        assert hook == "build_task" and isinstance(request, TaskModuleRequest)
        return self.tasks[request.task][1](request.module)


class Net(nn.Module):
    """A convolutional net with a codebook and a table; buffers that no graph uses, as a trainer leaves them."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.conv_in = nn.Conv2d(3, 4, 3, padding=1)
        self.conv_out = nn.Conv2d(4, 3, 3, padding=1)
        self.register_buffer("codebook", torch.empty(8, 4))
        self.register_buffer("table", torch.linspace(0.1, 0.3, 51))
        self.register_buffer("average", torch.zeros(8, 4))
        for tensor in [*self.parameters(), self.codebook]:
            tensor.data.copy_(torch.randn(tensor.shape, generator=generator) * 0.4)

    def forward(self, x: Tensor) -> Tensor:  # [N, 3, H, W] -> the same
        return self.conv_out(F.relu(self.conv_in(x)))


def to_float(image: Tensor) -> Tensor:
    return image.permute(0, 3, 1, 2).to(torch.float32) / 127.5 - 1


def to_uint8(x: Tensor) -> Tensor:
    return ((x + 1) * 127.5).clamp(0, 255).round().permute(0, 2, 3, 1).to(torch.uint8)


class Filter(nn.Module):
    """image -> filtered."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net

    def forward(self, image: Tensor) -> Tensor:
        return to_uint8(self.net(to_float(image)))


class Encode(nn.Module):
    """image -> tokens, one a pixel: the nearest code by the matmul form."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net

    def distances(self, image: Tensor) -> Tensor:
        z, e = self.net.conv_in(to_float(image)).permute(0, 2, 3, 1), self.net.codebook
        return e.pow(2).sum(dim=1) - 2 * (z @ e.t())

    def forward(self, image: Tensor) -> Tensor:
        return self.distances(image).argmin(dim=-1)

    def margins(self, image: Tensor) -> Tensor:
        best = self.distances(image).topk(2, dim=-1, largest=False).values
        return best[..., 1] - best[..., 0]


class Decode(nn.Module):
    """tokens -> image."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net

    def forward(self, tokens: Tensor) -> Tensor:
        return to_uint8(self.net.conv_out(F.embedding(tokens, self.net.codebook).permute(0, 3, 1, 2)))


class Refine(nn.Module):
    """image, steps -> refined: a sampler's shape, a loop around the net with a table looked up at each step."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net

    def forward(self, image: Tensor, steps: Tensor) -> Tensor:
        def more(i: Tensor, x: Tensor) -> Tensor:
            return i < steps

        def step(i: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
            rate = self.net.table.index_select(0, i.reshape(1))
            return i + 1, x - rate * self.net(x)

        _, x = while_loop(more, step, (torch.zeros((), dtype=torch.int64), to_float(image)))
        return to_uint8(x)


def task(inputs: dict[str, Port], outputs: dict[str, Port]) -> Task:
    return Task(summary="A task", inputs=inputs, outputs=outputs)


FILTER = {"filter": (task({"image": IMAGE}, {"filtered": IMAGE}), Filter)}
CODEC = {
    "decode": (task({"tokens": TOKENS}, {"image": IMAGE}), Decode),
    "encode": (task({"image": IMAGE}, {"tokens": TOKENS}), Encode),
}
REFINE = {"refine": (task({"image": IMAGE, "steps": STEPS}, {"refined": IMAGE}), Refine)}
