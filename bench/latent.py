"""A Stable Diffusion of 1.5's exact shapes with random weights: imported, compared with torch, and timed.

Run: .venv/bin/python bench/latent.py [--size full|tiny] [--source fp32|fp16] [--work FOLDER] [--rounds N] [--no-speed].
The pipeline's folder is written by diffusers from the configs below (860 M, 84 M and 123 M parameters), and
`zoo import latent` makes the bundle in a process of its own. Reported, one line each:

- import: minutes, processor minutes, peak resident memory (of the process and its children), bytes on disk next to the
  bytes of the weights. Goals: 15 minutes, 24 GiB, no tensor twice.
- one step of the denoiser and the decoder against diffusers' modules: the largest difference, in largest values.
- `zoo run`'s peak resident memory. Goal: at most 1.15x of sessions of its parts, side by side; here the files of
  weights stand for those sessions.
- speed of 2 steps with guidance against diffusers eager and, with `--compiled`, through torch.compile.

`--size tiny` runs the same code on a pipeline that takes seconds. The vocabulary is made up: only its size counts.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from measuring import medians

STEPS = 2
GOAL_MINUTES, GOAL_BYTES, GOAL_MEMORY, GOALS = 15, 24 << 30, 1.15, {"eager": 1.0, "compiled": 0.9}
FULL = {
    "unet": {
        "sample_size": 64,
        "cross_attention_dim": 768,
        "attention_head_dim": 8,
        "block_out_channels": (320, 640, 1280, 1280),
        "layers_per_block": 2,
        "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
    },
    "vae": {
        "block_out_channels": (128, 256, 512, 512),
        "layers_per_block": 2,
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "latent_channels": 4,
        "sample_size": 512,
    },
    "text": {
        "vocab_size": 49_408,
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "max_position_embeddings": 77,
    },
}
TINY = {
    "unet": {
        "sample_size": 8,
        "cross_attention_dim": 32,
        "attention_head_dim": 4,
        "block_out_channels": (32, 64),
        "layers_per_block": 1,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    },
    "vae": {
        "block_out_channels": (32, 32),
        "down_block_types": ("DownEncoderBlock2D",) * 2,
        "up_block_types": ("UpDecoderBlock2D",) * 2,
        "latent_channels": 4,
        "sample_size": 16,
    },
    "text": {
        "vocab_size": 1000,
        "hidden_size": 32,
        "intermediate_size": 37,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 16,
    },
}


def make_pipeline(folder: Path, sizes: dict[str, Any], source: str) -> None:
    """The folder of a StableDiffusionPipeline, its parts built and saved one after the other."""
    import torch
    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel
    from zoo_latent.text import learnt

    torch.manual_seed(0)
    dtype = torch.float16 if source == "fp16" else torch.float32
    parts = {
        "unet": lambda: UNet2DConditionModel(**sizes["unet"]),
        "vae": lambda: AutoencoderKL(**sizes["vae"]),
        "text_encoder": lambda: CLIPTextModel(CLIPTextConfig(**sizes["text"])),
    }
    for name, build in parts.items():
        module = build()
        print(f"{name}: {sum(p.numel() for p in module.parameters()) / 1e6:.1f} M parameters", flush=True)
        module.to(dtype).save_pretrained(folder / name)
        del module
    DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    ).save_pretrained(folder / "scheduler")
    (folder / "tokenizer").mkdir()
    for name, data in learnt(["a red cat in the rain"], 560).items():
        (folder / "tokenizer" / name).write_bytes(data)
    index = {
        "_class_name": "StableDiffusionPipeline",
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "scheduler": ["diffusers", "DDIMScheduler"],
    }
    (folder / "model_index.json").write_text(json.dumps(index))


def measured(command: list[str]) -> tuple[float, float, int]:
    """Runs a command; its seconds, processor seconds and peak resident bytes."""
    start = time.perf_counter()
    process = subprocess.Popen(command)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"Error: {' '.join(command)} failed")
    # On Linux a child inherits ru_maxrss from this process at fork, which is why this one imports torch only later.
    return time.perf_counter() - start, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024


def zoo(*arguments: object) -> list[str]:
    return [str(Path(sys.executable).with_name("zoo")), *map(str, arguments)]


def size_of(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.iterdir())


def compare(model: Any, saved: Path) -> bool:
    """A step's and the decoder's largest difference from diffusers, relative to the largest value."""
    import torch
    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel

    rng = np.random.default_rng(0)
    begun = model.run("generate_begin", seed=np.arange(1), steps=np.asarray(STEPS), text=["a red cat"], negative=[""])
    guidance = np.ones(1, np.float32)  # plain, as one call of the U-Net
    given = {name: begun[name] for name in ("context", "there", "pooled")}
    stepped = model.run(
        "generate_step",
        x=begun["x"],
        previous_x0=begun["previous_x0"],
        row=begun["plan"][0],
        guidance=guidance,
        **given,
    )
    scheduler = DDIMScheduler.from_pretrained(saved / "scheduler")
    scheduler.set_timesteps(STEPS)
    time_, x = scheduler.timesteps[0], torch.from_numpy(begun["x"])
    unet = UNet2DConditionModel.from_pretrained(saved / "unet", torch_dtype=torch.float32).eval()
    with torch.no_grad():
        eps = unet(x, time_, torch.from_numpy(begun["context"][:, 0])).sample
    del unet
    latents = scheduler.step(eps, time_, x).prev_sample.numpy()
    worst = {"one step": np.abs(stepped["next_x"] - latents).max() / np.abs(latents).max()}

    vae = AutoencoderKL.from_pretrained(saved / "vae", torch_dtype=torch.float32).eval()
    z = rng.standard_normal(begun["x"].shape, dtype=np.float32)
    with torch.no_grad():
        image = vae.decode(torch.from_numpy(z) / vae.config.scaling_factor).sample
    theirs = ((image / 2 + 0.5).clamp(0, 1) * 255).round().permute(0, 2, 3, 1).numpy()
    ours = model.run("decode", latents=z)["image"].astype(np.float32)
    worst["decoder"] = np.abs(ours - theirs).max() / 255
    for name, value in worst.items():
        print(f"{name}: largest difference {value:.1e} of the largest value")
    return worst["one step"] < 1e-3 and worst["decoder"] <= 1.01 / 255


def speed(model: Any, saved: Path, rounds: int, compiled: bool) -> bool:
    import torch
    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel

    unet = UNet2DConditionModel.from_pretrained(saved / "unet", torch_dtype=torch.float32).eval()
    vae = AutoencoderKL.from_pretrained(saved / "vae", torch_dtype=torch.float32).eval()
    scheduler = DDIMScheduler.from_pretrained(saved / "scheduler")
    seeds, text = np.arange(1), {"text": ["a red cat"], "negative": [""]}
    begun = model.run("generate_begin", seed=seeds, steps=np.asarray(STEPS), **text)
    both = torch.from_numpy(begun["context"][0])

    def theirs(network: Any) -> None:
        """diffusers' loop, without the text encoder, which is a small part."""
        scheduler.set_timesteps(STEPS)
        x = torch.from_numpy(begun["x"])
        with torch.no_grad():
            for t in scheduler.timesteps:
                text, negative = network(torch.cat([x, x]), t, both).sample.chunk(2)
                x = scheduler.step(negative + 7.5 * (text - negative), t, x).prev_sample
            vae.decode(x / vae.config.scaling_factor)

    calls = {
        "zoo": lambda: model.run(
            "generate", seed=seeds, steps=np.asarray(STEPS), guidance=np.full(1, 7.5, "f4"), **text
        ),
        "eager": lambda: theirs(unet),
    }
    if compiled:
        network = torch.compile(unet)
        calls["compiled"] = lambda: theirs(network)
    seconds = medians(calls, rounds)
    good = True
    for name, goal in GOALS.items():
        if name in seconds:
            factor = seconds[name] / seconds["zoo"]
            good &= factor >= goal
            print(f"{name}: {seconds[name]:.2f} s, zoo {seconds['zoo']:.2f} s: {factor:.2f}x (goal {goal}x)")
    return good


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=["full", "tiny"], default="full")
    parser.add_argument("--source", choices=["fp32", "fp16"], default="fp32", help="precision of the folder's files")
    parser.add_argument("--work", type=Path, help="kept, with the folder `saved` and the bundle; default: temporary")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--compiled", action="store_true")
    parser.add_argument("--no-speed", action="store_true")
    asked = parser.parse_args()
    work = asked.work or Path(tempfile.mkdtemp(prefix="bench-latent-"))
    saved, bundle = work / "saved", work / "bundle"
    try:
        # Every heavy step is a process of its own, so that none counts another's memory.
        if not saved.exists():
            building = [sys.executable, __file__, "--size", asked.size, "--source", asked.source]
            subprocess.run([*building, "--work", str(work)], check=True, env=os.environ | {"BENCH_BUILD": "1"})
        good = True
        if not bundle.exists():
            seconds, processor, memory = measured(
                zoo("import", "latent", saved, "--license", "Apache-2.0", "--out", bundle)
            )
            print(
                f"import: {seconds / 60:.1f} min, {processor / 60:.1f} min of processor time,"
                f" {memory / 2**30:.2f} GiB at most (goals: {GOAL_MINUTES} min, {GOAL_BYTES >> 30} GiB)"
            )
            good &= seconds <= GOAL_MINUTES * 60 and memory <= GOAL_BYTES
        parts = [bundle / f"{part}.safetensors" for part in ("codec", "text", "denoiser")]
        weights, whole = sum(file.stat().st_size for file in parts), size_of(bundle)
        print(f"disk: {whole / 2**30:.3f} GiB, of which weights {weights / 2**30:.3f}")
        _, _, memory = measured(zoo("run", bundle, "--text", "a red cat", "--steps", STEPS, "--out", work / "cat.png"))
        print(f"zoo run: {memory / 2**30:.2f} GiB at most, {memory / weights:.2f}x of its files of weights")
        import zoo as library

        model = library.load(str(bundle))
        good &= compare(model, saved)
        if not asked.no_speed:
            good &= speed(model, saved, asked.rounds, asked.compiled)
        sys.exit(0 if good else 1)
    finally:
        if asked.work is None:
            shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__":
    if os.environ.get("BENCH_BUILD"):
        at = sys.argv[1:]
        make_pipeline(
            Path(at[at.index("--work") + 1]) / "saved",
            TINY if at[at.index("--size") + 1] == "tiny" else FULL,
            at[at.index("--source") + 1],
        )
    else:
        main()
