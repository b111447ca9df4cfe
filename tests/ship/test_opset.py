"""Graphs in a lower opset: ONNX Runtime opens them, and they compute the same."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import parser

from zoo.errors import ExportError
from zoo.formats import manifest as manifests
from zoo.ship.opset import in_opset
from zoo.ship.single import write_single_files

MODELS = Path(__file__).parents[2] / "models"


def parsed(text: str) -> onnx.ModelProto:
    model = parser.parse_model(f'<ir_version: 8, opset_import: ["" : 18]> agraph {text}')
    onnx.checker.check_model(model, full_check=True)
    return model


def run(model: onnx.ModelProto, **inputs: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, inputs)[0])


def lowered(model: onnx.ModelProto) -> onnx.ModelProto:
    low = in_opset(model, 17)
    onnx.checker.check_model(low, full_check=True)
    assert [opset.version for opset in low.opset_import] == [17]
    return low


X = np.arange(6, dtype=np.float32).reshape(2, 3)


@pytest.mark.parametrize("noop", [0, 1])
@pytest.mark.parametrize("axes", ["", ", axes", ", none"])
def test_reductions(axes, noop):
    model = parsed(f"""(float[2, 3] x) => (float[A, B] y) <int64[1] axes = {{1}}, int64[0] none = {{}}> {{
        y = ReduceMean<noop_with_empty_axes = {noop}, keepdims = 1>(x{axes})
    }}""")
    np.testing.assert_array_equal(run(lowered(model), x=X), run(model, x=X))


def scatter(operator: str, reduction: str) -> onnx.ModelProto:
    indices = "int64[1, 1] at = {1}" if operator == "ScatterND" else "int64[1, 3] at = {1, 0, 1}"
    return parsed(f"""(float[2, 3] x) => (float[2, 3] y) <{indices}, float[1, 3] new = {{7, 8, 9}}> {{
        y = {operator}<reduction = "{reduction}">(x, at, new)
    }}""")


@pytest.mark.parametrize("operator", ["ScatterND", "ScatterElements"])
@pytest.mark.parametrize("reduction", ["none", "add", "mul"])
def test_scatters_that_opset_17_has_stay(operator, reduction):
    model = scatter(operator, reduction)
    np.testing.assert_array_equal(run(lowered(model), x=X), run(model, x=X))


@pytest.mark.parametrize("operator", ["ScatterND", "ScatterElements"])
def test_scatters_that_are_new_are_refused(operator):
    with pytest.raises(ExportError, match=operator):
        in_opset(scatter(operator, "max"), 17)


def test_axes_of_a_branch_may_be_constants_around_it():
    model = parsed("""(float[2, 3] x, bool b) => (float[A, B] y) <int64[1] axes = {1}> {
        y = If(b) <
            then_branch = yes () => (float[A, B] one) { one = ReduceMean(x, axes) },
            else_branch = no () => (float[A, B] two) { two = Neg(x) }
        >
    }""")
    low = lowered(model)
    for b in (np.array(True), np.array(False)):
        np.testing.assert_array_equal(run(low, x=X, b=b), run(model, x=X, b=b))


def test_the_file_of_a_judge_opens(tmp_path):
    folder = MODELS / "judge-fashion/1"
    kept = write_single_files(folder, manifests.read(folder), tmp_path, opset=17)
    assert kept == {}
    for path in tmp_path.iterdir():
        assert onnx.load(path).opset_import[0].version == 17
        onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
