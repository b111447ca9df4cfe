"""What the options of ONNX Runtime's CUDA provider gain and cost, changing one at a time.

    python bench/cuda_options.py [MODEL] [--task TASK] [--device cuda|cpu] [--batch N] [--calls N] [--rounds N]

Each setting of ZOO_CUDA_OPTIONS runs in a process of its own, the settings in turn ROUNDS times. Told are the medians
of the first call's time (the search for convolution algorithms is in it), of pictures a second over the CALLS calls
after it, and of the GPU memory that was taken since before the session; and how far the pictures are from those without
TF32. MODEL may be the bundle of an export, as `gpu-fp16/model`. With --device cpu the options do nothing; so the rest
can be tried without a GPU.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from common import example

from zoo.names import graph_file
from zoo.runtime import open_session
from zoo.store.locate import locate

WITHOUT_TF32 = "use_tf32=0"
SETTINGS = (
    WITHOUT_TF32,
    "",  # the defaults
    "cudnn_conv_algo_search=HEURISTIC",
    "cudnn_conv_algo_search=DEFAULT",
    "arena_extend_strategy=kSameAsRequested",
)


def once(given: argparse.Namespace) -> None:
    """The measurement of this process; its pictures go to the file that `--once` names."""
    bundle = locate(given.model)
    task, _ = bundle.manifest.task(given.task)
    inputs = example(bundle, task, given.batch)
    before = memory(given.device)
    session = open_session(bundle.folder / graph_file(task), given.device)
    start = time.perf_counter()
    pictures = next(iter(session.run(inputs).values()))
    first = time.perf_counter() - start
    start = time.perf_counter()
    for _ in range(given.calls):
        session.run(inputs)
    rate = given.batch * given.calls / (time.perf_counter() - start)
    np.save(given.once, pictures)
    print(json.dumps({"first": first, "rate": rate, "memory": memory(given.device) - before}))


def memory(device: str) -> int:
    """Bytes taken on the GPU, by whatever process."""
    if device == "cpu":
        return 0
    import torch

    free, total = torch.cuda.mem_get_info()
    return total - free


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="ddpm-fashion")
    parser.add_argument("--task")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--calls", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--once", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.once:
        return once(given)
    found: dict[str, list[dict[str, float]]] = {setting: [] for setting in SETTINGS}
    pictures: dict[str, np.ndarray] = {}
    with tempfile.TemporaryDirectory() as place:
        file = Path(place) / "pictures.npy"
        for _ in range(given.rounds):
            for setting in SETTINGS:
                environment = os.environ | {"ZOO_CUDA_OPTIONS": setting}
                words = [sys.executable, *sys.argv, "--once", str(file)]
                done = subprocess.run(words, env=environment, stdout=subprocess.PIPE, text=True)
                if done.returncode:
                    sys.exit(f"Error: '{setting}' failed")
                found[setting].append(json.loads(done.stdout))
                pictures[setting] = np.load(file).astype(float)
    print(f"{given.model}, {given.batch} a call, {given.device}")
    for setting, runs in found.items():
        first, rate, taken = (statistics.median(run[name] for run in runs) for name in ("first", "rate", "memory"))
        off = np.abs(pictures[setting] - pictures[WITHOUT_TF32]).max()
        print(
            f"{setting or 'defaults':40} first call {first:7.2f} s {rate:9.1f} pictures/s {taken / 1e6:7.0f} MB"
            f"  off by {off:.3g} at most"
        )


if __name__ == "__main__":
    main()
