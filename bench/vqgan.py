"""Codecs and priors in ONNX Runtime, compared with eager PyTorch; nearest codes by matrix product and by cdist.

Run: .venv/bin/python bench/vqgan.py [ROUNDS]. Both use the same, untrained weights of the presets `vqgan photo` and
`vqvae fashion` with `prior`: speed does not depend on training. Rounds are interleaved, so that a busy machine slows
all of them equally; medians are compared, with the same number of threads. Goals: encode + decode of 256x256 pictures
at least 1.2x as fast; a cold `zoo run … generate` to its PNG in under 1.5 s.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measuring import medians, peak_memory

from zoo import plugins
from zoo.build.export import export_bundle
from zoo.formats.manifest import Training
from zoo.hookspecs import BuildRequest, ConfigRequest, DescribeRequest, TaskModuleRequest
from zoo.run.model import Model
from zoo.runtime import physical_cores
from zoo.store.locate import locate

GOAL_CODEC, GOAL_COLD_SECONDS = 1.2, 1.5
STEPS, PICTURES = 8, 16
LATENTS, CODES, CODE_SIZE = 64 * 64 * 4, 2048, 8


def export(family: str, presets: list[str], folder: Path) -> tuple[Model, dict[str, torch.nn.Module]]:
    """A bundle with untrained weights, and its tasks' torch modules with the same weights."""
    loaded = plugins.load(family)
    known = loaded.call("describe_family", DescribeRequest(family=family)).presets
    config: dict[str, Any] = {}
    for preset in presets:
        config |= known[preset].config
    config = loaded.call("validate_config", ConfigRequest(family=family, config=config))
    torch.manual_seed(0)
    module = loaded.call("build_module", BuildRequest(family=family, config=config)).eval()
    export_bundle(
        out=folder, name=folder.name, version=1, family=family, loaded=loaded, config=config, module=module,
        summary="fresh weights", license="Apache-2.0", training=Training(),
    )  # fmt: skip
    model = Model(locate(str(folder)), "cpu")
    request = {"family": family, "config": config, "module": module}
    tasks = model.manifest.tasks
    return model, {task: loaded.call("build_task", TaskModuleRequest(task=task, **request)).eval() for task in tasks}


@torch.no_grad()
def codec(folder: Path, rounds: int) -> bool:
    model, modules = export("vqgan", ["photo"], folder / "photo")
    image = np.random.default_rng(0).integers(0, 256, (1, 256, 256, 3), dtype=np.uint8)
    calls = {
        "zoo": lambda: model.run("decode", **model.run("encode", image=image)),
        "torch": lambda: modules["decode"](*modules["encode"](torch.from_numpy(image))),
    }
    found = medians(calls, rounds)
    ratio = found["torch"] / found["zoo"]
    print(f"encode + decode, 256x256: zoo {found['zoo'] * 1000:.0f} ms, torch {found['torch'] * 1000:.0f} ms: "
          f"{ratio:.2f}x (goal {GOAL_CODEC})")  # fmt: skip
    return ratio >= GOAL_CODEC


@torch.no_grad()
def drawing(folder: Path, rounds: int) -> None:
    model, modules = export("vqvae", ["fashion", "prior"], folder / "fashion")
    generate = modules["generate"]
    seed, label = torch.arange(PICTURES), torch.arange(PICTURES) % 10
    temperature, guidance = torch.ones(PICTURES), torch.full((PICTURES,), 1.5)

    def in_torch() -> np.ndarray:
        """The same sampler, its loop in Python."""
        tokens = generate.start(seed)
        number = torch.full((PICTURES,), tokens.shape[1])
        for i in range(STEPS):
            at, steps = torch.tensor(i), torch.tensor(STEPS)
            tokens, _ = generate.drawing.step(at, tokens, number, seed, steps, temperature, label, guidance)
        return generate.to_image(tokens).numpy()

    def in_zoo() -> np.ndarray:
        ports = {"seed": seed.numpy(), "label": label.numpy(), "guidance": guidance.numpy(), "steps": STEPS}
        return model.run("generate", temperature=temperature.numpy(), **ports)["image"]

    same = float((in_zoo() == in_torch()).mean())
    found = medians({"zoo": in_zoo, "torch": in_torch}, rounds)
    rate = {name: PICTURES / seconds for name, seconds in found.items()}
    print(f"generate, {STEPS} steps: zoo {rate['zoo']:.1f}, torch loop {rate['torch']:.1f} pictures/s: "
          f"{rate['zoo'] / rate['torch']:.2f}x; {same:.2%} of pixels equal")  # fmt: skip


def cold(folder: Path, rounds: int) -> bool:
    """Process start to PNG."""
    zoo = str(Path(sys.executable).with_name("zoo"))
    command = [zoo, "run", str(folder / "fashion"), "generate", "--seed", "1", "--out", str(folder / "x.png")]
    env = os.environ | {"ZOO_HOME": str(folder / "home")}
    found = medians({"cold": lambda: subprocess.run(command, env=env, check=True, capture_output=True)}, rounds)["cold"]
    print(f"cold start to PNG: {found:.2f} s (goal {GOAL_COLD_SECONDS})")
    return found < GOAL_COLD_SECONDS


def search(rounds: int) -> None:
    """Measures each form in a separate process, so that its memory can be measured."""
    forms = {}
    for form in ("product", "cdist", "difference"):
        command = [sys.executable, __file__, "search", form, str(rounds)]
        out = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
        forms[form] = float(out[0]), int(out[1])
    print(f"nearest of {CODES} codes for {LATENTS:,} latents:", end=" ")
    print(", ".join(f"{form} {ms:.0f} ms and {mb} MB" for form, (ms, mb) in forms.items()))


def search_once(form: str, rounds: int) -> None:
    """Prints milliseconds and megabytes. `difference` is what an exported cdist builds."""
    from zoo_vqvae.quantize import nearest_code

    torch.set_num_threads(1)
    z, e = torch.randn(LATENTS, CODE_SIZE), torch.randn(CODES, CODE_SIZE)
    before = peak_memory()
    function = {
        "product": lambda: nearest_code(z, e),
        "cdist": lambda: torch.cdist(z, e, compute_mode="donot_use_mm_for_euclid_dist").argmin(1),
        "difference": lambda: (z[:, None] - e).square().sum(2).argmin(1),
    }[form]
    seconds = medians({form: function}, rounds)[form]
    print(seconds * 1000, (peak_memory() - before) // 2**20)


def main(rounds: int) -> int:
    torch.set_num_threads(physical_cores())
    search(rounds)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        good = codec(folder, rounds)
        drawing(folder, rounds)
        good &= cold(folder, rounds)
    print(f"goals {'reached' if good else 'MISSED'}")
    return 0 if good else 1


if __name__ == "__main__":
    if sys.argv[1:2] == ["search"]:
        search_once(sys.argv[2], int(sys.argv[3]))
    else:
        sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 7))
