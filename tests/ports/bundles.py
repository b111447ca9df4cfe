"""A bundle of a single task, made without torch."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx

from zoo.formats import manifest as manifests
from zoo.formats.manifest import Export, Manifest
from zoo.hookspecs import Task, Tolerance
from zoo.media import tensors
from zoo.names import MANIFEST


def bundle(folder: Path, name: str, task: Task, graph: str, **golden: np.ndarray) -> Path:
    """The bundle NAME with the one task `play`.

    Args:
        graph: of ONNX's textual form, without its header.
        golden: the one golden case, by port.
    """
    folder.mkdir(parents=True)
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> play {graph}')
    onnx.checker.check_model(model, full_check=True)
    onnx.save_model(model, folder / "play.onnx")
    tensors.save(folder / "golden.safetensors", {f"play/0/{_side(task.inputs, n)}/{n}": a for n, a in golden.items()})
    tensors.save(folder / "model.safetensors", {"unused": np.zeros(1, np.float32)})
    (folder / "README.md").write_text(f"# {name}\n")
    manifest = Manifest(
        format=manifests.FORMAT,
        needs_zoo=manifests.zoo_needed({"play": task}),
        name=name,
        version=1,
        family="tiny",
        summary="Tests a kind of port",
        license="Apache-2.0",
        config={},
        default_task="play",
        tasks={"play": task},
        tolerances={"float32/cpu": Tolerance(), "float32/cuda": Tolerance()},
        export=Export(opset=17, ir_version=8),
        files={path.name: manifests.describe_file(path) for path in sorted(folder.iterdir())},
    )
    (folder / MANIFEST).write_bytes(manifests.dump(manifest))
    return folder


def _side(inputs: Mapping[str, object], port: str) -> str:
    return "inputs" if port in inputs else "outputs"
