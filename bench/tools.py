"""The tools that people apply to a graph first: does it still give the golden outputs afterwards?

    python bench/tools.py [--write] [MODEL/TASK ...]

Each tool rewrites a graph that `zoo export --target onnx` wrote, in .stacks/tools, an environment that pip fills at the
first run. The result is opened in ONNX Runtime and runs the golden cases. Prints a Markdown table; --write also writes
it into docs/targets.md.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from common import write_between
from stacks import PAGE, ZOO, environment, reason

from zoo.formats import manifest as manifests
from zoo.formats.golden import read_cases
from zoo.names import GOLDEN
from zoo.run.comparison import compare_task
from zoo.run.replay import worst_outputs

START = "<!-- made by bench/tools.py -->\n"
GRAPHS = ["vqvae-fashion/decode", "vqgan-fashion/decode", "judge-fashion/classify", "ddpm-fashion/generate_step"]
PRODUCTS = "op_types_to_quantize=['Conv', 'MatMul', 'Gemm']"

TOOLS = {
    "onnxsim": "import onnx, onnxsim; onnx.save(onnxsim.simplify(onnx.load(A))[0], B)",
    "onnxslim": "import onnx, onnxslim; onnx.save(onnxslim.slim(onnx.load(A)), B)",
    "onnx-graphsurgeon": "import onnx, onnx_graphsurgeon as gs; g = gs.import_onnx(onnx.load(A));"
    " onnx.save(gs.export_onnx(g.fold_constants().cleanup()), B)",
    "polygraphy": "import onnx; from polygraphy.backend.onnx import fold_constants;"
    " onnx.save(fold_constants(onnx.load(A)), B)",
    "transformers optimizer": "from onnxruntime.transformers.optimizer import optimize_model;"
    " optimize_model(A, opt_level=0).save_model_to_file(B)",
    "quant_pre_process": "from onnxruntime.quantization.shape_inference import quant_pre_process;"
    " quant_pre_process(A, B)",
    "quantize_dynamic": "from onnxruntime.quantization import quantize_dynamic; quantize_dynamic(A, B)",
    "quantize_dynamic, products": "from onnxruntime.quantization import quantize_dynamic;"
    f" quantize_dynamic(A, B, {PRODUCTS})",
    "quantize_static, products": "from onnxruntime.quantization import quantize_static, CalibrationDataReader\n"
    "class Reader(CalibrationDataReader):\n"
    "    def __init__(self): self.calls = iter(np.load(C, allow_pickle=True))\n"
    "    def get_next(self): return next(self.calls, None)\n"
    f"quantize_static(A, B, Reader(), {PRODUCTS})",
}
"""Python that reads the graph A and writes B; C has the golden inputs."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("graphs", nargs="*")
    parser.add_argument("--write", action="store_true")
    given = parser.parse_args()
    graphs, python = given.graphs or GRAPHS, environment("tools")
    columns = []
    for graph in graphs:
        model, _, task = graph.rpartition("/")
        with tempfile.TemporaryDirectory() as place:
            out = Path(place) / "out"
            command = [*ZOO, "export", model, "--target", "onnx", "-o", out, "--no-loop"]
            subprocess.run(command, check=True, capture_output=True)
            columns.append([cell(python, code, out, task, Path(place)) for code in TOOLS.values()])
            print(graph, columns[-1], file=sys.stderr)
    rows = [["tool", *graphs], ["---"] * (len(graphs) + 1)]
    rows += [[tool, *cells] for tool, cells in zip(TOOLS, zip(*columns, strict=True), strict=True)]
    table = "".join(f"| {' | '.join(row)} |\n" for row in rows)
    print(table)
    if given.write:
        write_between(PAGE, START, table)


def cell(python: str, code: str, folder: Path, task: str, place: Path) -> str:
    """What a tool does to a task's graph: identical, within the tolerance, off, refused."""
    manifest = manifests.read(folder / "model")
    cases, ports = read_cases(folder / "model" / GOLDEN, manifest)[task], manifest.tasks[task].outputs
    before, after, calls = folder / f"{task}.onnx", place / "after.onnx", place / "calls.npy"
    after.unlink(missing_ok=True)
    np.save(calls, np.array([case.inputs for case in cases], object), allow_pickle=True)
    head = f"import numpy as np; A, B, C = {str(before)!r}, {str(after)!r}, {str(calls)!r}\n"
    done = subprocess.run([python, "-c", head + code], capture_output=True, text=True, cwd=place)
    if done.returncode or not after.exists():
        return f"fails: {reason(done)}"
    try:
        onnx.checker.check_model(str(after))
        session = onnxruntime.InferenceSession(after, providers=["CPUExecutionProvider"])
    except Exception as e:  # whatever checker and runtime raise for what the tool wrote
        return f"writes an invalid graph: {str(e).splitlines()[0][:60]}"
    tolerance = next(iter(manifest.tolerances.values()))
    compared = []
    for case in cases:
        outputs = dict(zip(ports, session.run(None, case.inputs), strict=True))
        compared.append(compare_task(ports, case.outputs, outputs, tolerance, case.margins))
    worst = max(worst_outputs(compared).values(), key=lambda c: (c.verdict == "differs", c.worst))
    size = f"{after.stat().st_size / before.stat().st_size:.0%} of the size"
    text = "identical" if worst.verdict == "identical" else f"{worst.verdict}: {worst.text.split(' (case')[0]}"
    return f"{text}, {size}"


if __name__ == "__main__":
    main()
