"""Graphs on their own: self-contained, plain, fixed as requested; the loop in NumPy draws the same picture."""

import json
import os
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import onnx
import onnxruntime
import pytest
from PIL import Image

from tests.cli.commands import zoo
from tests.graph.test_plain import unusual
from tests.plugins.targets.test_export import rehash
from tests.tiny_tasks import studio
from zoo import load
from zoo.formats import manifest as manifests
from zoo.graph.walk import nodes_of
from zoo.ship import single

FIXED = ("--shape", "batch=1,height=8", "--shape", "width=12", "--constant", "steps=20", "--constant", "size=8x12")


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("ZOO_HOME", str(tmp_path / "home"))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return studio(tmp_path_factory.mktemp("studio") / "studio")


def exported(bundle, out, *words):
    done = zoo("export", bundle, "--target", "onnx", "-o", out, *words)
    assert done.code == 0, done.err
    return out


def shapes(path):
    """Inputs and outputs of a graph on its own."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return {port.name: port.shape for port in (*session.get_inputs(), *session.get_outputs())}


def call(folder, *words, **environment):
    command = [sys.executable, "run.py", *map(str, words)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, env=os.environ | environment)


def pixels(path):
    return np.array(Image.open(path))


# --- Without choices --------------------------------------------------------------------------------------------------


def test_each_task_is_one_file_that_needs_no_other(bundle, tmp_path):
    folder = exported(bundle, tmp_path / "out")
    alone = tmp_path / "alone"
    alone.mkdir()
    for name in ("reconstruct", "encode", "decode", "generate", "classify"):
        (alone / "graph.onnx").write_bytes((folder / f"{name}.onnx").read_bytes())
        assert shapes(alone / "graph.onnx") == shapes(bundle / f"{name}.onnx")
        assert unusual(onnx.load(alone / "graph.onnx")) == set()


@pytest.mark.slow
def test_the_host_gives_the_golden_outputs_in_both_stacks(bundle, tmp_path):
    folder = exported(bundle, tmp_path / "out", *FIXED, "--opset", "17")
    done = zoo("verify", folder, "--run-host", "--json")
    assert done.code == 0, done.err
    (report,) = json.loads(done.out)
    assert "onnxruntime" in report["ran_by"] and "ReferenceEvaluator" in report["ran_by"]
    assert {task["verdict"] for task in report["host"]} <= {"identical", "within"} and len(report["host"]) == 5


def test_a_changed_graph_is_not_run(bundle, tmp_path):
    folder = exported(bundle, tmp_path / "out", *FIXED)
    model = onnx.load(folder / "classify.onnx")
    model.producer_name = "somebody else"
    (folder / "classify.onnx").write_bytes(model.SerializeToString())
    done = zoo("verify", folder, "--run-host")
    assert done.code != 0 and "classify.onnx" in done.out + done.err


def test_graphs_are_checked_before_anything_reads_them(bundle, tmp_path, monkeypatch):
    """What the exporter would write is made from the graphs, which are a stranger's."""
    folder = exported(bundle, tmp_path / "out")
    model = onnx.load(folder / "model/classify.onnx", load_external_data=False)
    model.graph.node[0].domain = "stranger"
    (folder / "model/classify.onnx").write_bytes(model.SerializeToString())
    manifest = manifests.read(folder / "model")
    files = {name: manifests.describe_file(folder / "model" / name) for name in manifest.files}
    (folder / "model/model.yaml").write_bytes(manifests.dump(msgspec.structs.replace(manifest, files=files)))
    rehash(folder)
    monkeypatch.setattr("zoo.ship.single.write_single_files", lambda *arguments, **more: pytest.fail("they were read"))
    done = zoo("verify", folder, "--run-host")
    assert done.code == 5 and "classify.onnx" in done.out and "stranger" in done.out


def test_the_choices_are_recorded(bundle, tmp_path):
    folder = exported(bundle, tmp_path / "out", "--shape", "batch=2", "--opset", "17")
    recorded = json.loads((folder / "export.json").read_bytes())
    assert (recorded["batch"], recorded["opset"]) == (2, 17)


@pytest.mark.parametrize("words", [(), ("--shape", "batch=3")], ids=["as it is", "a fixed batch"])
@pytest.mark.parametrize(
    "operator, says", [("Nothing", "ONNX Runtime refuses"), ("ArgMin", "does not give the golden outputs")]
)
def test_a_file_that_is_wrong_is_not_exported(bundle, tmp_path, monkeypatch, words, operator, says):
    put_inside = single._put_weights_inside

    def put_inside_and_spoil(graph, *arguments):
        put_inside(graph, *arguments)
        (node,) = [node for node in graph.node if node.op_type == "ArgMax"]
        node.op_type = operator

    monkeypatch.setattr(single, "_put_weights_inside", put_inside_and_spoil)
    done = zoo("export", bundle, "--target", "onnx", "-o", tmp_path / "out", "--task", "classify", *words)
    assert done.code == 10 and done.err.count("\n") == 1 and says in done.err and "classify.onnx" in done.err
    assert not (tmp_path / "out").exists()


# --- Choices ----------------------------------------------------------------------------------------------------------


def test_sizes_values_and_opset_are_fixed(bundle, tmp_path):
    folder = exported(bundle, tmp_path / "out", *FIXED, "--opset", "17")
    assert shapes(folder / "encode.onnx") == {"image": [1, 8, 12, 1], "tokens": [1, 2, 3], "size": [2]}
    assert shapes(folder / "decode.onnx") == {"tokens": [1, 2, 3], "image": [1, 8, 12, 1]}
    assert shapes(folder / "generate.onnx").keys() == {"label", "seed", "guidance", "image"}
    opsets = [onnx.load(path).opset_import[0].version for path in folder.glob("*.onnx")]
    assert opsets == 5 * [17]
    decode = onnx.load(folder / "decode.onnx")
    assert "Shape" not in {node.op_type for node in nodes_of(decode.graph)}


@pytest.mark.slow
def test_the_command_line_calls_a_fixed_batch_as_often_as_needed(bundle, tmp_path):
    folder = exported(bundle, tmp_path / "out", "--shape", "batch=2", "--constant", "steps=20")
    done = call(folder, "generate", "--label", "0,1,1", "--seed", "1,2,3", "--out", "image.npy")
    assert done.returncode == 0, done.stderr
    assert np.load(folder / "image.npy")[:, 0, 0, 0].tolist() == [31 + 20, 62 + 7 + 20, 93 + 7 + 20]


REFUSED = {
    "--shape batch=0": "--shape batch=0 must be a number, 1 .. 10,000",
    "--shape batch=10001": "--shape batch=10001 must be a number, 1 .. 10,000",
    "--shape height=9999999999": "--shape height=9999999999 must be a number, 1 .. 2,147,483,647",
    "--shape height=2147483648": "--shape height=2147483648 must be a number, 1 .. 2,147,483,647",
    "--shape depth=3": "--shape 'depth=3' must be NAME=VALUE, with NAME one of batch, columns, height, rows, width",
    "--shape heigth=8": "did you mean 'height'?",
    "--constant label=3": "with NAME one of size, steps",
    "--constant steps=many": "--constant steps=many must be a number, or HEIGHTxWIDTH for a size",
    "--constant steps=99": "steps is 99; it must be 1 .. 50",
    "--shape batch=1,batch=2": "--shape batch=… was given twice; give it once",
    "--shape batch=1 --shape batch=1": "--shape batch=… was given twice; give it once",
    "--constant steps=3 --constant steps=4": "--constant steps=… was given twice; give it once",
    "--constant size=8": "--constant size=8 must be",
    "--shape height=4": "at least 8",
    "--shape height=2000000000": "image is 8x2000000000, 16,000,000,000 pixels; it may have at most 10,000",
    "--shape batch=10000,height=96,width=96 --shape rows=2000000000": "tokens has 2,000,000,000 x 1 values; it may",
    "--shape batch=10000,rows=600,columns=600": "tokens of a batch of 10,000 has 3,600,000,000 values; it may have at",
    "--opset 16": "16 is not in the range 17<=x<=18",
}


@pytest.mark.parametrize("words, says", REFUSED.items(), ids=REFUSED)
def test_a_choice_that_cannot_be_is_one_line(bundle, tmp_path, words, says):
    done = zoo("export", bundle, "--target", "onnx", "-o", tmp_path / "out", *words.split())
    assert done.code != 0 and says in done.err and "Traceback" not in done.err
    assert not (tmp_path / "out").exists()


def test_other_targets_take_no_choices(bundle, tmp_path):
    done = zoo("export", bundle, "--target", "python", "-o", tmp_path / "out", "--opset", "17")
    assert (done.code, "python takes graphs as they are; --target onnx can fix" in done.err) == (2, True)


# --- A sampler --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sampler(tmp_path_factory):
    place = tmp_path_factory.mktemp("sampler")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ZOO_HOME", str(place / "home"))
        words = ("--no-loop", "--shape", "batch=1", "--constant", "steps=4", "--opset", "17")
        return exported("ddpm-fashion", place / "out", *words)


@pytest.mark.slow
def test_a_sampler_has_neither_loop_nor_noise(sampler):
    names = {path.stem for path in sampler.glob("*.onnx")}
    assert names == {"generate_begin", "generate_step", "generate_end"}
    for name in names:
        model = onnx.load(sampler / f"{name}.onnx")
        operators = {node.op_type for node in nodes_of(model.graph)}
        assert unusual(model) == set() and model.opset_import[0].version == 17
        assert not operators & {"Loop", "Shape", "DepthToSpace", "Range", "ConstantOfShape"}
    assert shapes(sampler / "generate_begin.onnx")["noise"] == [1, 1, 28, 28]


@pytest.mark.slow
@pytest.mark.parametrize("stack", ["onnxruntime", "reference"])
def test_the_loop_in_numpy_draws_the_same_picture(sampler, stack, tmp_path):
    done = call(sampler, "generate", "--seed", "7,8", "--label", "3", "--out", tmp_path / "a.png", ONNX_STACK=stack)
    assert done.returncode == 0, done.stderr
    expected = load("ddpm-fashion").run("generate", seed=[7, 8], label=3, steps=4)["image"].reshape(-1, 28)
    apart = abs(pixels(tmp_path / "a.png").astype(int) - expected)
    assert apart.max() <= 1 and (apart == 0).mean() > 0.99 and expected.std() > 20


@pytest.mark.slow
def test_the_golden_cases_of_its_parts_replay(sampler):
    done = zoo("verify", sampler, "--run-host")
    assert done.code == 0, done.err
    assert "generate_step" in done.out


@pytest.mark.slow
def test_a_task_that_only_loops_is_refused_with_the_reason(tmp_path):
    done = zoo("export", "vqvae-fashion", "--target", "onnx", "-o", tmp_path / "o", "--no-loop", "--task", "generate")
    assert done.code == 10 and "Loop" in done.err
    assert not Path(tmp_path / "o").exists()
