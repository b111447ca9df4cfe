"""Imported checkpoints give the reference's numbers, in torch and in the graph; bundles: test_layouts_bundles.py."""

import pytest
import torch

from zoo.build.tracing import export_task
from zoo.build.weights import Weights
from zoo.hookspecs import Port, Task
from zoo.runtime import open_session

from . import recorded
from .checkpoints import CASES, assert_same, given, importing, rebuilt


@pytest.mark.shared
@pytest.mark.parametrize("case", CASES)
def test_torch_gives_the_references_numbers(shared_data, case):
    folder, family = shared_data / "parity" / case, CASES[case]
    imported = importing(family, folder)
    inputs, out = given(folder)
    with torch.no_grad():
        assert_same(rebuilt(family, imported)(*inputs.values()), out)
    assert imported.unused == ()


@pytest.mark.slow
@pytest.mark.shared
@pytest.mark.parametrize("case", CASES)
def test_the_graph_of_the_network_gives_the_references_numbers(shared_data, tmp_path, case):
    folder, family = shared_data / "parity" / case, CASES[case]
    module = rebuilt(family, importing(family, folder))
    inputs, out = given(folder)
    x = Port(kind="tensor", dtype="float32", shape=("batch", *inputs["x"].shape[1:]))
    ports = {"x": x, "t": Port(kind="tensor", dtype="float32", shape=("batch",), minimum=0.0, maximum=999.0)}
    if "label" in inputs:
        ports["label"] = Port(kind="label", dtype="int64", shape=("batch",), minimum=0, maximum=9)
    outputs = {"out": Port(kind="tensor", dtype="float32", shape=("batch", *out.shape[1:]))}
    task = Task(summary="The network alone", inputs=ports, outputs=outputs)
    export_task(module, "network", task, Weights(module, ("model",), tmp_path), tmp_path / "network.onnx")
    got = open_session(tmp_path / "network.onnx", "cpu").run({name: v.numpy() for name, v in inputs.items()})["out"]
    assert_same(torch.from_numpy(got), out)


@pytest.mark.shared
@pytest.mark.parametrize("case", ["dit_p2_sigma", "dit_p4_nosigma_nodrop"])
def test_guidance_is_dits_own(shared_data, case):
    """forward_with_cfg guides the first three channels only, and so do we; of the learned variance nothing."""
    from zoo_diffusion import sampling

    folder = shared_data / "parity/dit" / case
    io, config = recorded.io(folder), importing("dit", folder).config
    assert config["diffusion"]["guided_channels"] == 3 and not config["diffusion"]["clip"]
    module, half = rebuilt("dit", importing("dit", folder)), len(io["x_cfg"]) // 2
    x, t, labels = io["x_cfg"][:half], io["t"].float()[:half], (io["y"][:half], io["y"][half:])
    channels = config["network"]["image_channels"]
    with torch.no_grad():
        conditional, other = (module(x, t, label)[:, :channels] for label in labels)
    guided = sampling.guided(other, conditional, torch.tensor([3.0]), config["diffusion"]["guided_channels"])
    theirs = io["out_cfg3"][:half, :channels]
    assert_same(guided, theirs)
