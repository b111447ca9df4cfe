"""Weights in several files and in half precision: what a bundle stores, and that everything else can read it."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from tests import tiny
from tests.build.families import FILTER, REFINE, Net
from tests.build.test_export import make
from tests.cli.commands import zoo
from zoo.build.bundling import read_weights
from zoo.build.weights import round_to_half
from zoo.formats import manifest as manifests
from zoo.graph.check import check
from zoo.graph.walk import graphs_of, weight_files
from zoo.run.replay import replay

pytestmark = pytest.mark.slow  # tracing takes torch a second or more

LIMIT = 2000  # bytes of tensors in a file


class Wide(Net):
    """Convolutions of 432 weights each."""

    def __init__(self):
        super().__init__()
        self.conv_in, self.conv_out = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 3, 3, padding=1)
        generator = torch.Generator().manual_seed(1)
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=0.2, generator=generator)


def weights_of(folder: Path) -> dict[str, dict[str, torch.Tensor]]:
    """The tensors by file."""
    files = sorted(path for path in folder.glob("*.safetensors") if path.name != "golden.safetensors")
    return {path.name: load_file(path) for path in files}


def graph(folder: Path, name: str) -> onnx.GraphProto:
    return onnx.load(folder / f"{name}.onnx", load_external_data=False).graph


@pytest.fixture(scope="module")
def several(tmp_path_factory):
    folder = tmp_path_factory.mktemp("several")
    make(folder, FILTER | REFINE, module=Wide(), max_file_bytes=LIMIT)
    return folder / "bundle"


@pytest.fixture(scope="module")
def half(tmp_path_factory):
    folder = tmp_path_factory.mktemp("half")
    make(folder, FILTER | REFINE, module=Wide(), precision="float16")
    return folder / "bundle"


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("ZOO_HOME", str(tmp_path / "home"))


# --- Several files ----------------------------------------------------------------------------------------------------


def test_files_are_named_as_shards_and_contain_every_tensor_once(several):
    stored, state = weights_of(several), Wide().state_dict()
    assert list(stored) == [f"model-{number:05}-of-00003.safetensors" for number in (1, 2, 3)]
    names = [name for file in stored.values() for name in file]
    assert sorted(names) == sorted(state), "each tensor once"
    assert all(torch.equal(t, state[name]) for file in stored.values() for name, t in file.items())
    assert all(sum(t.nbytes for t in file.values()) <= LIMIT for file in stored.values())


def test_a_tensor_larger_than_the_limit_is_a_file_of_its_own(tmp_path):
    make(tmp_path, module=Wide(), max_file_bytes=1)
    stored = weights_of(tmp_path / "bundle")
    assert [len(file) for file in stored.values()] == [1] * len(Wide().state_dict())


def test_one_graph_uses_several_files_and_gives_torchs_numbers(several):
    manifest = manifests.read(several)
    assert len(weight_files(graph(several, "filter"))) > 1
    assert check(several, manifest) == [] and manifests.check_files(several, manifest) == []
    assert all(task.verdict != "differs" for task in replay(several, manifest, "cpu"))
    assert read_weights(several, manifest).keys() == Wide().state_dict().keys()


def test_a_weight_that_points_to_the_wrong_one_of_the_files_is_refused(several, tmp_path):
    manifest = manifests.read(several)
    for name in manifest.files:
        (tmp_path / name).write_bytes((several / name).read_bytes())
    model = onnx.load(tmp_path / "filter.onnx", load_external_data=False)
    tensor = next(t for t in model.graph.initializer if t.name == "conv_out.weight")
    location = next(entry for entry in tensor.external_data if entry.key == "location")
    location.value = next(file for file in weights_of(several) if file != location.value)
    (tmp_path / "filter.onnx").write_bytes(model.SerializeToString())
    assert [line for line in check(tmp_path, manifest) if "'conv_out.weight' does not point to a tensor in" in line]


def test_pull_verify_run_and_prune_know_all_the_files(several, tmp_path, home):
    tiny.registry(tmp_path / "registry", several)
    assert zoo("registry", "add", "lab", tmp_path / "registry").code == 0
    pulled = zoo("pull", "small")
    assert pulled.code == 0, pulled.err
    assert zoo("verify", "small").code == 0
    np.save(tmp_path / "in.npy", np.zeros((1, 8, 8, 3), np.uint8))
    ran = zoo("run", "small", "filter", tmp_path / "in.npy", "--out", tmp_path / "out.png")
    assert ran.code == 0, ran.err
    pulled = list((tmp_path / "home").rglob("model-*-of-00003.safetensors"))
    assert len({path.name for path in pulled}) == 3
    assert zoo("rm", "small").code == 0 and zoo("prune").code == 0
    assert not list((tmp_path / "home").rglob("model-*.safetensors"))


@pytest.mark.parametrize("target", ["python", "node"])
def test_an_export_contains_all_the_files(several, tmp_path, monkeypatch, tmp_path_factory, target):
    monkeypatch.setenv("ZOO_HOME", str(tmp_path_factory.getbasetemp() / "zoo-home"))  # one for all: it keeps the probe
    outcome = zoo("export", several, "--target", target, "-o", tmp_path / "shipped")
    assert outcome.code == 0, outcome.err
    assert {path.name for path in (tmp_path / "shipped").rglob("model-*.safetensors")} == set(weights_of(several))


# --- Half precision ---------------------------------------------------------------------------------------------------


def test_large_weights_are_stored_in_half_and_nothing_twice(half):
    [(file, stored)] = weights_of(half).items()
    state = Wide().state_dict()
    assert file == "model.safetensors" and stored.keys() == state.keys()
    narrow = {name for name, tensor in stored.items() if tensor.dtype == torch.float16}
    assert narrow == {"conv_in.weight", "conv_out.weight"}
    assert all(torch.equal(stored[name], t.to(stored[name].dtype)) for name, t in state.items())
    assert manifests.read(half).export.precision == "float16"
    assert set(manifests.read(half).tolerances) == {"float16/cpu", "float16/cuda"}


def test_each_weight_is_widened_in_the_graph_that_uses_it(half):
    """A loop whose weights are widened outside of it would run without ONNX Runtime's packed weights."""
    body = next(
        a.g for node in graph(half, "refine").node if node.op_type == "Loop" for a in node.attribute if a.g.node
    )
    for inner in (graph(half, "filter"), body):
        casts = {node.input[0]: node.output[0] for node in inner.node if node.op_type == "Cast"}
        assert {name for name in casts if name.startswith("conv_")} == {"conv_in.weight", "conv_out.weight"}
        assert {t.name for t in inner.initializer if t.data_type == onnx.TensorProto.FLOAT16} == {
            "conv_in.weight",
            "conv_out.weight",
        }


def test_graphs_give_what_torch_gives_with_the_rounded_weights(half):
    manifest = manifests.read(half)
    assert check(half, manifest) == []
    assert all(task.verdict != "differs" for task in replay(half, manifest, "cpu"))
    assert len(list(graphs_of(graph(half, "refine")))) > 1


def test_half_the_bytes_are_several_files_at_the_same_limit(tmp_path):
    make(tmp_path, module=Wide(), precision="float16", max_file_bytes=LIMIT)
    stored = weights_of(tmp_path / "bundle")
    assert list(stored) == ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]


def test_what_half_precision_cannot_hold_stays_as_it_is():
    net = Wide()
    net.conv_out.weight.data[0, 0, 0, 0] = 70_000
    before = net.conv_out.weight.clone()
    assert round_to_half(net) == {"conv_in.weight"}
    assert torch.equal(net.conv_out.weight, before)


def test_tied_weights_are_rounded_under_each_of_their_names():
    net = Wide()
    net.again = net.conv_in
    assert round_to_half(net) == {"conv_in.weight", "again.weight", "conv_out.weight"}
