"""Cold `zoo run vqvae-fashion reconstruct`, compared with the same model in a PyTorch script: process start to PNG.

Run: .venv/bin/python bench/run.py [ROUNDS]. The rounds are interleaved, so that a busy machine slows both equally;
medians are compared. Goal: under 1 s, and at least 5x faster. Both must give the same picture. The script only imports
what it needs: torch, the model's file, safetensors, Pillow.
"""

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from measuring import environment
from PIL import Image

ROOT = Path(__file__).parents[1]
MODEL = "vqvae-fashion"
GOAL_RATIO, GOAL_SECONDS = 5, 1.0

SCRIPT = """
import sys
import numpy as np, torch, yaml
from PIL import Image
from safetensors.torch import load_file
from zoo_vqvae.config import CodecConfig
from zoo_vqvae.model import VQVAE

folder, source, target = sys.argv[1:]
manifest = yaml.load(open(f"{folder}/model.yaml"), yaml.CSafeLoader)
model = VQVAE(CodecConfig(**manifest["config"]["codec"])).eval()
tensors = load_file(f"{folder}/codec.safetensors")
model.load_state_dict({name.removeprefix("codec."): tensor for name, tensor in tensors.items()})
pixels = torch.from_numpy(np.asarray(Image.open(source)).copy())[None, None]
with torch.no_grad():
    picture, _ = model(pixels / 127.5 - 1)
levels = ((picture + 1) * 127.5).clamp(0, 255).round().to(torch.uint8)
Image.fromarray(levels[0, 0].numpy()).save(target)
"""


def main(rounds: int) -> int:
    from zoo.store.locate import locate

    with tempfile.TemporaryDirectory() as name:
        here = Path(name)
        source, ours, theirs = here / "x.png", here / "zoo.png", here / "torch.png"
        y, x = np.mgrid[:28, :28]
        Image.fromarray(np.where((x - 14) ** 2 + (y - 14) ** 2 < 81, 200, 0).astype(np.uint8)).save(source)
        zoo = str(Path(sys.executable).with_name("zoo"))
        commands = {
            "zoo run": [zoo, "run", MODEL, "reconstruct", "--image", source, "--out", ours, "--device", "cpu"],
            "torch script": [sys.executable, "-c", SCRIPT, locate(MODEL).folder, source, theirs],
        }
        (here / "home").mkdir()  # a store, in which it may remember what it read
        seconds: dict[str, list[float]] = {name: [] for name in commands}
        for round_ in range(rounds + 1):  # the first fills the caches and does not count
            for name, command in commands.items():
                start = time.perf_counter()
                subprocess.run(command, env=environment(ZOO_HOME=f"{here}/home"), check=True, capture_output=True)
                if round_:
                    seconds[name].append(time.perf_counter() - start)
        off = np.abs(np.asarray(Image.open(ours)).astype(int) - np.asarray(Image.open(theirs)).astype(int)).max()
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    for name, median in medians.items():
        print(f"{name:13} {median * 1000:6.0f} ms   of {' '.join(f'{s:.2f}' for s in seconds[name])}")
    ratio = medians["torch script"] / medians["zoo run"]
    good = medians["zoo run"] < GOAL_SECONDS and ratio >= GOAL_RATIO and off <= 1
    print(f"the pictures differ by {off} levels at most")
    print(f"ratio: {ratio:.1f} (goal {GOAL_RATIO}, under {GOAL_SECONDS:.0f} s): {'reached' if good else 'MISSED'}")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 5))
