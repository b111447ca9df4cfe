"""Noise as an input: the cut gives the same picture, proves itself, and says where it cannot be made."""

from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest

from zoo import noise
from zoo.errors import ExportError
from zoo.formats import manifest as manifests
from zoo.formats.golden import Case, read_cases
from zoo.graph.walk import names_used, nodes_of
from zoo.hookspecs import Port, Task
from zoo.names import GOLDEN
from zoo.runtime import open_session
from zoo.ship.noise import take_noise

ROOT = Path(__file__).parents[2]
CUTS = ["vae-fashion/1/generate", "gan-fashion/2/generate", "ddpm-fashion/1/generate", "ddpm-fashion/1/variations"]


def published(text):
    """Graph, task, cases and folder of `model/version/task`."""
    name, version, task = text.split("/")
    folder = ROOT / "models" / name / version
    manifest = manifests.read(folder)
    model = onnx.load(folder / f"{task}.onnx", load_external_data=False)
    return model, manifest.tasks[task], read_cases(folder / GOLDEN, manifest)[task], folder


def run(model, folder, place, inputs, *more_outputs):
    """A graph's outputs, and those of values inside."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    copy.graph.output.extend(onnx.ValueInfoProto(name=name) for name in more_outputs)
    place.mkdir()
    for path in folder.glob("*.safetensors"):
        (place / path.name).write_bytes(path.read_bytes())
    (place / "graph.onnx").write_bytes(copy.SerializeToString())
    return open_session(place / "graph.onnx", "cpu").run(inputs)


@pytest.mark.parametrize("text", CUTS)
def test_the_cut_graph_gives_the_same_picture(text, tmp_path):
    model, task, cases, folder = published(text)
    cut, cut_task, cut_cases = take_noise(model, task, cases)
    assert list(cut_task.inputs) == ["noise" if n == "seed" else n for n in task.inputs]
    assert cut_task.inputs["noise"].shape == ("batch", *cut_cases[0].inputs["noise"].shape[1:])
    (entry,) = [node.output[0] for node in cut.graph.node if list(node.input) == ["noise"] and node.op_type != "Shape"]
    case, cut_case = cases[1], cut_cases[1]
    before = run(model, folder, tmp_path / "before", case.inputs, entry)
    within = dict(cut_case.inputs, noise=before.pop(entry))
    after = run(cut, folder, tmp_path / "after", within)
    assert before.keys() == after.keys()
    for name, array in before.items():
        np.testing.assert_array_equal(after[name], array)


@pytest.mark.parametrize("text", CUTS)
def test_nothing_of_the_generator_is_left(text):
    cut, task, cases = take_noise(*published(text)[:3])
    assert "seed" not in names_used(cut.graph) and [i.name for i in cut.graph.input] == list(task.inputs)
    assert not [node.op_type for node in nodes_of(cut.graph) if node.op_type.startswith("Bitwise")]
    assert all(case.inputs.keys() == task.inputs.keys() for case in cases)


def test_the_cases_have_the_noise_of_their_seeds():
    model, task, cases, _ = published("ddpm-fashion/1/generate")
    for case, cut in zip(cases, take_noise(model, task, cases)[2], strict=True):
        np.testing.assert_array_equal(cut.inputs["noise"], noise.normal(case.inputs["seed"], (1, 28, 28)))
        np.testing.assert_array_equal(cut.outputs["image"], case.outputs["image"])


@pytest.mark.parametrize("text", ["vqvae-fashion/2/generate", "vqvae-fashion/2/inpaint", "ddpm-fashion/1/denoise"])
def test_a_seed_in_a_loop_is_no_input(text):
    with pytest.raises(ExportError, match="a loop draws it"):
        take_noise(*published(text)[:3])


def test_noise_that_is_another_is_not_taken(monkeypatch):
    model, task, cases, _ = published("vae-fashion/1/generate")
    monkeypatch.setitem(noise.DRAW, "normal", lambda seed, shape: noise.normal(seed, shape, stream=1))
    with pytest.raises(ExportError, match="not the noise of docs/noise.md, stream 0"):
        take_noise(model, task, cases)


def test_one_value_that_is_off_is_seen(monkeypatch):
    model, task, cases, _ = published("vae-fashion/1/generate")

    def almost(seed, shape):
        array = noise.normal(seed, shape)
        array[-1, -1] += 5 * np.spacing(array[-1, -1])
        return array

    monkeypatch.setitem(noise.DRAW, "normal", almost)
    with pytest.raises(ExportError, match="not the noise of docs/noise.md, stream 0"):
        take_noise(model, task, cases)


def test_what_else_stands_in_the_way():
    model, task, cases, _ = published("vae-fashion/1/generate")
    two = msgspec.structs.replace(task, inputs=task.inputs | {"other": task.inputs["seed"]})
    with pytest.raises(ExportError, match="the task has several seeds"):
        take_noise(model, two, cases)
    model.graph.node[-1].name = "noise"  # a node's name is none of a value
    take_noise(model, task, cases)
    model.graph.node[-1].input[0] = model.graph.node[-2].output[0] = "noise"
    with pytest.raises(ExportError, match="its graph already has a value called noise"):
        take_noise(model, task, cases)


# --- Graphs made here: what no published model does -------------------------------------------------------------------


def exported(function):
    """A graph float32 [batch, 3, 5] of `seed`, by torch's exporter, with a task and cases."""
    import torch

    class Module(torch.nn.Module):
        def forward(self, seed):
            return function(seed)

    program = torch.onnx.export(
        Module().eval(),
        (torch.tensor([1, 2]),),
        dynamic_shapes=({0: torch.export.Dim.DYNAMIC},),
        input_names=["seed"],
        output_names=["x"],
        opset_version=18,
        dynamo=True,
        verbose=False,
    )
    seed = Port(kind="seed", dtype="int64", shape=("batch",))
    x = Port(kind="tensor", dtype="float32", shape=("batch", 3, 5))
    seeds = [np.array([7]), np.array([2**53 - 1, 0, 5])]
    cases = [Case({"seed": s}, {"x": function(torch.from_numpy(s)).numpy()}) for s in seeds]
    return program.model_proto, Task(summary="Noise", inputs={"seed": seed}, outputs={"x": x}), cases


@pytest.mark.slow
def test_uniform_noise_is_taken_and_noise_may_be_the_output_itself(tmp_path):
    from zoo.build.random import uniform

    model, task, cases = exported(lambda seed: uniform(seed, (3, 5)))
    cut, cut_task, cut_cases = take_noise(model, task, cases)
    assert cut_task.inputs["noise"].noise == "uniform" and cut_task.inputs["noise"].shape == ("batch", 3, 5)
    for number, case in enumerate(cut_cases):
        outputs = run(cut, tmp_path, tmp_path / str(number), case.inputs)
        np.testing.assert_array_equal(outputs["x"], case.outputs["x"])


def _other_stream(seed):
    from zoo.build.random import normal

    return normal(seed, (3, 5), 1) * 2


def _two_streams(seed):
    from zoo.build.random import normal

    return normal(seed, (3, 5)) + normal(seed, (3, 5), 1)


def _a_number_too(seed):
    from zoo.build.random import normal

    return normal(seed, (3, 5)) + seed[:, None, None] % 3


@pytest.mark.slow
@pytest.mark.parametrize(
    "function, says",
    [
        (_other_stream, "not the noise of docs/noise.md, stream 0"),
        (_two_streams, "the seed gives more than one noise"),
        (_a_number_too, "the seed gives more than one noise"),
    ],
)
def test_a_seed_that_gives_something_else_is_left_alone(function, says):
    with pytest.raises(ExportError, match=says):
        take_noise(*exported(function))
