"""Smaller bundles: what is stored, that loops are reached, and what a loss does."""

import json

import numpy as np
import onnx
import pytest

from tests import tiny
from tests.cli.commands import zoo
from tests.trainers import drawings
from zoo.errors import ExportError, UsageError
from zoo.formats.golden import Case
from zoo.graph.check import check
from zoo.hookspecs import Metric
from zoo.media import tensors
from zoo.run.model import Model
from zoo.run.replay import replay
from zoo.ship import fp16, int8, precision, products
from zoo.ship.products import Seen
from zoo.store.locate import locate


@pytest.fixture(scope="module")
def pictures():
    return drawings(32, size=28).images


@pytest.fixture(scope="module", params=["fp16", "fp16 for a GPU", "int8"])
def lighter(request, tmp_path_factory, pictures):
    folder, word = tmp_path_factory.mktemp("lighter") / "model", request.param.split()[0]
    return precision.lighten(locate("vqvae-fashion:1"), word, folder, pictures, half=request.param != word)


def computes_in_half(bundle):
    """Whether some product does; the bundle's own inputs and outputs have other types."""
    graph = onnx.load(bundle.folder / "decode.onnx", load_external_data=False).graph
    return any(node.op_type == "Conv" and node.output[0].endswith(".half") for node in graph.node)


def test_pictures_stay_right_where_a_stack_rounds_in_half_precision(pictures, tmp_path):
    lighter = precision.lighten(locate("vqvae-fashion:1"), "fp16", tmp_path / "half", pictures, half=True)
    stored = precision.lighten(locate("vqvae-fashion:1"), "fp16", tmp_path / "stored", pictures)
    assert computes_in_half(lighter) and not computes_in_half(stored)
    as_on_a_gpu = Model(precision.rounded(lighter, tmp_path / "rounded"), "cpu").reconstruct(image=pictures)
    here = Model(lighter, "cpu").reconstruct(image=pictures)
    off = np.abs(as_on_a_gpu["reconstruction"].astype(int) - here["reconstruction"])
    assert 0 < off.mean() < 0.5 and here["reconstruction"].max() > 128


def test_it_is_a_bundle_of_its_own(lighter):
    assert check(lighter.folder, lighter.manifest) == []
    assert {task.verdict for task in replay(lighter.folder, lighter.manifest, "cpu")} == {"identical"}
    assert lighter.manifest.export.precision in ("float16", "int8")
    assert set(lighter.manifest.tolerances) == {f"{lighter.manifest.export.precision}/{p}" for p in ("cpu", "cuda")}


def test_it_is_at_most_half_as_large(lighter):
    whole = locate("vqvae-fashion:1").manifest.files["codec.safetensors"].size
    assert lighter.manifest.files["codec.safetensors"].size < 0.56 * whole


def test_its_pictures_are_nearly_those_of_float32(lighter, pictures):
    exact = Model(locate("vqvae-fashion:1"), "cpu").reconstruct(image=pictures)["reconstruction"].astype(int)
    near = Model(lighter, "cpu").reconstruct(image=pictures)["reconstruction"].astype(int)
    bound = {"float16": 0.5, "int8": 4.0}[lighter.manifest.export.precision]
    assert 0 < np.abs(near - exact).mean() < bound and near.max() > 128


def test_a_smaller_model_is_not_made_smaller_again(lighter, tmp_path, pictures):
    with pytest.raises(UsageError, match="; export the float32 model"):
        precision.lighten(lighter, "int8", tmp_path / "again", pictures)


# --- Graphs -----------------------------------------------------------------------------------------------------------


def looping():
    """x goes `steps` times through x = w x / 2: a weight that lies in a loop's body."""
    text = """<ir_version: 8, opset_import: ["" : 18]> g (int64 steps, float[1,32] x) => (float[1,32] z)
      <bool go = {1}> { z = Loop(steps, go, x) <body = b (int64 i, bool c, float[1,32] x0) => (bool d, float[1,32] y)
        <float half = {0.5}> { d = Identity(c) s = MatMul(x0, w) y = Mul(s, half) }> }"""
    model = onnx.parser.parse_model(text)
    tensor = onnx.TensorProto(name="w", data_type=1, dims=[32, 32], data_location=onnx.TensorProto.EXTERNAL)
    model.graph.node[0].attribute[0].g.initializer.append(tensor)
    return model, {"w": np.random.default_rng(0).normal(size=(32, 32)).astype(np.float32) / 3}


def run(model, arrays, folder, **inputs):
    from zoo.runtime import open_session

    tensors.save(folder / "model.safetensors", arrays)
    header = tensors.read_header(folder / "model.safetensors")
    products.point_at(model.graph, {name: ("model.safetensors", found) for name, found in header.items()})
    (folder / "g.onnx").write_bytes(model.SerializeToString())
    return open_session(folder / "g.onnx", "cpu").run(inputs)


def by_hand(x, w, steps):
    seen = [x]
    for _ in range(steps):
        seen.append(seen[-1] @ w / 2)
    return seen


def test_ranges_are_those_of_all_steps_of_a_loop(tmp_path):
    model, arrays = looping()
    fit = int8.quantizable([model.graph], arrays)
    assert fit == {"w"}
    names = products.activations(model.graph, arrays, fit)
    watched = products.watching(model, names)
    x = np.random.default_rng(1).normal(size=(1, 32)).astype(np.float32)
    outputs = run(watched, arrays, tmp_path, steps=np.array(3), x=x)
    seen = np.concatenate(by_hand(x, arrays["w"], 3)[:3])
    assert names == ["x0", "s"]
    np.testing.assert_allclose(outputs["x0.ReduceMin"], seen.min(), rtol=1e-5)
    np.testing.assert_allclose(outputs["x0.ReduceMax"], seen.max(), rtol=1e-5)
    np.testing.assert_allclose(outputs["x0.ReduceMean"], np.square(seen).mean(), rtol=1e-5)


def test_a_part_of_a_loop_has_the_ranges_of_the_whole():
    bundle = locate("ddpm-fashion")
    arrays = tensors.load(bundle.folder / "model.safetensors")
    whole, step, begin = (
        onnx.load(bundle.folder / f"{name}.onnx", load_external_data=False)
        for name in ("generate", "generate_step", "generate_begin")
    )
    fit = int8.quantizable([whole.graph, step.graph], arrays)
    names = products.activations(whole.graph, arrays, fit)
    ranges = {name: Seen(-1.0 - i, 1.0 + i, 1.0) for i, name in enumerate(names)}
    found = products.ranges_of_part(step, whole, ranges, arrays, fit)
    assert set(found) == set(products.activations(step.graph, arrays, fit)) and set(found.values()) <= set(
        ranges.values()
    )

    def last(graph):
        return next(node for node in reversed(graph.node) if node.op_type == "Conv").input[0]

    body = next(node for node in whole.graph.node if node.op_type == "Loop").attribute[0].g
    assert found[last(step.graph)] == ranges[last(body)]
    assert products.ranges_of_part(begin, whole, ranges, arrays, fit) is None  # no products: another computation


def test_inputs_of_every_task_are_made_of_pictures(pictures):
    bundle = locate("ddpm-fashion")
    inputs = precision.Calibration(bundle, pictures)
    for name, task in bundle.manifest.tasks.items():
        if task.part_of:
            continue
        calls = inputs.of(name)
        assert len(calls) == precision.DRAWN_BATCHES and calls[0].keys() == task.inputs.keys()
        if "image" in task.inputs:
            assert calls[0]["image"].shape == (16, *task.inputs["image"].shape[1:]), name
    small = inputs.of("upscale2")[0]["image"].astype(int)
    np.testing.assert_allclose(small[0, 0, 0], pictures[0, :2, :2].mean(axis=(0, 1)), atol=0.5)


def test_a_loop_s_products_are_quantized(tmp_path):
    model, arrays = looping()
    x = np.random.default_rng(1).normal(size=(1, 32)).astype(np.float32)
    exact = by_hand(x, arrays["w"], 3)
    int8.quantize(model.graph, arrays, {"w"}, {"x0": Seen(min(map(np.min, exact)), max(map(np.max, exact)), 1.0)})
    assert arrays["w"].dtype == np.int8 and np.abs(arrays["w"]).max() == 63
    off = run(model, arrays, tmp_path, steps=np.array(3), x=x)["z"] - exact[3]
    assert 0 < np.abs(off).max() < 0.1 * np.abs(exact[3]).max()


def linear(other=""):
    """x times a weight that is read transposed, as torch exports a linear layer over a sequence."""
    text = f"""<ir_version: 8, opset_import: ["" : 18]> g (float[1,4,32] x) => (float[1,4,16] z)
      {{ t = Transpose<perm = [1, 0]>(w) z = MatMul(x, t) {other} }}"""
    model = onnx.parser.parse_model(text)
    model.graph.initializer.append(
        onnx.TensorProto(name="w", data_type=1, dims=[16, 32], data_location=onnx.TensorProto.EXTERNAL)
    )
    return model, {"w": np.random.default_rng(0).normal(size=(16, 32)).astype(np.float32)}


def test_a_weight_that_is_read_transposed_is_stored_so(tmp_path):
    x = np.random.default_rng(1).normal(size=(1, 4, 32)).astype(np.float32)
    model, arrays = linear()
    exact = x @ arrays["w"].T
    products.fold_transposes([model.graph], arrays)
    assert [node.op_type for node in model.graph.node] == ["MatMul"]
    assert int8.quantizable([model.graph], arrays) == {"w.transposed"}  # another name: it is another array
    np.testing.assert_allclose(run(model, arrays, tmp_path, x=x)["z"], exact, rtol=1e-5, atol=1e-5)
    model, arrays = linear("other = Neg(w)")
    products.fold_transposes([model.graph], arrays)
    assert arrays["w"].shape == (16, 32) and len(model.graph.node) == 3


def test_a_weight_that_something_else_reads_stays(tmp_path):
    model, arrays = looping()
    other = """<ir_version: 8, opset_import: ["" : 18]> o (int64 i) => (float[32] r) { r = Gather(w, i) }"""
    assert int8.quantizable([model.graph, onnx.parser.parse_model(other).graph], arrays) == set()


def test_half_precision_keeps_what_it_cannot_hold(tmp_path):
    model, arrays = looping()
    arrays["w"][0, 0] = 1e6  # over 65504: infinity, and a black picture
    fp16.halve(model.graph, arrays)
    assert arrays["w"].dtype == np.float32
    model, arrays = looping()
    x = np.ones((1, 32), np.float32)
    exact = by_hand(x, arrays["w"], 2)[2]
    fp16.halve(model.graph, arrays)
    assert arrays["w"].dtype == np.float16
    np.testing.assert_allclose(run(model, arrays, tmp_path, steps=np.array(2), x=x)["z"], exact, rtol=0.02, atol=0.01)


SMALL = Seen(0.0, 1.0, 0.3)


def test_a_product_whose_input_has_a_few_values_far_beyond_the_rest_keeps_float32():
    model, arrays = looping()
    even = Seen(-1.0, 1.0, 1 / 3)  # 47 dB
    assert int8.delicate(model.graph, arrays, {"w"}, {"x0": even}) == set()
    assert int8.delicate(model.graph, arrays, {"w"}, {"x0": even._replace(high=30.0)}) == {"w"}
    assert int8.delicate(model.graph, arrays, {"w"}, {"x0": even._replace(power=float("nan"))}) == {"w"}


def overflowing():
    """A picture out of x in a loop's body: one product goes over 65504, and what follows scales it down again."""
    text = """<ir_version: 8, opset_import: ["" : 18]> g (int64 steps, float[1,32] x) => (float[1,32] z)
      <bool go = {1}> { z = Loop(steps, go, x) <body = b (int64 i, bool c, float[1,32] x0) => (bool d, float[1,32] y)
        <float small = {0.00001}> {
          d = Identity(c) a = MatMul(x0, first) b = Gemm(a, second, bias) s = MatMul(b, up) y = Mul(s, small) }> }"""
    model = onnx.parser.parse_model(text)
    random = np.random.default_rng(0)
    arrays = {name: random.uniform(0, 0.1, (32, 32)).astype(np.float32) for name in ("first", "second")}
    arrays |= {"up": random.uniform(1e4, 3e4, (32, 32)).astype(np.float32), "bias": np.full(32, 0.1, np.float32)}
    for name, array in arrays.items():
        tensor = onnx.TensorProto(name=name, data_type=1, dims=array.shape, data_location=onnx.TensorProto.EXTERNAL)
        model.graph.node[0].attribute[0].g.initializer.append(tensor)
    return model, arrays


def seen_ranges(model, arrays, folder, **inputs):
    names = products.activations(model.graph, arrays, fp16.halvable(arrays))
    outputs = run(products.watching(model, names), arrays, folder, **inputs)
    return {name: Seen(*(float(outputs[f"{name}.{kind}"]) for kind in products.WATCHES)) for name in names}


def test_a_product_that_overflows_half_precision_keeps_float32(tmp_path):
    inputs = {"steps": np.array(2), "x": np.ones((1, 32), np.float32)}
    exact = run(*overflowing(), tmp_path, **inputs)["z"]
    model, arrays = overflowing()
    ranges = seen_ranges(model, arrays, tmp_path, **inputs)
    assert ranges["s"][1] > 65504 and np.isfinite(exact).all()
    assert fp16.halve(model.graph, arrays, ranges) == (2, ["up"])
    fp16.round_in_half(model.graph)
    z = run(model, arrays, tmp_path, **inputs)["z"]
    assert 0 < np.abs(z - exact).max() < 0.005 * np.abs(exact).max()

    # The same without the guard: infinity, which is a white or a black picture.
    model, arrays = overflowing()
    assert fp16.halve(model.graph, arrays, dict.fromkeys(ranges, SMALL)) == (3, [])
    fp16.round_in_half(model.graph)
    assert not np.isfinite(run(model, arrays, tmp_path, **inputs)["z"]).any()


def test_a_picture_of_what_overflowed_is_refused():
    ranges = dict.fromkeys(["x0", "a", "b", "s"], SMALL)
    for at_s, fine in ((SMALL, False), (Seen(0.0, 1e6, 1e10), True)):
        model, arrays = overflowing()
        model.graph.node.append(onnx.helper.make_node("Cast", ["z"], ["picture"], to=onnx.TensorProto.UINT8))
        model.graph.output[0].CopyFrom(onnx.helper.make_tensor_value_info("picture", onnx.TensorProto.UINT8, [1, 32]))
        fp16.halve(model.graph, arrays, ranges | {"s": at_s})
        cases = {"draw": [Case({"steps": np.array(2), "x": np.ones((1, 32), np.float32)})]}
        if fine:
            precision.refuse_overflow({"draw": model}, arrays, cases)
        else:  # its pixels are 0 .. 255, as any
            with pytest.raises(ExportError, match="draw overflows half precision on its golden cases"):
                precision.refuse_overflow({"draw": model}, arrays, cases)


def test_what_is_to_compute_in_half_precision_is_looked_at_for_overflows(tmp_path, pictures, monkeypatch):
    looked_at = []
    monkeypatch.setattr(
        precision, "refuse_overflow", lambda models, arrays, cases, worker: looked_at.append(models.keys())
    )
    bundle = locate("vqvae-fashion:1")
    precision.lighten(bundle, "fp16", tmp_path / "stored", pictures)
    assert looked_at == []
    precision.lighten(bundle, "fp16", tmp_path / "half", pictures, half=True)
    assert looked_at == [bundle.manifest.tasks.keys()]


def test_products_in_half_precision_that_follow_each_other_have_no_casts_between(tmp_path):
    model, arrays = overflowing()
    fp16.halve(model.graph, arrays, dict.fromkeys(["x0", "a", "b", "s"], SMALL))
    body = model.graph.node[0].attribute[0].g
    kinds = [node.op_type for node in body.node]
    assert kinds == ["Identity", "Cast", "MatMul", "Cast", "Gemm", "MatMul", "Cast", "Mul"]  # x0, bias, s


def test_what_was_seen_without_a_number_keeps_float32():
    model, arrays = overflowing()
    ranges = dict.fromkeys(["x0", "a", "b"], SMALL) | {"s": Seen(*[float("nan")] * 3)}
    assert fp16.halve(model.graph, arrays, ranges) == (2, ["up"])
    model, arrays = overflowing()
    arrays["bias"][0] = 5000
    assert fp16.halve(model.graph, arrays, dict.fromkeys(["x0", "a", "b", "s"], SMALL))[1] == ["second"]


# --- What it costs ----------------------------------------------------------------------------------------------------


def test_a_cost_is_a_share_and_knows_its_direction():
    def metrics(psnr, fid):
        return [
            Metric(name="psnr", value=psnr, unit="dB", better="higher"),
            Metric(name="fid", value=fid, better="lower"),
            Metric(name="neutral", value=1.0),
        ]

    psnr, fid = precision.costs(metrics(20, 10), metrics(19, 10.5))
    assert (psnr.worse, fid.worse) == (pytest.approx(0.05), pytest.approx(0.05))
    psnr, fid = precision.costs(metrics(20, 10), metrics(21, 9))
    assert psnr.worse < 0 and fid.worse < 0
    gaps = [[Metric(name="gap", value=value, unit="points", better="lower")] for value in (-0.5, 1.0)]
    assert precision.costs(*gaps)[0].worse == pytest.approx(0.015)  # a difference has no value to take a share of


@pytest.mark.parametrize("values", [(float("nan"), 20.0), (20.0, float("nan"))])
def test_a_metric_that_is_no_number_any_more_is_over_the_bound(tmp_path, data, monkeypatch, values):
    def metrics(*values):
        return [Metric(name=f"psnr{i}", value=value, better="higher") for i, value in enumerate(values)]

    measured = iter([metrics(20.0, 20.0), metrics(*values)])
    monkeypatch.setattr("zoo.build.measure.measure", lambda *_: next(measured))
    monkeypatch.setattr(precision, "lighten", lambda *_, **__: locate(str(tiny.bundle(tmp_path / "lighter"))))
    words = ["export", "vqvae-fashion:1", "--target", "python", "-o", tmp_path / "out", "--precision", "int8"]
    done = zoo(*words, "--data", data)
    assert done.code == 10 and "from 20 to nan; the bound is 2%" in done.err and not (tmp_path / "out").exists()
    # What was no number before says nothing.
    assert [c.name for c in precision.costs(metrics(float("nan"), 20.0), metrics(1.0, 20.0))] == ["psnr1"]


@pytest.fixture
def data(tmp_path, monkeypatch):
    monkeypatch.setenv("ZOO_HOME", str(tmp_path / "home"))
    parts = {part: drawings(16, size=28, seed=i) for i, part in enumerate(("train", "test"))}
    arrays = {f"{part}_images": drawn.images for part, drawn in parts.items()}
    arrays |= {f"{part}_labels": drawn.labels for part, drawn in parts.items()}
    np.savez(tmp_path / "data.npz", **arrays)
    return tmp_path / "data.npz"


@pytest.mark.slow
def test_the_cost_is_measured_printed_and_written(tmp_path, data):
    words = ["export", "vqvae-fashion", "--target", "python", "-o", tmp_path / "out", "--precision", "int8"]
    done = zoo(*words, "--data", data, "--limit", 16)
    assert done.code == 0, done.err
    assert "worse by" in done.out and "psnr" in done.out
    found = json.loads((tmp_path / "out" / "export.json").read_bytes())
    cost = {c["name"]: c for c in found["cost"]}
    assert found["precision"] == "int8" and cost["psnr"]["float32"] != cost["psnr"]["now"]
    metrics = {m["name"]: m for m in json.loads((tmp_path / "out" / "model.json").read_bytes())["metrics"]}
    assert metrics["psnr"]["value"] == cost["psnr"]["now"] and metrics["psnr"]["samples"] == 16
    assert zoo("verify", tmp_path / "out", "--run-host").code == 0


@pytest.mark.slow
def test_a_loss_over_the_bound_is_refused(tmp_path, data, monkeypatch):
    monkeypatch.setattr(precision, "BOUND", -1.0)  # whatever it costs is too much
    words = ["export", "vqvae-fashion", "--target", "python", "-o", tmp_path / "out", "--precision", "fp16"]
    done = zoo(*words, "--data", data, "--limit", 16)
    assert done.code == 10 and "--accept-loss exports it anyway" in done.err and not (tmp_path / "out").exists()
    assert zoo(*words, "--data", data, "--limit", 16, "--accept-loss").code == 0


@pytest.mark.slow
def test_a_model_that_draws_is_measured_by_what_it_draws(tmp_path, data):
    words = ["export", "ddpm-fashion", "--target", "python", "--task", "generate", "-o", tmp_path / "out"]
    words += ["--precision", "fp16", "--data", data, "--limit", 16, "--samples", 20, "--set", "steps=1"]
    done = zoo(*words)
    assert (
        done.code == 2 and "shows what fp16 costs: give --judge MODEL" in done.err and not (tmp_path / "out").exists()
    )
    done = zoo(*words, "--judge", "judge-fashion", "--accept-loss")
    assert done.code == 0, done.err
    assert "with 16 test pictures and 20 drawn ones" in done.err and "asked_label" in done.out
    metrics = json.loads((tmp_path / "out" / "model.json").read_bytes())["metrics"]
    drawn = next(m for m in metrics if m["name"] == "asked_label")
    assert drawn["samples"] == 20
    assert drawn["command"] == (
        f"zoo export ddpm-fashion:2 --target python -o FOLDER --precision fp16 --data {data} --judge judge-fashion"
        " --limit 16 --samples 20 --set steps=1 --accept-loss"
    )


@pytest.mark.slow
def test_only_a_target_that_computes_in_half_precision_gets_such_products(tmp_path, data):
    for target, half in (("web", True), ("node", False)):
        words = ["export", "vqvae-fashion:1", "--target", target, "-o", tmp_path / target, "--precision", "fp16"]
        done = zoo(*words, "--data", data, "--limit", 16)
        assert done.code == 0, done.err
        nodes = onnx.load(tmp_path / target / "model" / "decode.onnx", load_external_data=False).graph.node
        found = {node.op_type for node in nodes for name in node.output if name.endswith(".half")}
        assert found == ({"Cast", "Conv"} if half else set())  # not the Max that rounds in what is measured


def test_precision_and_data_go_together(tmp_path):
    words = ["export", "vqvae-fashion", "--target", "python", "-o", tmp_path / "out"]
    done = zoo(*words, "--precision", "int8")
    assert done.code == 2 and "--precision int8 needs --data FOLDER" in done.err
    done = zoo(*words, "--samples", 8)
    assert done.code == 2 and "--samples, --set and --accept-loss only work with --precision fp16 or int8" in done.err
    done = zoo(*words, "--accept-loss")
    assert done.code == 2 and "only work with --precision fp16 or int8" in done.err
