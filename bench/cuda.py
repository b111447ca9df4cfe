"""A sampler on a device: its loop in one graph, its steps run by the host, its steps as a CUDA Graph; and diffusers.

    python bench/cuda.py [MODEL] [--device cuda|cpu] [--steps N] [--batch N] [--repeat N]

MODEL, a name or a bundle's folder, has the parts generate_begin, generate_step and generate_end. Without one, a U-Net
with random weights is saved as a diffusers pipeline and imported, and diffusers draws with the same weights from the
same noise, eager and with torch.compile: in float32, with TF32 on a GPU, and in half precision.

The variants are timed in turn, REPEAT times each, after one uncounted call, and all float32 pictures must be the same.
With --device cpu the CUDA Graph and TF32 are left out, so that the rest can be tried without a GPU.
"""

import argparse
import copy
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import onnxruntime
from diffusion import import_pipeline, make_pipeline, set_tf32

from zoo.names import graph_file
from zoo.ports.inputs import complete
from zoo.runtime import CPU, CUDA, cuda_options
from zoo.store.locate import locate

Way = Callable[[], np.ndarray]
"""Draws the pictures, uint8 [batch, height, width, channels]."""

ONE_GRAPH = "one graph with its loop"
ROUNDED = ("TF32", "half precision")
"""Words in the names of variants that compute in fewer bits: their pictures may differ."""


class Ways:
    """Our ways to draw the same pictures."""

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
        providers = [(CUDA, cuda_options(exact=True) | more)] if self.device == "cuda" else [CPU]
        session = onnxruntime.InferenceSession(self.bundle.folder / graph_file(name), providers=providers)
        if self.device == "cuda" and CUDA not in session.get_providers():
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

    def noise(self) -> np.ndarray:
        """What all ways start from, float32 [batch, channels, height, width]."""
        return self._begin()[0]

    def _begin(self) -> list[np.ndarray]:
        return self.sessions["generate_begin"].run(None, {name: self.inputs[name] for name in ("seed", "steps")})

    def _condition(self, i: int) -> dict[str, np.ndarray]:
        """The inputs of a step other than x and its row."""
        found = {name: self.inputs[name] for name in self.step.inputs if name in self.inputs}
        return found | ({"index": np.array(i)} if "index" in self.step.inputs else {})

    def all(self) -> dict[str, Way]:
        ways: dict[str, Way] = {
            ONE_GRAPH: self.loop_graph,
            "steps, through NumPy": self.steps_through_numpy,
            "steps, kept on the device": self.steps_on_device,
        }
        return ways | ({"steps, as a CUDA Graph": self.cuda_graph} if self.device == "cuda" else {})


def diffusers_ways(pipeline: Any, noise: np.ndarray, steps: int, device: str) -> dict[str, Way]:
    """How diffusers draws from the same noise."""
    import torch
    from diffusers.pipelines.ddpm import pipeline_ddpm

    pipeline.to(device)
    single, half = pipeline.unet, copy.deepcopy(pipeline.unet).half()

    def way(unet: Any, dtype: torch.dtype, tf32: bool = False) -> Way:
        def draw() -> np.ndarray:
            set_tf32(tf32)
            pipeline.unet = unet
            start = torch.from_numpy(noise).to(device, dtype)
            with torch.no_grad(), patch.object(pipeline_ddpm, "randn_tensor", lambda *_, **__: start):
                drawn = pipeline(batch_size=len(noise), num_inference_steps=steps, output_type="np").images
            return (drawn * 255).round().astype(np.uint8)

        return draw

    ways = {}
    for name, prepare in {"eager": lambda unet: unet, "compiled": torch.compile}.items():
        prepared = prepare(single)
        ways[f"diffusers, {name}"] = way(prepared, torch.float32)
        if device == "cuda":
            ways[f"diffusers, {name}, TF32"] = way(prepared, torch.float32, tf32=True)
        ways[f"diffusers, {name}, half precision"] = way(prepare(half), torch.float16)
    return ways


def compare(title: str, ways: dict[str, Way], batch: int, repeat: int) -> None:
    first = {name: way() for name, way in ways.items()}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeat):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            seconds[name].append(time.perf_counter() - start)
    base = statistics.median(seconds[ONE_GRAPH])
    print(title)
    off = {name: int(np.abs(pictures - first[ONE_GRAPH].astype(int)).max()) for name, pictures in first.items()}
    for name, times in seconds.items():
        median = statistics.median(times)
        print(f"{name:36} {batch / median:8.1f} pictures/s {base / median:6.2f}x  off by {off[name]} levels at most")
    if differ := [name for name in ways if off[name] > 2 and not name.endswith(ROUNDED)]:
        sys.exit(f"Error: other pictures: {'; '.join(differ)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--repeat", type=int, default=5)
    given = parser.parse_args()
    title = f"{given.batch} pictures, {given.steps} steps, {given.device}"
    if given.model:
        ways = Ways(given.model, given.device, given.steps, given.batch).all()
        return compare(f"{given.model}: {title}", ways, given.batch, given.repeat)
    with tempfile.TemporaryDirectory() as place:
        saved, bundle = Path(place, "pipeline"), Path(place, "bundle")
        pipeline = make_pipeline(saved)
        import_pipeline(saved, bundle)
        ours = Ways(str(bundle), given.device, given.steps, given.batch)
        ways = ours.all() | diffusers_ways(pipeline, ours.noise(), given.steps, given.device)
        compare(f"random U-Net: {title}", ways, given.batch, given.repeat)


if __name__ == "__main__":
    main()
