"""`zoo run` on 10,000 pictures, compared with a loop written by hand around ONNX Runtime with the same batch.

Run: .venv/bin/python bench/many.py [PICTURES [ROUNDS]]. Both read PNG files from a folder and write one PNG each, with
the same session options. The rounds are interleaved, so that a busy machine slows both equally; medians are compared.
Goal: at least 0.95 of the loop's pictures a second. Processor time is printed too: it says more on a busy machine. Peak
memory is that of the whole process (VmHWM).
"""

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from measuring import environment
from PIL import Image

MODEL, BATCH = "vqvae-fashion", 256
GOAL = 0.95

# Both print pictures a second and their peak memory. Start and the opening of the model do not count.
LOOP = """
import sys, time
from pathlib import Path
import numpy as np
from PIL import Image
from bench.measuring import peak_memory
from zoo.runtime import open_session

graph, source, target, size = sys.argv[1:]
session = open_session(Path(graph), "cpu")
paths = sorted(Path(source).iterdir())
start, busy = time.perf_counter(), time.process_time()
for first in range(0, len(paths), int(size)):
    some = paths[first : first + int(size)]
    batch = np.stack([np.asarray(Image.open(path).convert("L")) for path in some])[..., None]
    for path, picture in zip(some, session.run({"image": batch})["reconstruction"]):
        Image.fromarray(picture[..., 0]).save(Path(target) / path.name)
print(len(paths) / (time.perf_counter() - start), peak_memory(), (time.process_time() - busy) / len(paths))
"""
ZOO = """
import sys, time
from bench.measuring import peak_memory
from zoo.media.sources import find
from zoo.run.many import Asked, Many
from zoo.run.model import load

model, source, target, size = sys.argv[1:]
model = load(model, "cpu", isolated=False)
model.session("reconstruct")
start, busy = time.perf_counter(), time.process_time()
asked = Asked({}, "image", find([source]), None, target + "/{stem}.png", batch_size=int(size) or None)
many = Many(model, "reconstruct", asked, print)
many.check_files(lambda: None)
made = sum(batch.count for batch in many.run(print))
print(made / (time.perf_counter() - start), peak_memory(), (time.process_time() - busy) / made)
"""


def main(number: int, rounds: int) -> int:
    from zoo.store.locate import locate

    graph = locate(MODEL).folder / "reconstruct.onnx"
    with tempfile.TemporaryDirectory() as name:
        here = Path(name)
        source = here / "in"
        source.mkdir()
        rng, (y, x) = np.random.default_rng(0), np.mgrid[:28, :28]
        for i in range(number):
            a, b, r = rng.uniform(6, 22), rng.uniform(6, 22), rng.uniform(4, 12)
            disc = np.where((x - a) ** 2 + (y - b) ** 2 < r * r, 200, 0).astype(np.uint8)
            Image.fromarray(disc).save(source / f"{i:06}.png")
        calls = {
            f"loop, batch {BATCH}": (LOOP, graph, BATCH),
            f"zoo, batch {BATCH}": (ZOO, MODEL, BATCH),
            "zoo, measured": (ZOO, MODEL, 0),
        }
        rates: dict[str, list[float]] = {title: [] for title in calls}
        work: dict[str, list[float]] = {title: [] for title in calls}
        peaks: dict[str, int] = {}
        for round_ in range(rounds):
            for number_, (title, (script, model, size)) in enumerate(calls.items()):
                target = here / f"out{round_}-{number_}"
                target.mkdir()
                command = [sys.executable, "-c", script, str(model), str(source), str(target), str(size)]
                env = environment(PYTHONPATH=str(Path(__file__).parents[1]))
                done = subprocess.run(command, env=env, check=True, capture_output=True, text=True)
                rate, peak, busy = map(float, done.stdout.split()[-3:])
                work[title].append(busy * 1000)
                rates[title].append(rate)
                peaks[title] = max(peaks.get(title, 0), int(peak))
        outs = [[(here / f"out0-{n}" / p.name) for p in sorted(source.iterdir())] for n in range(len(calls))]
        off = max(
            np.abs(np.asarray(Image.open(a)).astype(int) - np.asarray(Image.open(b)).astype(int)).max()
            for a, b in zip(outs[0], outs[1])
        )
    medians = {title: statistics.median(values) for title, values in rates.items()}
    loop = medians[f"loop, batch {BATCH}"]
    for title, rate in medians.items():
        shown = json.dumps([round(r) for r in rates[title]])
        print(
            f"{title:17} {rate:6.0f} pictures/s ({rate / loop:.2f})   peak {peaks[title] >> 20} MiB"
            f"   {statistics.median(work[title]):.2f} ms of processor time each   of {shown}"
        )
    ratio = medians[f"zoo, batch {BATCH}"] / loop
    good = ratio >= GOAL and off <= 1
    print(f"the pictures differ by {off} levels at most")
    print(f"ratio: {ratio:.2f} (goal {GOAL}): {'reached' if good else 'MISSED'}")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 10_000, int(sys.argv[2]) if len(sys.argv) > 2 else 3))
