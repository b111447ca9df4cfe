"""The smallest graph that shows where heavy operators run; `zoo doctor` opens a session on it."""

from pathlib import Path


def write_matmul(path: Path) -> None:
    """Writes `product = x @ w`: float32 [batch, 64] times a constant [64, 64] of ones."""
    import numpy as np
    import onnx
    from onnx import helper, numpy_helper

    ones = numpy_helper.from_array(np.ones((64, 64), np.float32), "w")
    ports = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["batch", 64]) for name in ("x", "product")]
    node = helper.make_node("MatMul", ["x", "w"], ["product"])
    graph = helper.make_graph([node], "matmul", ports[:1], ports[1:], [ones])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path.write_bytes(model.SerializeToString())
