"""From module to bundle, and every way in which it must not become one."""

import re
from collections import Counter
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from tests.build import families
from tests.build.families import CODEC, FILTER, IMAGE, REFINE, Filter, Loaded, Net, task
from zoo.build import export, golden, tracing
from zoo.build.export import export_bundle, update_bundle
from zoo.build.golden import Plan
from zoo.build.loop import while_loop
from zoo.errors import ExportError, UsageError
from zoo.formats import manifest as manifests
from zoo.formats.golden import read_cases
from zoo.formats.manifest import Training
from zoo.graph.check import check
from zoo.graph.walk import graphs_of
from zoo.hookspecs import Metric, Port
from zoo.names import GOLDEN
from zoo.run.replay import replay

pytestmark = pytest.mark.slow  # tracing takes torch a second or more


def make(folder: Path, tasks=FILTER, *, module: nn.Module | None = None, weights=("model",), **fields):
    return export_bundle(
        out=folder / "bundle",
        name="small",
        version=1,
        family="small",
        loaded=Loaded(tasks, weights),
        config={"width": 4},
        module=Net() if module is None else module,
        summary="A small model",
        license="Apache-2.0",
        training=Training(command="zoo train small", steps=3),
        **fields,
    )


def fails(folder: Path, tasks=FILTER, **fields) -> str:
    """The message of a failing export, which leaves nothing behind."""
    with pytest.raises(ExportError) as e:
        make(folder, tasks, **fields)
    assert list(folder.iterdir()) == []
    return str(e.value)


def one(forward, *, outputs=None) -> dict:
    """A family of one task, `try`, that computes `forward(net, image)`."""

    class Module(nn.Module):
        def __init__(self, net: nn.Module):
            super().__init__()
            self.net = net

        def forward(self, image: Tensor):
            return forward(self.net, image)

    return {"try": (task({"image": IMAGE}, outputs or {"result": IMAGE}), Module)}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A bundle of all the small tasks, exported once, and what was told meanwhile."""
    folder, lines = tmp_path_factory.mktemp("whole"), []
    make(folder, FILTER | CODEC | REFINE, on_progress=lines.append, classes=("cat", "dog"))
    return folder / "bundle", lines


def graph(folder: Path, name: str) -> onnx.ModelProto:
    return onnx.load(folder / f"{name}.onnx", load_external_data=False)


def test_a_bundle_is_complete_and_right(whole):
    folder, lines = whole
    manifest = manifests.read(folder)
    assert sorted(manifest.files) == sorted(p.name for p in folder.iterdir() if p.name != "model.yaml")
    assert manifests.check_files(folder, manifest) == [] and check(folder, manifest) == []
    assert {r.task: r.verdict != "differs" for r in replay(folder, manifest, "cpu")} == dict.fromkeys(
        manifest.tasks, True
    )
    assert (manifest.export.opset, manifest.export.ir_version) == (18, 8)
    assert manifest.classes == ("cat", "dog") and manifest.config == {"width": 4}
    assert lines == ["traced filter", "traced decode", "traced encode", "traced refine", "comparing with torch"]
    assert [p.stat().st_mode & 0o777 for p in folder.iterdir()] == [0o644] * len(list(folder.iterdir()))


def test_weights_exist_once_under_their_own_names(whole):
    folder, _ = whole
    state = Net().state_dict()
    stored = load_file(folder / "model.safetensors")
    assert stored.keys() == state.keys()
    assert all(torch.equal(stored[name], tensor) for name, tensor in state.items())

    def outside(graph: onnx.GraphProto) -> set[str]:
        assert all(len(t.raw_data) < 100 for t in graph.initializer)
        found = {t.name for t in graph.initializer if t.external_data}
        return found.union(*(outside(a.g) for node in graph.node for a in node.attribute if a.HasField("g")))

    convolutions = {"conv_in.weight", "conv_in.bias", "conv_out.weight", "conv_out.bias"}
    used = {name: outside(graph(folder, name).graph) for name in ("filter", "encode", "decode", "refine")}
    assert used["filter"] == convolutions
    assert used["encode"] == {"conv_in.weight", "conv_in.bias", "codebook"}
    assert used["decode"] == {"conv_out.weight", "conv_out.bias", "codebook"}
    assert used["refine"] == convolutions | {"table"}


def test_a_loops_weights_lie_in_its_body(whole):
    model = graph(whole[0], "refine")
    [loop] = [node for node in model.graph.node if node.op_type == "Loop"]
    assert {t.name for t in loop.attribute[0].g.initializer} >= {"conv_in.weight", "conv_out.weight", "table"}
    assert not [t for t in model.graph.initializer if t.external_data]


def test_no_graph_tells_sizes_of_what_is_inside(whole):
    """The tracer's names of sizes kept ONNX Runtime from computing in place in a loop's body."""
    assert not [g.name for g in graphs_of(graph(whole[0], "refine").graph) if g.value_info]


def test_nothing_is_computed_or_held_twice_in_a_loop(tmp_path):
    """The optimiser's pass that merges what is doubled leaves loops' bodies out."""

    def forward(net, image):
        def body(i, x):
            return i + 1, torch.sigmoid(x * (torch.arange(3) + 1)) / torch.sigmoid(x * (torch.arange(3) + 1))

        return while_loop(lambda i, x: i < 3, body, (torch.zeros((), dtype=torch.int64), image.float()))[1]

    make(tmp_path, one(forward, outputs={"result": Port(kind="tensor", dtype="float32", shape=IMAGE.shape)}))
    *_, body = graphs_of(graph(tmp_path / "bundle", "try").graph)
    counted = Counter(node.op_type for node in body.node)
    assert counted["Sigmoid"] == counted["Mul"] == 1
    assert not counted.keys() & {"Range", "CastLike", "Cast", "Identity"}  # arange(3) + 1 is three numbers,
    assert [onnx.numpy_helper.to_array(t).tolist() for t in body.initializer if list(t.dims) == [3]] == [[1, 2, 3]]


def test_ports_keep_names_and_order_and_nothing_of_this_machine(whole):
    model = graph(whole[0], "refine")
    assert [v.name for v in model.graph.input] == ["image", "steps"]
    assert [d.dim_param or d.dim_value for d in model.graph.output[0].type.tensor_type.shape.dim] == list(IMAGE.shape)
    for path in whole[0].iterdir():
        content = path.read_bytes()
        assert str(Path.home()).encode() not in content and b"site-packages" not in content and b".py" not in content


def test_other_batches_and_sizes_than_the_traced(whole):
    cases = read_cases(whole[0] / GOLDEN, manifests.read(whole[0]))
    assert {case.inputs["image"].shape[0] for case in cases["filter"]} == {1, 2, 3, 5}
    sizes = {case.inputs["image"].shape[1:3] for case in cases["filter"]}
    assert (4, 4) in sizes and len(sizes) == 4


def test_decode_is_fed_with_what_encode_gave(whole):
    cases = read_cases(whole[0] / GOLDEN, manifests.read(whole[0]))
    for encode, decode in zip(cases["encode"], cases["decode"], strict=True):
        assert np.array_equal(encode.outputs["tokens"], decode.inputs["tokens"])


def test_golden_tokens_are_clear_of_ties(whole):
    cases = read_cases(whole[0] / GOLDEN, manifests.read(whole[0]))
    encode = families.Encode(Net())
    with torch.no_grad():
        assert all(encode.margins(torch.from_numpy(c.inputs["image"])).min() > 2e-3 for c in cases["encode"])


def test_the_same_weights_give_the_same_bundle(tmp_path):
    for folder in (tmp_path / "a", tmp_path / "b"):
        make(folder, REFINE)
    for path in (tmp_path / "a" / "bundle").iterdir():
        assert (tmp_path / "b" / "bundle" / path.name).read_bytes() == path.read_bytes(), path.name


def test_an_existing_folder_is_refused_and_kept(tmp_path):
    (tmp_path / "bundle").mkdir()
    with pytest.raises(UsageError, match="bundle exists; choose another folder"):
        make(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["bundle"]


def test_a_graph_with_other_weights_fails_with_a_table(tmp_path, monkeypatch):
    """The guard of all guards: were the comparison left out, this bundle would be written."""
    prove = export._prove

    def perturb_then_prove(folder, manifest, modules, on_progress):
        weights = load_file(folder / "model.safetensors")
        weights["conv_out.bias"] += 0.1
        from safetensors.torch import save_file

        save_file(weights, folder / "model.safetensors")
        prove(folder, manifest, modules, on_progress)

    monkeypatch.setattr(export, "_prove", perturb_then_prove)
    message = fails(tmp_path)
    assert message.splitlines()[0] == "the graphs do not give torch's numbers; no bundle was written"
    assert message.splitlines()[1].split() == ["task", "output", "ONNX", "Runtime", "compared", "with", "torch", "code"]
    assert message.splitlines()[2].startswith("filter  filtered  ") and ", worst " in message.splitlines()[2]
    assert "(case " in message and re.search(r" tests/build/families\.py:\d+$", message, re.MULTILINE)
    last = message.splitlines()[-1]
    assert re.fullmatch(r"filter: the first value that differs: filtered \[.*\] is \d+, torch gives \d+", last)


def test_a_batch_of_one_at_tracing_is_caught(tmp_path, monkeypatch):
    monkeypatch.setattr(tracing, "TRACE", Plan(1, 13, 18))
    assert fails(tmp_path).startswith("torch cannot trace the task 'filter': ")


@pytest.mark.parametrize("frozen", ["batch", "height"])
def test_a_size_that_the_module_froze_is_caught(tmp_path, frozen):
    def forward(net, image):
        n, h = (2, image.shape[1]) if frozen == "batch" else (image.shape[0], 13)
        return Filter(net)(image.reshape(n, h, image.shape[2], 3))

    message = fails(tmp_path, one(forward))
    assert message.startswith("torch cannot trace the task 'try': ") or "as if it were fixed" in message


def test_a_size_frozen_without_a_word_is_caught(tmp_path):
    """int(...) of a shape's value is a constant to the tracer: the graph runs, at the traced size alone."""

    def forward(net, image):
        rows = torch.ones(int(np.int64(image.shape[0])), 1, 1, 1)
        return to_levels(rows * net.table[0]) + image

    def to_levels(x):
        return x.to(torch.uint8)

    fails(tmp_path, one(forward))


def test_a_constant_that_was_copied_out_of_the_model(tmp_path):
    class Copying(Filter):
        def __init__(self, net):
            super().__init__(net)
            self.big = torch.randn(80, 80)

        def forward(self, image):
            return (super().forward(image).float() + self.big.sum() * 0).to(torch.uint8)

    tasks = {"filter": (FILTER["filter"][0], Copying)}
    message = fails(tmp_path, tasks)
    assert "the task 'filter' contains a constant [80, 80] of 25,600 bytes, not a tensor of the model" in message


def test_a_weight_is_not_folded_into_a_turned_copy(tmp_path):
    class Wide(Net):
        def __init__(self):
            super().__init__()
            self.mix = nn.Linear(3, 3, bias=False)

    make(tmp_path, one(lambda net, image: (image.float() @ net.mix.weight.t() * 0.1).to(torch.uint8)), module=Wide())
    model = graph(tmp_path / "bundle", "try")
    assert [t.name for t in model.graph.initializer if t.external_data] == ["mix.weight"]


def test_tied_weights_load_again_and_are_named_once(tmp_path):
    class Tied(Net):
        def __init__(self):
            super().__init__()
            self.again = self.conv_in

    make(tmp_path, module=Tied())
    assert set(load_file(tmp_path / "bundle" / "model.safetensors")) == set(Tied().state_dict())
    names = [t.name for t in graph(tmp_path / "bundle", "filter").graph.initializer if t.external_data]
    assert sorted(names) == ["conv_in.bias", "conv_in.weight", "conv_out.bias", "conv_out.weight"]


def test_one_file_of_weights_a_submodule(tmp_path):
    module = nn.ModuleDict({"codec": Net(), "prior": Net()})
    tasks = {"filter": (FILTER["filter"][0], lambda m: Filter(m["codec"]))}
    manifest = make(tmp_path, tasks, module=module, weights=("codec", "prior"))
    assert {"codec.safetensors", "prior.safetensors"} <= manifest.files.keys()
    assert set(load_file(tmp_path / "bundle" / "prior.safetensors")) == {f"prior.{n}" for n in Net().state_dict()}
    locations = {
        e.value for t in graph(tmp_path / "bundle", "filter").graph.initializer for e in t.external_data
        if e.key == "location"
    }  # fmt: skip
    assert locations == {"codec.safetensors"}


def test_a_tensor_that_no_file_takes(tmp_path):
    module = nn.ModuleDict({"codec": Net(), "prior": Net()})
    tasks = {"filter": (FILTER["filter"][0], lambda m: Filter(m["codec"]))}
    message = fails(tmp_path, tasks, module=module, weights=("codec",))
    assert message == "the tensor 'prior.codebook' does not belong to any of the weight files codec"


def test_weights_that_hold_nan(tmp_path):
    net = Net()
    net.conv_out.weight.data[0, 0, 1, 1] = torch.nan
    assert "the tensor 'conv_out.weight' contains NaN" in fails(tmp_path, module=net)


def test_a_name_that_is_input_and_output(tmp_path):
    message = fails(tmp_path, one(lambda net, image: image, outputs={"image": IMAGE}))
    assert "the task 'try' has 'image' as both input and output" in message


def test_outputs_that_are_not_the_ports(tmp_path):
    message = fails(tmp_path, one(lambda net, image: (image + 1, image + 2)))
    assert "'try'" in message
    float_out = one(lambda net, image: image.float() + 1)
    message = fails(tmp_path, float_out)
    assert message.startswith("'result' of 'try' is float32; its port says uint8 (tests/build/test_export.py:")
    assert message.endswith("); docs/contract.md#build_task says what a task is")
    flat = one(lambda net, image: image.flatten(1) + 1)
    assert "has 2 dimensions; its port says 4" in fails(tmp_path, flat)
    grey = one(lambda net, image: image[..., :1] + 1)
    assert "axis 3 of the output or input 'result' of 'try' came out as 1; its port says 3" in fails(tmp_path, grey)


def test_a_module_that_raises(tmp_path):
    def forward(net, image):
        raise ValueError("no such thing\nas this")

    line = forward.__code__.co_firstlineno + 1
    assert fails(tmp_path, one(forward)) == (
        f"torch cannot trace the task 'try': no such thing (tests/build/test_export.py:{line}); "
        "docs/contract.md#build_task says what a task is"
    )


class Bessel(nn.Module):
    """An operator that has no ONNX form, three lines into `forward`."""

    def forward(self, image: Tensor) -> Tensor:
        levels = image.float()
        levels = levels / 2
        levels = torch.special.bessel_j0(levels)
        return levels.to(torch.uint8)


class BesselInLoop(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = Bessel()

    def forward(self, image: Tensor) -> Tensor:
        def step(i: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
            return i + 1, self.inner(x)

        return torch.while_loop(lambda i, x: i < 3, step, (torch.zeros((), dtype=torch.int64), image))[1]


@pytest.mark.parametrize(("module", "below"), [(Bessel, 3), (BesselInLoop, 4)])
def test_an_operator_without_an_onnx_form_is_named_with_its_line(tmp_path, module, below):
    """Torch says so in colour, in the middle of many lines. Of a loop's body it knows where the loop is."""
    line = module.forward.__code__.co_firstlineno + below
    tasks = {"try": (task({"image": IMAGE}, {"result": IMAGE}), lambda net: module())}
    assert fails(tmp_path, tasks) == (
        "torch cannot trace the task 'try': the operator prims.bessel_j0 has no ONNX form up to opset 18: use others "
        f"(tests/build/test_export.py:{line}); docs/contract.md#build_task says what a task is"
    )


def test_a_branch_on_a_value_is_one_line(tmp_path):
    def forward(net, image):
        return image + 1 if image.float().mean() > 3 else image + 2

    message = fails(tmp_path, one(forward))
    assert "\n" not in message and "\x1b" not in message and "x1b" not in message
    assert f"(tests/build/test_export.py:{forward.__code__.co_firstlineno + 1})" in message
    assert "use torch.where, or zoo.build.loop.while_loop" in message


def test_random_operators_are_refused(tmp_path):
    def forward(net, image):
        return (image.float() + torch.rand_like(image.float())).to(torch.uint8)

    assert "try.onnx: uses Random" in fails(tmp_path, one(forward))


def test_an_interrupt_leaves_nothing(tmp_path, monkeypatch):
    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(export, "write_cases", interrupt)
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_it_is_silent(tmp_path, capfd):
    make(tmp_path)
    assert capfd.readouterr() == ("", "")


def test_codes_that_tie_make_a_bundle_that_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(golden, "MAX_DRAWS", 3)
    net = Net()
    net.codebook[1] = net.codebook[0]
    net.codebook[2:] = 100
    said: list[str] = []
    manifest = make(tmp_path, CODEC, module=net, on_progress=said.append)
    said_of_ties = "encode: choices tie in every golden case, so it is only checked that most elements agree"
    assert f"{said_of_ties}; docs/contract.md#build_task explains margins" in said
    for case in read_cases(tmp_path / "bundle" / GOLDEN, manifest)["encode"]:
        assert (case.margins == 0).all() and case.margins.shape == case.inputs["image"].shape[:1]


def test_updating_a_bundle(tmp_path):
    manifest = make(tmp_path)
    folder = tmp_path / "bundle"
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    metric = Metric(name="psnr", value=23.5, unit="dB", better="higher", command="zoo eval small")
    updated = update_bundle(folder, msgspec.structs.replace(manifest, metrics=(metric,)))
    assert manifests.read(folder) == updated and updated.metrics == (metric,)
    assert manifests.check_files(folder, updated) == []
    assert "psnr" in (folder / "README.md").read_text()
    changed = {p.name for p in folder.iterdir() if p.read_bytes() != before.get(p.name)}
    assert changed == {"README.md", "model.yaml"}


def test_label_seed_and_scalar_ports(tmp_path):
    inputs = {
        "label": Port(kind="label", dtype="int64", shape=("batch",), minimum=-1, maximum=1, classes=("cat", "dog")),
        "seed": Port(kind="seed", dtype="int64", shape=("batch",)),
        "guidance": Port(kind="scalar", dtype="float32", shape=("batch",), minimum=0, maximum=9, default=3),
    }
    outputs = {"score": Port(kind="tensor", dtype="float32", shape=("batch", 4))}

    class Score(Filter):
        def forward(self, label, seed, guidance):
            return self.net.codebook.index_select(0, label + 1) * guidance.unsqueeze(1) + (seed % 7).unsqueeze(1)

    make(tmp_path, {"try": (task(inputs, outputs), Score)})
    for case in read_cases(tmp_path / "bundle" / GOLDEN, manifests.read(tmp_path / "bundle"))["try"]:
        values = case.inputs
        assert values["label"].min() >= -1 and values["label"].max() <= 1
        assert values["seed"].min() >= 0 and values["seed"].max() < 2**53
        assert values["guidance"].min() >= 0 and values["guidance"].max() <= 9


def test_a_loop_is_followed_further_than_its_golden_cases(tmp_path):
    manifest = make(tmp_path, REFINE)
    curve = manifest.export.drift["refine"]
    assert [d.count for d in curve] == [1, 2, 5, 10, 20, 50]
    assert all(d.worst <= 1 and d.share_equal > 0.999 for d in curve)
    assert manifests.check_files(tmp_path / "bundle", manifest) == []
    assert "Drift of `refine` from torch" in (tmp_path / "bundle" / "README.md").read_text()


def test_a_loop_that_drifts_is_no_bundle(tmp_path):
    class Drifts(REFINE["refine"][1]):
        def forward(self, image: Tensor, steps: Tensor) -> Tensor:
            refined = super().forward(image, steps)
            # Right for as many steps as golden cases have, then not what torch computes.
            off = torch.where(steps > 15, 9, 0).to(torch.uint8) * int(torch.compiler.is_compiling())
            return torch.bitwise_xor(refined, off)

    message = fails(tmp_path, {"refine": (REFINE["refine"][0], Drifts)})
    assert message.startswith("'refined' of 'refine' drifts from torch: ") and message.endswith("at steps 20")
