"""One file per task, with the weights inside."""

import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.graph.test_plain import parsed
from zoo.errors import ExportError
from zoo.formats import manifest as manifests
from zoo.ship.single import runner, write_single_files

JUDGE = Path(__file__).parents[2] / "models/judge-fashion/1"


def test_running_a_part_of_a_graph_leaves_the_file_of_a_task_called_part(tmp_path):
    (tmp_path / "part.onnx").write_bytes(b"a task's")
    outputs = runner(tmp_path, None)(parsed("(float[N] x) => (float[N] y) { y = Neg(x) }"), {"x": np.ones(2, "f4")})
    assert outputs["y"].tolist() == [-1, -1]
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("part.onnx", b"a task's")]


def test_weights_are_read_from_files_of_the_bundle_only(tmp_path):
    folder = shutil.copytree(JUDGE, tmp_path / "judge")
    (tmp_path / "secret").write_bytes(bytes(1 << 20))
    graph = onnx.load(folder / "classify.onnx", load_external_data=False)
    for tensor in graph.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = "../secret"
    (folder / "classify.onnx").write_bytes(graph.SerializeToString())
    with pytest.raises(ExportError, match=r"\.\./secret, which is not a file of the bundle"):
        write_single_files(folder, manifests.read(folder), tmp_path)
