"""One file per task, with the weights inside."""

import numpy as np

from tests.graph.test_plain import parsed
from zoo.ship.single import runner


def test_running_a_part_of_a_graph_leaves_the_file_of_a_task_called_part(tmp_path):
    (tmp_path / "part.onnx").write_bytes(b"a task's")
    outputs = runner(tmp_path, None)(parsed("(float[N] x) => (float[N] y) { y = Neg(x) }"), {"x": np.ones(2, "f4")})
    assert outputs["y"].tolist() == [-1, -1]
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("part.onnx", b"a task's")]
