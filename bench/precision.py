"""A model in float32, in fp16 and in int8: pictures a second in one process, the three in turn, and the files' size.

    python bench/precision.py MODEL --data FOLDER [--task TASK] [--rounds R]

The same inputs for all three: the first pictures of the data's training part, labels in turn, seeds from 0, defaults
for the rest. Medians over the rounds. The last column is by how many levels of 255 their pictures are off those of
float32, in the mean.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

from zoo.build import data as datasets
from zoo.bundle import locate
from zoo.model import Model
from zoo.precision import PRECISIONS, Calibration, lighten


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--task")
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    bundle = locate(given.model)
    task = given.task or bundle.manifest.default_task
    pictures = datasets.read(given.data, split="train", channels=1, limit=128).images
    inputs = Calibration(bundle, pictures, {}).of(task)[0]
    with tempfile.TemporaryDirectory() as place:
        bundles = {"float32": bundle}
        bundles |= {p: lighten(bundle, p, Path(place) / p, pictures) for p in PRECISIONS}
        models = {name: Model(b, "cpu") for name, b in bundles.items()}
        seconds: dict[str, list[float]] = {name: [] for name in models}
        drawn = {}
        for round_ in range(given.rounds + 1):  # the first warms up and does not count
            for name, model in models.items():
                start = time.perf_counter()
                drawn[name] = next(iter(model.run(task, **inputs).values()))
                if round_:
                    seconds[name].append(time.perf_counter() - start)
        megabytes = {name: size(b.folder) / 1e6 for name, b in bundles.items()}
    base = statistics.median(seconds["float32"])
    print(f"{given.model}, {task}, {len(drawn['float32'])} pictures a call")
    for name, times in seconds.items():
        median = statistics.median(times)
        off = np.abs(drawn[name].astype(int) - drawn["float32"]).mean()
        print(
            f"{name:8} {len(drawn[name]) / median:8.3g} pictures/s, {base / median:.2f} of float32's, "
            f"{megabytes[name]:.2f} MB, {off:.2f} levels off"
        )


def size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*.safetensors") if path.name != "golden.safetensors")


if __name__ == "__main__":
    main()
