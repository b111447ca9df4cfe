"""A network that all tasks call is traced once: the graphs compute what they do if it is traced in each."""

import numpy as np
import pytest
import torch
from zoo_diffusion import plugin

from zoo.build.golden import TRACE, draw_inputs
from zoo.build.shared import SharedNetwork
from zoo.build.tracing import export_task
from zoo.build.weights import Weights
from zoo.hookspecs import BuildRequest, ConfigRequest, TaskModuleRequest, TasksRequest
from zoo.runtime import open_session

NETWORK = {"image_size": 8, "image_channels": 4, "widths": [8], "attention_levels": [], "blocks": 1, "norm_groups": 4}


class UsesAWeight(torch.nn.Module):
    """A task that calls the network, and uses one of its weights itself."""

    def __init__(self, module: torch.nn.Module, network: torch.nn.Module):
        super().__init__()
        self.module, self.network = module, network

    def forward(self, x, previous_x0, row):
        next_x, x0 = self.module(x, previous_x0, row)
        return next_x + self.network.get_parameter("conv_in.bias").mean(), x0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("classes", "uses_a_weight"),
    [(0, False), (3, False), (0, True)],  # without and with guidance, which doubles the batch
)
def test_the_graph_is_the_same_function(tmp_path, classes, uses_a_weight):
    torch.manual_seed(0)
    given = {"network": NETWORK | {"num_classes": classes}}
    config = plugin.validate_config(ConfigRequest(family="ddpm", config=given))
    network = plugin.build_module(BuildRequest(family="ddpm", config=config)).eval()
    tasks = plugin.list_tasks(TasksRequest(family="ddpm", config=config)).tasks
    request = TaskModuleRequest(family="ddpm", config=config, task="generate_step", module=network)
    name, task, module = "generate_step", tasks["generate_step"], plugin.build_task(request).eval()
    if uses_a_weight:
        module = UsesAWeight(module, network).eval()
    inputs = draw_inputs(task, TRACE, np.random.default_rng(0))

    def draw(_: str) -> list[torch.Tensor]:
        return [torch.from_numpy(array) for array in inputs.values()]

    shared = SharedNetwork.of(network, {name: module}, draw)
    assert shared is not None and network.forward.__func__ is type(network).forward
    outputs = []
    for number, one in enumerate((None, shared)):
        folder = tmp_path / str(number)
        folder.mkdir()
        export_task(module, name, task, Weights(network, ("model",), folder), folder / "a.onnx", one)
        outputs.append(open_session(folder / "a.onnx", "cpu").run(inputs))
    assert all(np.array_equal(outputs[0][port], outputs[1][port]) for port in outputs[0])
    assert shared._function is not None  # it was really shared


def test_a_network_that_does_not_say_so_is_not_shared():
    assert SharedNetwork.of(torch.nn.Linear(2, 2), {}, lambda name: []) is None


def test_a_network_has_its_weights_again_after_a_task_was_traced():
    class Network(torch.nn.Linear):
        trace_once = True

    network = Network(2, 2)
    shared = SharedNetwork.of(network, {"task": network}, lambda name: [torch.ones(1, 2)])
    assert shared is not None
    before = dict(network.named_parameters())
    with pytest.raises(ValueError, match="traced"), shared.in_place(emptied=True):
        assert not list(network.parameters())
        raise ValueError("while it was traced")
    assert dict(network.named_parameters()) == before and network(torch.ones(1, 2)).shape == (1, 2)
