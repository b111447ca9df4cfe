"""Node: an ES module with types generated from the ports, on npm's onnxruntime-node."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from zoo.errors import ExportError, NotFoundError
from zoo.hookspecs import RunTargetRequest, WriteTargetRequest

from .common import HOSTS, copy_host, example, model_json, run_program, write_readme


def write(request: WriteTargetRequest) -> None:
    copy_host(request, ["run.mjs", "package.json", ".npmrc"])
    shutil.copyfile(HOSTS / "javascript" / "ports.mjs", request.folder / "ports.mjs")
    (request.folder / "run.d.mts").write_text(declarations(request), encoding="utf-8")
    commands = [
        ("npm install", "installs onnxruntime-node, without the CUDA files that its post-install step would fetch"),
        ("node run.mjs verify", "runs the golden cases"),
        (example(request, "node run.mjs"), "calls the default task"),
    ]
    notes = """
From JavaScript or TypeScript: `import { run } from "./run.mjs"; const { image } = await run(TASK, { port: value })`. An
array is `{dtype, shape, data}` with the batch axis; `run.d.mts` has types for every task. On the command line, pictures
are given as PNG (8 bits per channel, not interlaced, without transparency), PGM, PPM or `.npy`; `node run.mjs --help`
lists the tasks and what they take.
"""
    write_readme(request, "Node", commands, notes)


_DATA = {"uint8": "Uint8Array", "int64": "BigInt64Array", "float32": "Float32Array"}


def declarations(request: WriteTargetRequest) -> str:
    """run.d.mts: each task's ports. Only names of tasks and ports are pasted; they match [a-z][a-z0-9_]*."""
    lines = [
        "// Generated from the ports in model.json.",
        "",
        "export interface Tensor<D extends keyof Data> { dtype: D; shape: number[]; data: Data[D] }",
        "interface Data { " + " ".join(f"{dtype}: {data};" for dtype, data in _DATA.items()) + " }",
        "",
        "export interface Tasks {",
    ]
    for name, task in model_json(request)["tasks"].items():
        inputs = "; ".join(f"{n}{'?' if 'default' in p else ''}: {_type(p)}" for n, p in task["inputs"].items())
        outputs = "; ".join(f'{n}: Tensor<"{p["dtype"]}">' for n, p in task["outputs"].items())
        lines.append(f"  {name}: {{ inputs: {{ {inputs} }}; outputs: {{ {outputs} }} }};")
    lines += [
        "}",
        "",
        "/** One call of a task. Rejects with a TypeError or RangeError that names a port, or the runtime's error. */",
        'export function run<T extends keyof Tasks>(task: T, ports: Tasks[T]["inputs"]): Promise<Tasks[T]["outputs"]>;',
        "/** Runs the golden cases; rejects if one is off. Keeps the outputs in the folder `out`. */",
        "export function verify(out?: string): Promise<void>;",
        "/** The manifest, as in model.json. */",
        "export const model: { name: string; tasks: Record<keyof Tasks, object>; [key: string]: any };",
        "",
    ]
    return "\n".join(lines)


def _type(port: dict[str, Any]) -> str:
    """The type of a port in `run`: an array or, if one value may be used for the whole batch, also that or a list."""
    tensor = f'Tensor<"{port["dtype"]}">'
    if port["codec"] == "bytes":
        one = "string | Uint8Array"
    elif port.get("repeats"):
        one = "number | string" if "classes" in port else "number"
    else:
        return tensor
    many = f" | ({one})[]" if port["shape"] else ""
    return f"{one}{many} | {tensor}"


def run(request: RunTargetRequest) -> str:
    if not shutil.which("node"):
        raise NotFoundError("node is not installed: get Node 20.15 or newer")
    version = run_program(["node", "--version"], request.folder, "node is not installed").strip()
    command = ["node", "run.mjs", "verify", "--out", str(request.out)]
    try:
        run_program(["node", "-e", "require.resolve('onnxruntime-node')"], request.folder, "node is not installed")
    except ExportError:
        with _dependencies(request.folder) as modules:
            run_program(command, request.folder, "node is not installed", NODE_PATH=str(modules))
    else:
        run_program(command, request.folder, "node is not installed")
    return f"Node {version}, onnxruntime-node 1.30.0"


@contextmanager
def _dependencies(folder: Path) -> Iterator[Path]:
    """What package.json names, installed by npm in a place of its own, so that the export stays as it was written."""
    with TemporaryDirectory(prefix="zoo-node-") as place:
        for name in ("package.json", ".npmrc"):
            shutil.copyfile(folder / name, Path(place, name))
        try:
            install = ["npm", "install", "--prefer-offline", "--no-audit", "--no-fund"]
            run_program(install, Path(place), "npm is not installed")
        except (ExportError, NotFoundError) as e:
            raise NotFoundError(
                f"onnxruntime-node is not installed, and npm cannot install it ({e}): set NODE_PATH=…/node_modules"
            ) from None
        yield Path(place, "node_modules")
