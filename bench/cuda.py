"""A sampler on a device: the whole loop as one graph, its steps by the host, and its steps as a CUDA Graph.

    python bench/cuda.py MODEL [--device cuda|cpu] [--steps N] [--batch N] [--repeat N]

MODEL has the parts generate_begin, generate_step and generate_end. The ways are timed in turn, REPEAT times each, after
one call that is not counted, and the pictures of all must be the same. With --device cpu the CUDA Graph is left out; so
the rest can be tried on a machine without a GPU.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable

import numpy as np
import onnxruntime

from zoo.bundle import locate
from zoo.manifest import graph_file
from zoo.ports import complete

PROVIDERS = {
    "cuda": [("CUDAExecutionProvider", {"use_tf32": "0", "cudnn_conv_algo_search": "EXHAUSTIVE"})],
    "cpu": ["CPUExecutionProvider"],
}


class Ways:
    """The ways to draw the same pictures; each is a function without arguments that gives uint8 pictures."""

    def __init__(self, model: str, device: str, steps: int, batch: int):
        self.bundle, self.device, self.steps = locate(model), device, steps
        tasks = self.bundle.manifest.tasks
        given = {"seed": np.arange(batch), "steps": steps}
        if "label" in tasks["generate"].inputs:
            given["label"] = np.arange(batch) % (int(tasks["generate"].inputs["label"].maximum) + 1)
        self.inputs = complete("generate", tasks["generate"], given)
        self.step = tasks["generate_step"]
        names = ("generate", "generate_begin", "generate_step", "generate_end")
        self.sessions = {name: self._session(name) for name in names}

    def _session(self, name: str, **more: str) -> onnxruntime.InferenceSession:
        providers = PROVIDERS[self.device]
        if more:
            providers = [(providers[0][0], providers[0][1] | more)]
        session = onnxruntime.InferenceSession(self.bundle.folder / graph_file(name), providers=providers)
        if self.device == "cuda" and "CUDAExecutionProvider" not in session.get_providers():
            sys.exit("Error: ONNX Runtime has no CUDA here; `zoo doctor` says why, --device cpu tries the rest")
        return session

    def loop_graph(self) -> np.ndarray:
        return self.sessions["generate"].run(None, self.inputs)[0]

    def steps_through_numpy(self) -> np.ndarray:
        x, previous, plan = self._begin()
        for i in range(self.steps):
            feeds = self._condition(i) | {"x": x, "previous_x0": previous, "row": plan[i]}
            x, previous = self.sessions["generate_step"].run(None, feeds)
        return self.sessions["generate_end"].run(None, {"x": x})[0]

    def steps_on_device(self) -> np.ndarray:
        """I/O binding: x stays on the device, and two pairs of buffers take turns."""
        return self._bound(self.sessions["generate_step"])

    def cuda_graph(self) -> np.ndarray:
        """As `steps_on_device`, with the step captured once and replayed."""
        self.captured = getattr(self, "captured", None) or self._session("generate_step", enable_cuda_graph="1")
        return self._bound(self.captured, fixed=True)

    def _bound(self, session: onnxruntime.InferenceSession, fixed: bool = False) -> np.ndarray:
        x, previous, plan = self._begin()
        put = lambda array: onnxruntime.OrtValue.ortvalue_from_numpy(array, self.device, 0)  # noqa: E731
        a, b = (put(x), put(previous)), (put(x), put(previous))
        values = {name: put(array) for name, array in (self._condition(0) | {"row": plan[0]}).items()}
        for i in range(self.steps):
            binding = session.io_binding()
            for name, array in (self._condition(i) | {"row": plan[i]}).items():
                if not fixed or i:
                    values[name].update_inplace(array)
                binding.bind_ortvalue_input(name, values[name])
            for name, value in zip(("x", "previous_x0"), a, strict=True):
                binding.bind_ortvalue_input(name, value)
            for name, value in zip(("next_x", "x0"), b, strict=True):
                binding.bind_ortvalue_output(name, value)
            session.run_with_iobinding(binding)
            if fixed:  # a captured graph reads and writes the same addresses at every replay
                for old, new in zip(a, b, strict=True):
                    old.update_inplace(new.numpy())
            else:
                a, b = b, a
        return self.sessions["generate_end"].run(None, {"x": a[0].numpy()})[0]

    def _begin(self) -> list[np.ndarray]:
        return self.sessions["generate_begin"].run(None, {name: self.inputs[name] for name in ("seed", "steps")})

    def _condition(self, i: int) -> dict[str, np.ndarray]:
        """What a step takes besides x and its row."""
        found = {name: self.inputs[name] for name in self.step.inputs if name in self.inputs}
        return found | ({"index": np.array(i)} if "index" in self.step.inputs else {})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--repeat", type=int, default=5)
    given = parser.parse_args()
    ways = Ways(given.model, given.device, given.steps, given.batch)
    found: dict[str, Callable[[], np.ndarray]] = {
        "one graph with its loop": ways.loop_graph,
        "steps, through NumPy": ways.steps_through_numpy,
        "steps, kept on the device": ways.steps_on_device,
    }
    if given.device == "cuda":
        found["steps, as a CUDA Graph"] = ways.cuda_graph
    first = {name: way() for name, way in found.items()}
    seconds: dict[str, list[float]] = {name: [] for name in found}
    for _ in range(given.repeat):
        for name, way in found.items():
            start = time.perf_counter()
            way()
            seconds[name].append(time.perf_counter() - start)
    base = statistics.median(seconds["one graph with its loop"])
    print(f"{given.model}, {given.batch} pictures, {given.steps} steps, {given.device}")
    expected = first["one graph with its loop"].astype(int)
    for name, times in seconds.items():
        median, off = statistics.median(times), int(np.abs(first[name] - expected).max())
        print(f"{name:28} {given.batch / median:8.1f} pictures/s  {base / median:5.2f}x  off by {off} levels at most")
    if any(np.abs(pictures - expected).max() > 2 for pictures in first.values()):
        sys.exit("Error: the ways do not give the same pictures")


if __name__ == "__main__":
    main()
