"""Tiny real bundles and registries for tests: made in milliseconds, without torch."""

import shutil
from pathlib import Path

import numpy as np

from zoo.formats import manifest as manifests
from zoo.formats import registry as registries
from zoo.formats.manifest import Export, Manifest
from zoo.hookspecs import Port, Task, Tolerance
from zoo.names import MANIFEST

SCALE = 2.0


def bundle(
    folder: Path,
    name: str = "tiny",
    version: int = 1,
    *,
    tasks: tuple[str, ...] = ("double",),
    ballast: int = 0,
    seed: int = 0,
    **fields: object,
) -> Path:
    """A valid bundle: every task is a graph that doubles a grey picture, its one weight in `model.safetensors`.

    Args:
        folder: where; made when it is missing.
        ballast: bytes of a weight that no graph uses, to make the bundle as large as a test wants.
        seed: of the ballast's bytes, and the value of a weight, so that bundles of two seeds share no weights file.
        fields: of the manifest, in place of the usual ones.
    """
    from safetensors.numpy import save_file

    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    weights = {
        "scale": np.array([SCALE], np.float32),
        "seed": np.array([seed], np.float32),
        "ballast": rng.integers(0, 256, ballast, dtype=np.uint8),
    }
    save_file(weights, folder / "model.safetensors")
    golden = {}
    for task_name in tasks:
        write_graph(folder / f"{task_name}.onnx", *tensor_range(folder / "model.safetensors", "scale"))
        image = rng.integers(0, 256, (2, 4, 5, 1), dtype=np.uint8)
        golden[f"{task_name}/0/inputs/image"] = image
        golden[f"{task_name}/0/outputs/doubled"] = np.minimum(image.astype(np.float32) * SCALE, 255).astype(np.uint8)
    save_file(golden, folder / "golden.safetensors")
    (folder / "README.md").write_text(f"# {name}\n\nDoubles every pixel.\n")
    port = Port(kind="image", dtype="uint8", shape=("batch", "height", "width", 1), minimum_size=1)
    task = Task(summary="Doubles every pixel", inputs={"image": port}, outputs={"doubled": port})
    names = ("README.md", "golden.safetensors", "model.safetensors", *(f"{task}.onnx" for task in tasks))
    manifest = Manifest(
        **{
            "format": manifests.FORMAT,
            "name": name,
            "version": version,
            "family": "tiny",
            "summary": "Doubles every pixel",
            "license": "Apache-2.0",
            "config": {"scale": SCALE},
            "default_task": tasks[0],
            "tasks": dict.fromkeys(tasks, task),
            "tolerances": {"float32/cpu": Tolerance(), "float32/cuda": Tolerance()},
            "export": Export(opset=17, ir_version=8),
            "files": {n: manifests.describe_file(folder / n) for n in names},
        }
        | fields
    )
    (folder / MANIFEST).write_bytes(manifests.dump(manifest))
    return folder


def registry(folder: Path, *bundles: Path) -> Path:
    """A registry folder that holds the bundles at `models/<name>/<version>/`."""
    folder.mkdir(parents=True, exist_ok=True)
    document = registries.RegistryDocument(format=registries.FORMAT)
    if (folder / registries.REGISTRY).exists():
        document = registries.read(folder, "tiny").document
    for source in bundles:
        data = (source / MANIFEST).read_bytes()
        manifest = manifests.parse(data, str(source))
        document = registries.add_version(document, manifest, manifests.digest(data), len(data))
        shutil.copytree(source, folder / "models" / manifest.name / str(manifest.version), dirs_exist_ok=True)
    registries.write(document, folder)
    return folder


def write_graph(path: Path, offset: int, length: int, location: str = "model.safetensors") -> None:
    """`doubled` = `image` (uint8 [batch, height, width, 1]) times `scale`, float32 [1], external data of `location`."""
    import onnx
    from onnx import TensorProto, helper

    shape = ["batch", "height", "width", 1]
    nodes = [
        helper.make_node("Cast", ["image"], ["levels"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["levels", "scale"], ["product"]),
        helper.make_node("Clip", ["product", "", "white"], ["clipped"]),
        helper.make_node("Cast", ["clipped"], ["doubled"], to=TensorProto.UINT8),
    ]
    scale = TensorProto(name="scale", data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
    for key, value in (("location", location), ("offset", str(offset)), ("length", str(length))):
        scale.external_data.add(key=key, value=value)
    white = helper.make_tensor("white", TensorProto.FLOAT, [], [255.0])
    graph = helper.make_graph(
        nodes,
        "double",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, shape)],
        [helper.make_tensor_value_info("doubled", TensorProto.UINT8, shape)],
        [scale, white],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save_model(model, path)


def tensor_range(weights: Path, name: str) -> tuple[int, int]:
    """Offset from the start of a safetensors file, and length, of a tensor's bytes."""
    import json

    data = weights.read_bytes()
    header = int.from_bytes(data[:8], "little")
    begin, end = json.loads(data[8 : 8 + header])[name]["data_offsets"]
    return 8 + header + begin, end - begin
