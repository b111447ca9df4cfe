"""A model in float32, fp16 and int8: pictures per second in one process, in turn, and the size of the files.

    python bench/precision.py MODEL --data FOLDER [--task TASK] [--rounds R]

All get the same inputs: the first pictures of the data's training part, labels in turn, seeds from 0, defaults for the
rest. Prints medians over the rounds. If the task gives pictures, the last column is their mean difference from those of
float32, in levels of 255. `all in int8` is int8 without the rule for products that need more than 8 bits.
"""

import argparse
import tempfile
from pathlib import Path
from unittest.mock import patch

import numpy as np
from measuring import medians

from zoo.build.data import calibration_pictures
from zoo.run.model import Model
from zoo.ship import int8
from zoo.ship.precision import PRECISIONS, Calibration, lighten
from zoo.store.locate import locate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--task")
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    bundle = locate(given.model)
    task = given.task or bundle.manifest.default_task
    pictures = calibration_pictures(bundle.manifest, given.data)
    inputs = Calibration(bundle, pictures).of(task)[0]
    with tempfile.TemporaryDirectory() as place:
        bundles = {"float32": bundle}
        bundles |= {p: lighten(bundle, p, Path(place) / p, pictures) for p in PRECISIONS}
        with patch.multiple(int8, COARSE=np.inf, NARROW=0):
            bundles["all in int8"] = lighten(bundle, "int8", Path(place) / "all", pictures)
        models = {name: Model(b, "cpu") for name, b in bundles.items()}
        outputs = {name: next(iter(model.run(task, **inputs).values())) for name, model in models.items()}
        calls = {name: lambda model=model: model.run(task, **inputs) for name, model in models.items()}
        seconds = medians(calls, given.rounds)
        megabytes = {name: size(b.folder) / 1e6 for name, b in bundles.items()}
    exact = outputs["float32"]
    print(f"{given.model}, {task}, {len(exact)} pictures a call")
    for name, median in seconds.items():
        line = f"{name:11} {len(exact) / median:8.3g} pictures/s, {seconds['float32'] / median:.2f} of float32's"
        line += f", {megabytes[name]:.2f} MB"
        if exact.dtype == np.uint8:
            line += f", {np.abs(outputs[name].astype(int) - exact).mean():.2f} levels off"
        print(line)


def size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*.safetensors") if path.name != "golden.safetensors")


if __name__ == "__main__":
    main()
