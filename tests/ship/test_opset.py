"""Graphs in a lower opset: ONNX Runtime opens them, and they compute the same."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import parser

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
    return session.run(None, inputs)[0]


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


def test_the_file_of_a_judge_opens(tmp_path):
    folder = MODELS / "judge-fashion/1"
    kept = write_single_files(folder, manifests.read(folder), tmp_path, opset=17)
    assert kept == {}
    for path in tmp_path.iterdir():
        assert onnx.load(path).opset_import[0].version == 17
        onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
