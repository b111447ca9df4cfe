"""A tiny bundle with every kind of port that a command line meets: made in milliseconds, without torch."""

import shutil
from pathlib import Path

import numpy as np
import onnx

from zoo.formats import manifest as manifests
from zoo.formats.manifest import Export, Manifest
from zoo.hookspecs import Port, Task, Tolerance
from zoo.media import tensors
from zoo.names import MANIFEST
from zoo.store.locate import Bundle

CLASSES = ("Shirt", "Sneaker", "Ankle boot")

GRAPHS = {
    "reconstruct": """(uint8[batch,height,width,1] image) => (uint8[batch,height,width,1] reconstruction) {
        reconstruction = Identity(image)
    }""",
    # A token is the upper left pixel of 4x4, in steps of 64.
    "encode": """(uint8[batch,height,width,1] image) => (int64[batch,rows,columns] tokens, int64[2] size)
      <int64[2] zero = {0, 0}, int64[2] end = {9999, 9999}, int64[2] axes = {1, 2}, int64[2] step = {4, 4},
       int64[1] last = {3}, int64 span = {64}> {
        picked = Slice(image, zero, end, axes, step)
        grey = Squeeze(picked, last)
        levels = Cast<to = 7>(grey)
        tokens = Div(levels, span)
        size = Shape<start = 1, end = 3>(image)
    }""",
    "decode": """(int64[batch,rows,columns] tokens, int64[2] size) => (uint8[batch,height,width,1] image)
      <int64[1] last = {3}, int64 span = {64}, float[4] scales = {1.0, 4.0, 4.0, 1.0},
       int64[2] zero = {0, 0}, int64[2] axes = {1, 2}> {
        levels = Mul(tokens, span)
        floats = Cast<to = 1>(levels)
        column = Unsqueeze(floats, last)
        large = Resize<mode = "nearest", coordinate_transformation_mode = "asymmetric", nearest_mode = "floor">(column, , scales)
        cut = Slice(large, zero, size, axes)
        image = Cast<to = 2>(cut)
    }""",
    # (31 seed + 7 label + steps + guidance) mod 256 in every pixel.
    "generate": """(int64[batch] label, int64[batch] seed, int64 steps, float[batch] guidance)
      => (uint8[batch,8,8,1] image)
      <int64 a = {31}, int64 b = {7}, int64 m = {256}, int64[3] axes = {1, 2, 3}, int64[4] shape = {1, 8, 8, 1}> {
        s = Mul(seed, a)
        l = Mul(label, b)
        g = Cast<to = 7>(guidance)
        sl = Add(s, l)
        slg = Add(sl, g)
        all = Add(slg, steps)
        small = Mod(all, m)
        wide = Unsqueeze(small, axes)
        pixels = Expand(wide, shape)
        image = Cast<to = 2>(pixels)
    }""",
    # The brighter the picture, the higher the class.
    "classify": """(uint8[batch,height,width,1] image) => (int64[batch] label, float[batch,3] probabilities)
      <float[1,3] centres = {0.0, 128.0, 255.0}, float scale = {0.01}> {
        levels = Cast<to = 1>(image)
        mean = ReduceMean<axes = [1, 2, 3], keepdims = 0>(levels)
        axis = Constant<value_ints = [1]>()
        column = Unsqueeze(mean, axis)
        apart = Sub(column, centres)
        far = Abs(apart)
        near = Neg(far)
        scaled = Mul(near, scale)
        probabilities = Softmax(scaled)
        label = ArgMax<axis = 1, keepdims = 0>(probabilities)
    }""",
}


def _tasks() -> dict[str, Task]:
    batch = ("batch",)
    image = Port(
        kind="image", dtype="uint8", shape=("batch", "height", "width", 1), minimum_size=8, maximum_pixels=10_000
    )
    fixed = Port(kind="image", dtype="uint8", shape=("batch", 8, 8, 1))
    tokens = Port(kind="tokens", dtype="int64", shape=("batch", "rows", "columns"), minimum=0, maximum=3)
    size = Port(kind="size", dtype="int64", shape=(2,), minimum=1)
    label = Port(kind="label", dtype="int64", shape=batch, minimum=-1, maximum=2, default=-1, classes=CLASSES)
    seed = Port(kind="seed", dtype="int64", shape=batch)
    steps = Port(kind="count", dtype="int64", shape=(), minimum=1, maximum=50, default=20, summary="sampler steps")
    guidance = Port(kind="scalar", dtype="float32", shape=batch, minimum=0, maximum=0.1, default=0.1)
    verdict = Port(kind="label", dtype="int64", shape=batch, minimum=0, maximum=2, classes=CLASSES)
    scores = Port(kind="tensor", dtype="float32", shape=("batch", 3), minimum=0, maximum=1)
    return {
        "reconstruct": Task(summary="The picture", inputs={"image": image}, outputs={"reconstruction": image}),
        "encode": Task(summary="To tokens", inputs={"image": image}, outputs={"tokens": tokens, "size": size}),
        "decode": Task(summary="To a picture", inputs={"tokens": tokens, "size": size}, outputs={"image": image}),
        "generate": Task(
            summary="Draws a picture",
            inputs={"label": label, "seed": seed, "steps": steps, "guidance": guidance},
            outputs={"image": fixed},
        ),
        "classify": Task(
            summary="What it shows", inputs={"image": image}, outputs={"label": verdict, "probabilities": scores}
        ),
    }


def _golden() -> dict[str, np.ndarray]:
    picture = np.arange(2 * 8 * 12, dtype=np.uint8).reshape(2, 8, 12, 1)
    codes = picture[:, ::4, ::4, 0].astype(np.int64) // 64
    large = (codes.repeat(4, axis=1).repeat(4, axis=2) * 64).astype(np.uint8)[..., None]
    levels = np.array([1, 2]) * 31 + np.array([0, 1]) * 7 + 20
    scores = np.exp(-np.abs(picture.mean((1, 2, 3))[:, None] - np.array([0, 128, 255])) * 0.01)
    scores = (scores / scores.sum(1, keepdims=True)).astype(np.float32)
    cases = {
        "reconstruct": ({"image": picture}, {"reconstruction": picture}),
        "encode": ({"image": picture}, {"tokens": codes, "size": np.array([8, 12])}),
        "decode": ({"tokens": codes, "size": np.array([8, 12])}, {"image": large}),
        "generate": (
            {
                "label": np.array([0, 1]),
                "seed": np.array([1, 2]),
                "steps": np.array(20),
                "guidance": np.array([0, 0], np.float32),
            },
            {"image": np.broadcast_to(levels[:, None, None, None], (2, 8, 8, 1)).astype(np.uint8)},
        ),
        "classify": ({"image": picture}, {"label": scores.argmax(1), "probabilities": scores}),
    }
    return {
        f"{task}/0/{side}/{port}": array
        for task, sides in cases.items()
        for side, ports in zip(("inputs", "outputs"), sides, strict=True)
        for port, array in ports.items()
    }


def studio(folder: Path, name: str = "studio", version: int = 1) -> Path:
    """A bundle with the tasks reconstruct (default), encode, decode, generate and classify on grey pictures."""
    folder.mkdir(parents=True)
    for task, text in GRAPHS.items():
        model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> {task} {text}')
        onnx.checker.check_model(model, full_check=True)
        onnx.save_model(model, folder / f"{task}.onnx")
    tensors.save(folder / "golden.safetensors", _golden())
    tensors.save(folder / "model.safetensors", {"unused": np.zeros(1, np.float32)})
    (folder / "README.md").write_text(f"# {name}\n\nTests a command line.\n")
    manifest = Manifest(
        format=manifests.FORMAT,
        name=name,
        version=version,
        family="tiny",
        summary="Tests a command line",
        license="Apache-2.0",
        config={},
        classes=CLASSES,
        default_task="reconstruct",
        tasks=_tasks(),
        tolerances={"float32/cpu": Tolerance(), "float32/cuda": Tolerance()},
        export=Export(opset=17, ir_version=8),
        files={path.name: manifests.describe_file(path) for path in sorted(folder.iterdir())},
    )
    (folder / MANIFEST).write_bytes(manifests.dump(manifest))
    return folder


def bundle_of(folder: Path) -> Bundle:
    """What `zoo.store.locate` gives for a folder, without its checks."""
    data = (folder / MANIFEST).read_bytes()
    manifest = manifests.parse(data, str(folder))
    reference = f"{manifest.name}:{manifest.version}"
    return Bundle(folder, manifest, manifests.digest(data), reference)


def copy_with_version(source: Path, target: Path, version: int) -> Path:
    """The same bundle under another version: another digest."""
    shutil.copytree(source, target)
    text = (target / MANIFEST).read_text().replace("\nversion: 1\n", f"\nversion: {version}\n")
    (target / MANIFEST).write_text(text)
    return target
