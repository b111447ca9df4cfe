"""`generate` of an imported DDPM, compared with diffusers: same weights, same sampler and steps, one run.

Run: .venv/bin/python bench/diffusion.py [--rounds N] [--device cuda] [--fp16]. A U-Net with random weights is saved as
a diffusers pipeline and imported with `zoo import ddpm`. Compared, in interleaved rounds, by medians:

- warm, 20 steps of DPM-Solver++(2M), batch 1 and 16: our one graph; the diffusers pipeline in eager PyTorch and with
  its U-Net through torch.compile. Goals: at least 1.2x eager, not slower than compiled.
- the one graph against a Python loop around the step graph. Goal: at most 6 % slower.
- cold, process start to PNG: `zoo run` of the pulled model against a diffusers script. Goal: 5x.
- peak memory of the one graph against a single step's graph. Goal: at most 1.2x.
- the share of this machine's fp32 matrix product rate that the denoiser reaches.

On a GPU (`--device cuda`) diffusers runs with TF32 off and on, labelled, and with `--fp16` in half precision.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from measuring import environment, medians, peak_memory

STEPS, SIZE = 20, 32
GOALS = {"eager": 1.2, "compiled": 1.0, "host loop": 1 / 1.06, "cold": 5.0}
GOAL_MEMORY = 1.2

SCRIPT = """
import sys, torch
from diffusers import DDPMPipeline
pipeline = DDPMPipeline.from_pretrained(sys.argv[1])
pipeline.set_progress_bar_config(disable=True)
image = pipeline(num_inference_steps=20, generator=torch.Generator().manual_seed(0)).images[0]
image.save(sys.argv[2])
"""


def make_pipeline(folder: Path) -> Any:
    """A DDPM for 32x32 colour pictures, 9 million parameters, with diffusers' DPM-Solver++ as its scheduler."""
    import torch
    from diffusers import DDPMPipeline, DPMSolverMultistepScheduler, UNet2DModel

    torch.manual_seed(0)
    unet = UNet2DModel(
        sample_size=SIZE,
        block_out_channels=(64, 128, 128),
        down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    ).eval()
    scheduler = DPMSolverMultistepScheduler(timestep_spacing="trailing")
    pipeline = DDPMPipeline(unet, scheduler)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.save_pretrained(folder)
    return pipeline


def import_pipeline(saved: Path, bundle: Path) -> None:
    importing = [str(Path(sys.executable).with_name("zoo")), "import", "ddpm", str(saved), "--out", str(bundle)]
    subprocess.run(importing, check=True, capture_output=True)


def host_loop(model: Any, seeds: np.ndarray) -> np.ndarray:
    """`generate` by its three parts."""
    begun = model.run("generate_begin", seed=seeds, steps=np.asarray(STEPS))
    x, previous = begun["x"], begun["previous_x0"]
    for row in begun["plan"][:STEPS]:
        stepped = model.run("generate_step", x=x, previous_x0=previous, row=row)
        x, previous = stepped["next_x"], stepped["x0"]
    return model.run("generate_end", x=x)["image"]


def warm(model: Any, pipeline: Any, batch: int, rounds: int, device: str) -> bool:
    import torch

    seeds = np.arange(batch)
    eager_unet = pipeline.unet

    def diffusers(unet: Any, with_tf32: bool = False) -> None:
        pipeline.unet = unet
        generator = torch.Generator().manual_seed(0)
        set_tf32(with_tf32)
        pipeline(batch_size=batch, num_inference_steps=STEPS, output_type="np", generator=generator)

    compiled = torch.compile(eager_unet)
    calls = {
        "zoo": lambda: model.generate(seed=seeds, steps=STEPS),
        "host loop": lambda: host_loop(model, seeds),
        "eager": lambda: diffusers(eager_unet),
        "compiled": lambda: diffusers(compiled),
    }
    if device == "cuda":
        calls["eager, TF32"] = lambda: diffusers(eager_unet, True)
        calls["compiled, TF32"] = lambda: diffusers(compiled, True)
    found = medians(calls, rounds)
    pipeline.unet = eager_unet
    print(f"warm, batch {batch}, {STEPS} steps:")
    reached = True
    for name, median in found.items():
        ratio = median / found["zoo"]
        goal = GOALS.get(name)
        said = "" if goal is None else f" (goal {goal:.2f}): {'reached' if ratio >= goal else 'MISSED'}"
        reached &= goal is None or ratio >= goal
        print(f"  {name:15} {batch / median:8.2f} pictures/s   zoo is {ratio:.2f} times as fast{said}")
    return reached


def set_tf32(on: bool) -> None:
    """TF32 in torch's matrix products and convolutions, or in neither: by default, torch only uses it in the latter."""
    import torch

    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = on


def cold(bundle: Path, saved: Path, rounds: int, device: str) -> bool:
    place = saved.parent
    env = environment(ZOO_HOME=str(place / "home"))
    zoo, registry = str(Path(sys.executable).with_name("zoo")), str(place / "registry")
    subprocess.run([zoo, "publish", str(bundle), "--to", registry], check=True, capture_output=True)
    subprocess.run([zoo, "registry", "add", "bench", registry], check=True, capture_output=True, env=env)
    subprocess.run([zoo, "pull", bundle.name], check=True, capture_output=True, env=env)
    drawing = [zoo, "run", bundle.name, "generate", "--seed", "0", "--steps", str(STEPS), "--device", device]
    calls = {
        "zoo run": [*drawing, "--out", str(place / "zoo.png")],
        "diffusers": [sys.executable, "-c", SCRIPT, str(saved), str(place / "diffusers.png")],
    }
    runs = {
        name: lambda words=words: subprocess.run(words, check=True, capture_output=True, env=env)
        for name, words in calls.items()
    }
    found = medians(runs, rounds)
    ratio = found["diffusers"] / found["zoo run"]
    print(f"cold: zoo run {found['zoo run']:.2f} s, diffusers {found['diffusers']:.2f} s: {_said(ratio, 'cold')}")
    return ratio >= GOALS["cold"]


def _said(ratio: float, what: str) -> str:
    return f"{ratio:.2f}x (goal {GOALS[what]:g}): {'reached' if ratio >= GOALS[what] else 'MISSED'}"


def peak(bundle: Path, task: str) -> int:
    """Peak resident memory in bytes of a process that runs a task once with a batch of 16."""
    words = [sys.executable, __file__, "--peak", str(bundle), task]
    return int(subprocess.run(words, check=True, capture_output=True, text=True).stdout)


def run_once(bundle: str, task: str) -> None:
    import zoo

    model = zoo.load(bundle, device="cpu")
    if task == "generate":
        model.generate(seed=np.arange(16), steps=STEPS)
    elif task == "generate_step":
        x = np.random.default_rng(0).standard_normal((16, 3, SIZE, SIZE)).astype(np.float32)
        row = np.zeros(model.manifest.tasks[task].inputs["row"].shape, np.float32)
        model.run(task, x=x, previous_x0=x, row=row)
    print(peak_memory())


def memory(bundle: Path) -> bool:
    whole, step = (peak(bundle, task) for task in ("generate", "generate_step"))
    ratio = whole / step
    good = ratio <= GOAL_MEMORY
    print(
        f"peak memory, batch 16: {whole / 1e6:.0f} MB, one step's graph {step / 1e6:.0f} MB:"
        f" {ratio:.2f}x (goal at most {GOAL_MEMORY}): {'reached' if good else 'MISSED'}"
    )
    return good


def share_of_matmul(model: Any, unet: Any) -> None:
    """What the step graph reaches of the rate that a large fp32 matrix product has here."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter, torch.no_grad():
        unet(torch.zeros(16, 3, SIZE, SIZE), torch.zeros(16))
    x = np.random.default_rng(0).standard_normal((16, 3, SIZE, SIZE)).astype(np.float32)
    row = np.zeros(model.manifest.tasks["generate_step"].inputs["row"].shape, np.float32)
    a = np.random.default_rng(0).standard_normal((2048, 2048)).astype(np.float32)
    b = torch.from_numpy(a)
    calls = {
        "step": lambda: model.run("generate_step", x=x, previous_x0=x, row=row),
        "numpy": lambda: a @ a,
        "torch": lambda: b @ b,
    }
    seconds = medians(calls, 7)
    best = min(("numpy", "torch"), key=lambda name: seconds[name])
    ours, rate = counter.get_total_flops() / seconds["step"], 2 * 2048**3 / seconds[best]
    print(
        f"denoiser: {ours / 1e9:.0f} GFLOP/s, {ours / rate:.0%} of a matrix product's {rate / 1e9:.0f} GFLOP/s ({best})"
    )


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--fp16", action="store_true", help="diffusers in half precision; on CUDA")
    parser.add_argument("--peak", nargs=2, metavar=("BUNDLE", "TASK"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peak:
        run_once(*options.peak)
        return 0
    import torch

    import zoo

    with tempfile.TemporaryDirectory() as name:
        saved, bundle = Path(name, "pipeline"), Path(name, "bundle")
        pipeline = make_pipeline(saved)
        import_pipeline(saved, bundle)
        pipeline.to(options.device, torch.float16 if options.fp16 else torch.float32)
        model = zoo.load(str(bundle), device=options.device)
        with torch.no_grad():
            reached = [warm(model, pipeline, batch, options.rounds, options.device) for batch in (1, 16)]
        reached.append(cold(bundle, saved, 2 * options.rounds, options.device))  # processes vary more than calls
        if options.device == "cpu":
            reached.append(memory(bundle))
            share_of_matmul(model, pipeline.unet)
    return 0 if all(reached) else 1


if __name__ == "__main__":
    sys.exit(main())
