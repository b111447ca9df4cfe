"""A bundle that draws from a text, step by step, as diffusion models do: made in milliseconds, without torch."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime

from zoo.formats import manifest as manifests
from zoo.formats.manifest import Export, Manifest
from zoo.hookspecs import Port, Task, Tolerance
from zoo.media import tensors
from zoo.names import MANIFEST

# A pixel is seed + steps * (sum of the text's bytes), mod 256. `work` is how many products of matrices a step takes.
BUSY = """busy_start = Expand(zero, square)
        busy_end = Loop(rounds, go, busy_start) <body = turn (int64 i, bool keep, float[160,160] a)
          => (bool more, float[160,160] b) { more = Identity(keep)  b = MatMul(a, a) }>
        busy = ReduceSum<keepdims = 0>(busy_end)"""
TOTAL = """levels = Cast<to = 1>(text)
        total = ReduceSum(levels, one)
        wide = Unsqueeze(total, last)"""
START = """number = Cast<to = 1>(seed)
        deep = Unsqueeze(number, axes)
        start = Expand(deep, shape)"""
PIXELS = """small = Mod<fmod = 1>(x, limit)
        turned = Transpose<perm = [0, 2, 3, 1]>(small)
        image = Cast<to = 2>(turned)"""
KNOWN = """bool go = {1}, float zero = {0.0}, int64[2] square = {160, 160}, int64[1] one = {1}, int64[2] last = {2, 3},
       int64[3] axes = {1, 2, 3}, int64[4] shape = {1, 1, 8, 8}, float limit = {256.0}"""
ROWS = ", ".join(f"{i}.0" for i in range(50))

GRAPHS = {
    "generate": f"""(int64[batch] seed, int64 steps, uint8[batch,32] text, int64 work) => (uint8[batch,8,8,1] image)
      <{KNOWN}> {{
        {TOTAL}
        {START}
        rounds = Mul(work, steps)
        {BUSY}
        times = Cast<to = 1>(steps)
        grown = Mul(wide, times)
        there = Add(start, grown)
        x = Add(there, busy)
        {PIXELS}
    }}""",
    "generate_begin": f"""(int64[batch] seed, int64 steps)
      => (float[batch,1,8,8] x, float[batch,1,8,8] previous_x0, float[50,2] plan)
      <{KNOWN}, float[50] rows = {{{ROWS}}}> {{
        {START}
        x = Identity(start)
        previous_x0 = Mul(start, zero)
        times = Cast<to = 1>(steps)
        live = Less(rows, times)
        lives = Cast<to = 1>(live)
        column = Unsqueeze(lives, one)
        plan = Concat<axis = 1>(column, column)
    }}""",
    "generate_step": f"""(float[batch,1,8,8] x, float[batch,1,8,8] previous_x0, float[2] row, uint8[batch,32] text,
       int64 work) => (float[batch,1,8,8] next_x, float[batch,1,8,8] x0)
      <{KNOWN}, int64 first = {{0}}> {{
        {TOTAL}
        rounds = Identity(work)
        {BUSY}
        share = Gather(row, first)
        grown = Mul(wide, share)
        there = Add(x, grown)
        next_x = Add(there, busy)
        x0 = Identity(next_x)
    }}""",
    "generate_end": f"(float[batch,1,8,8] x) => (uint8[batch,8,8,1] image) <{KNOWN}> {{ {PIXELS} }}",
}


def _tasks() -> dict[str, Task]:
    seed = Port(kind="seed", dtype="int64", shape=("batch",))
    steps = Port(kind="count", dtype="int64", shape=(), minimum=1, maximum=50, default=20)
    work = Port(kind="count", dtype="int64", shape=(), minimum=0, maximum=10**9, default=0)
    text = Port(kind="text", dtype="uint8", shape=("batch", 32), summary="what to draw", examples=("a red apple",))
    image = Port(kind="image", dtype="uint8", shape=("batch", 8, 8, 1))
    x = Port(kind="tensor", dtype="float32", shape=("batch", 1, 8, 8))
    plan, row = (Port(kind="tensor", dtype="float32", shape=shape) for shape in ((50, 2), (2,)))
    asked = {"seed": seed, "steps": steps}
    shown = {"text": text, "work": work}
    part = "generate"
    return {
        "generate": Task(summary="Draws a picture", inputs=asked | shown, outputs={"image": image}),
        "generate_begin": Task(
            summary="Begins", inputs=asked, outputs={"x": x, "previous_x0": x, "plan": plan}, part_of=part
        ),
        "generate_step": Task(
            summary="A step", inputs={"x": x, "previous_x0": x, "row": row} | shown,
            outputs={"next_x": x, "x0": x}, part_of=part,
        ),
        "generate_end": Task(summary="Ends", inputs={"x": x}, outputs={"image": image}, part_of=part),
    }  # fmt: skip


def pixel(text: str, seed: int, steps: int) -> int:
    """What every pixel of the picture is."""
    return (seed + steps * sum(text.encode())) % 256


def sketch(folder: Path, name: str = "sketch") -> Path:
    """A bundle with the task `generate`, and its parts."""
    folder.mkdir(parents=True)
    tasks = _tasks()
    plan = np.concatenate([np.ones((2, 2)), np.zeros((48, 2))]).astype(np.float32)
    x = np.full((1, 1, 8, 8), 7, np.float32)
    text = np.frombuffer(b"cat".ljust(32, b"\0"), np.uint8)[None]
    seed, steps, work = np.array([7]), np.array(2), np.array(1)
    inputs = {
        "generate": {"seed": seed, "steps": steps, "text": text, "work": work},
        "generate_begin": {"seed": seed, "steps": steps},
        "generate_step": {"x": x, "previous_x0": 0 * x, "row": plan[0], "text": text, "work": work},
        "generate_end": {"x": x},
    }
    golden = {}
    for task, graph in GRAPHS.items():
        model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> {task} {graph}')
        onnx.checker.check_model(model, full_check=True)
        onnx.save_model(model, folder / f"{task}.onnx")
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        outputs = dict(zip(tasks[task].outputs, session.run(list(tasks[task].outputs), inputs[task]), strict=True))
        golden |= {f"{task}/0/inputs/{port}": array for port, array in inputs[task].items()}
        golden |= {f"{task}/0/outputs/{port}": array for port, array in outputs.items()}
    tensors.save(folder / "golden.safetensors", golden)
    tensors.save(folder / "model.safetensors", {"unused": np.zeros(1, np.float32)})
    (folder / "README.md").write_text(f"# {name}\n\nTests drawing from a text.\n")
    manifest = Manifest(
        format=manifests.FORMAT,
        needs_zoo=manifests.zoo_needed(tasks),
        name=name,
        version=1,
        family="tiny",
        summary="Tests drawing from a text",
        license="Apache-2.0",
        config={},
        default_task="generate",
        tasks=tasks,
        tolerances={"float32/cpu": Tolerance(), "float32/cuda": Tolerance()},
        export=Export(opset=17, ir_version=8),
        files={path.name: manifests.describe_file(path) for path in sorted(folder.iterdir())},
    )
    (folder / MANIFEST).write_bytes(manifests.dump(manifest))
    return folder
