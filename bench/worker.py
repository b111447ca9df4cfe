"""What a worker process costs, compared with the same model in the calling process.

Run: .venv/bin/python bench/worker.py [ROUNDS]. Each pair is measured in interleaved rounds, so that a busy machine
slows both equally; medians are compared. Goals: `zoo run` of a folder at most 60 ms more, since the worker starts first
and warms up beside the rest; `zoo.load` and the first call at most 300 ms more; a warm call at most 2 ms more for
vqvae-fashion, and at most 5 % more for a picture of 1 MB. Also printed: how long Ctrl-C takes, in the middle of one
long kernel, until the command and its worker are gone; goal: under 1 s.
"""

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))
from measuring import medians

from tests import hostile

ROOT = Path(__file__).parents[1]
ZOO = str(Path(sys.executable).with_name("zoo"))
MODEL, LARGE = "vqvae-fashion/2", "vqgan-fashion/2"
GOALS = {"zoo run": 0.060, "zoo.load and first call": 0.300, "warm call, 28x28": 0.002}
GOAL_SHARE, GOAL_CTRL_C = 0.05, 1.0

LOAD = """
import sys, time
import numpy as np
import zoo
picture = np.zeros((1, 28, 28, 1), np.uint8)
start = time.perf_counter()
zoo.load(sys.argv[1], "cpu", isolated=sys.argv[2] == "True").reconstruct(image=picture)
print(time.perf_counter() - start)
"""


def main(rounds: int) -> int:
    import zoo

    with tempfile.TemporaryDirectory() as name:
        here = Path(name)
        os.environ["ZOO_HOME"] = str(here / "home")
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # a user's Python keeps what it compiled
        picture = here / "x.png"
        from PIL import Image

        Image.new("L", (28, 28), 90).save(picture)
        folder = ROOT / "models" / MODEL
        run = [ZOO, "run", str(folder), "reconstruct", "--image", str(picture), "--out", f"{here}/o.png"]
        found: dict[str, tuple[float, float]] = {}

        def pair(title: str, here_: object, apart: object, more: int = 1) -> None:
            both = medians({"here": here_, "apart": apart}, rounds * more)
            found[title] = both["here"], both["apart"]

        quiet = {"check": True, "capture_output": True}
        pair(
            "zoo run",
            lambda: subprocess.run([*run, "--no-isolate"], **quiet),
            lambda: subprocess.run([*run, "--isolate"], **quiet),
        )
        loads: dict[bool, list[float]] = {False: [], True: []}
        for _ in range(rounds + 1):
            for isolated in loads:
                done = subprocess.run([sys.executable, "-c", LOAD, folder, str(isolated)], text=True, **quiet)
                loads[isolated].append(float(done.stdout))
        found["zoo.load and first call"] = (float(np.median(loads[False][1:])), float(np.median(loads[True][1:])))
        rng = np.random.default_rng(0)
        for title, model, shape, more in (
            ("warm call, 28x28", MODEL, (1, 28, 28, 1), 50),
            ("warm call, 1 MB picture", MODEL, (1, 1024, 1024, 1), 1),
        ):
            one, two = (zoo.load(str(ROOT / "models" / model), "cpu", isolated=i) for i in (False, True))
            image = rng.integers(0, 256, shape, dtype=np.uint8)
            same = (
                one.reconstruct(image=image)["reconstruction"] == two.reconstruct(image=image)["reconstruction"]
            ).all()
            assert same
            pair(title, lambda: one.reconstruct(image=image), lambda: two.reconstruct(image=image), more)  # noqa: B023
        ctrl_c = _ctrl_c(here, picture)

    good = True
    for title, (a, b) in found.items():
        most = GOALS.get(title, GOAL_SHARE * a)
        good &= b - a <= most
        figures = f"{a * 1e3:8.1f} ms here, {b * 1e3:8.1f} ms in a worker: {(b - a) * 1e3:+6.1f} ms"
        print(f"{title:26} {figures} (goal {most * 1e3:.1f})")
    good &= ctrl_c < GOAL_CTRL_C
    print(f"Ctrl-C during one kernel: {ctrl_c:.2f} s (goal {GOAL_CTRL_C:g})")
    print("reached" if good else "MISSED")
    return 0 if good else 1


def _ctrl_c(here: Path, picture: Path) -> float:
    """Seconds from SIGINT during a product of two large matrices to the end of the command and its worker."""
    folder = hostile.bundle(here / "stranger", "one kernel")
    command = [ZOO, "run", folder, "double", "--image", picture, "--out", here / "o.png", "--isolate"]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        time.sleep(5)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        start = time.perf_counter()
        process.send_signal(signal.SIGINT)
        process.wait()
        seconds = time.perf_counter() - start
    assert children and not any(Path(f"/proc/{child}").exists() for child in children)
    return seconds


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 7))
