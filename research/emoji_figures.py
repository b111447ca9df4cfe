"""Measures a model that draws emoji from a name and a style, on pictures that it has not seen.

    python research/emoji_figures.py emoji --judge judge-emoji --data data/ --split test
    python research/emoji_figures.py emoji --judge judge-emoji --data data/ --guidance 1,2,3,4 --steps 10,20,40

`data/` is what `research/emoji.py` writes. Choose guidance and steps on the validation split (the default); report the
test split (pairs of emoji and style that training lacks) and the unseen one (emoji that training lacks) once.

One picture is drawn for each of the split: by its name and style, with seeds 0, 1, …

- `style`: share of pictures whose style the judge finds; `style_real`, the same of the real pictures.
- `emoji`: share of pictures that, among ten candidates, are nearest to the right one, by the cosine between the judge's
  features. Candidates are real pictures of one group and style: the picture itself, and nine others of the split drawn
  with a fixed seed, with training pictures where the split has too few. Chance is 10 %. `emoji_real` is the yardstick:
  instead of the drawn picture, a real one of the same emoji in another style.
- `frechet`: between the judge's features of drawn and of real pictures; `frechet_floor`: between two halves of the real
  ones, which have half as many pictures, so that it is somewhat too large.
- `nearer`: share of drawn pictures that are nearer to a training picture, in pixels, than the real picture of that name
  and style is; `nearest`: median distance to the nearest training picture, divided by that of the real ones. `--pairs`
  saves the closest pairs, the drawn picture above, its nearest training picture below.
"""

import argparse
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import zoo
from zoo.build.statistics import frechet_distance, nearest_distance, ratio

CANDIDATES = 10
BATCH = 50  # pictures
PAIRS = 16  # on the sheet


class Split:
    """The pictures of a split, in `rows`, followed by the training pictures: arrays of all of them."""

    def __init__(self, path: Path, limit: int | None):
        with np.load(path) as arrays:
            chosen = slice(limit)
            self.rows = np.arange(len(arrays["test_images"][chosen]))
            self.images, self.style, self.emoji, self.group = (
                np.concatenate((arrays[f"test_{name}"][chosen], arrays[f"train_{name}"]))
                for name in ("images", "style", "emoji", "group")
            )
            self.texts = [text.decode() for text in arrays["test_text"][chosen]]


def candidates(split: Split, rng: np.random.Generator) -> np.ndarray:
    """For each picture of the split, itself and others of its group and style: indices [number, CANDIDATES]."""
    found = []
    for row in split.rows:
        alike = (split.group == split.group[row]) & (split.style == split.style[row])
        others = rng.permutation(np.flatnonzero(alike & (split.emoji != split.emoji[row])))
        others = others[np.argsort(others >= len(split.rows), kind="stable")]  # those of the split first
        if len(others) < CANDIDATES - 1:
            raise SystemExit(f"only {len(others)} other pictures of the group and style of '{split.texts[row]}'")
        found.append([row, *others[: CANDIDATES - 1]])
    return np.array(found)


def in_another_style(split: Split, rng: np.random.Generator) -> np.ndarray:
    """For each picture of the split, one of the same emoji in another style; -1 if there is none."""
    found = []
    for row in split.rows:
        fit = np.flatnonzero((split.emoji == split.emoji[row]) & (split.style != split.style[row]))
        found.append(rng.choice(fit) if len(fit) else -1)
    return np.array(found)


def share_nearest(queries: np.ndarray, features: np.ndarray, choices: np.ndarray) -> float:
    """Share of queries that are nearest to the first of their choices, by the cosine; percent.

    Args:
        queries: [number, features]
        features: of the pictures that `choices`, indices [number, CANDIDATES], are about
    """
    a, b = (x / np.linalg.norm(x, axis=-1, keepdims=True).clip(1e-12) for x in (queries, features))
    cosines = np.einsum("nf,ncf->nc", a, b[choices])
    return percent(cosines.argmax(axis=1) == 0)


def percent(right: np.ndarray) -> float:
    return round(100 * float(np.mean(right)), 2)


def judged(judge: zoo.Model, task: str, port: str, images: np.ndarray) -> np.ndarray:
    parts = (images[start : start + BATCH] for start in range(0, len(images), BATCH))
    return np.concatenate([judge.run(task, image=part)[port] for part in parts])


def drawn(model: zoo.Model, split: Split, **ports: float) -> np.ndarray:
    parts = (split.rows[start : start + BATCH] for start in range(0, len(split.rows), BATCH))
    pictures = [
        model.generate(text=[split.texts[row] for row in rows], style=split.style[rows], seed=rows, **ports)["image"]
        for rows in parts
    ]
    return np.concatenate(pictures)


def nearest_training(images: np.ndarray, training: np.ndarray) -> np.ndarray:
    """Distance in pixel levels, root mean square, to the nearest training picture: [number]."""
    flat = [x.reshape(len(x), -1).astype(np.float32) for x in (images, training)]
    return nearest_distance(*flat) / flat[0].shape[1] ** 0.5


class Figures:
    """What does not depend on the drawn pictures is computed once, for all guidances and steps."""

    def __init__(self, split: Split, judge: zoo.Model):
        self.split, self.judge = split, judge
        rng = np.random.default_rng(0)
        self.choices, other = candidates(split, rng), in_another_style(split, rng)
        self.training = split.images[len(split.rows) :]
        self.real_images = split.images[split.rows]
        seen = np.unique(np.concatenate((self.choices.ravel(), other.clip(0))))
        found = judged(judge, "features", "features", split.images[seen])
        self.features = np.zeros((len(split.images), found.shape[1]), np.float32)
        self.features[seen] = found
        self.real = self.features[split.rows]
        self.apart = nearest_training(self.real_images, self.training)
        styles = judged(judge, "classify", "style", self.real_images)
        there = other >= 0
        half = rng.permutation(split.rows)
        self.yardsticks = {
            "pictures": len(split.rows),
            "style_real": percent(styles == split.style[split.rows]),
            "emoji_real": share_nearest(self.features[other[there]], self.features, self.choices[there]),
            "emoji_real_pictures": int(there.sum()),
            "emoji_chance": 100 / CANDIDATES,
            "frechet_floor": float(f"{frechet_distance(self.real[half[::2]], self.real[half[1::2]]):.4g}"),
        }

    def measured(self, pictures: np.ndarray) -> dict[str, float]:
        """The figures of drawn pictures, one for each of the split."""
        features = judged(self.judge, "features", "features", pictures)
        styles = judged(self.judge, "classify", "style", pictures)
        apart = nearest_training(pictures, self.training)
        return {
            "style": percent(styles == self.split.style[self.split.rows]),
            "emoji": share_nearest(features, self.features, self.choices),
            "frechet": float(f"{frechet_distance(features, self.real):.4g}"),
            "nearer": percent(apart < self.apart),
            "nearest": round(ratio(float(np.median(apart)), float(np.median(self.apart))), 3),
        }

    def save_pairs(self, pictures: np.ndarray, path: Path) -> None:
        """The drawn pictures that are closest to a training picture, with that picture below."""
        closest = np.argsort(nearest_training(pictures, self.training))[:PAIRS]
        flat = self.training.reshape(len(self.training), -1).astype(np.float32)
        columns = []
        for picture in pictures[closest]:
            distance = np.square(flat - picture.reshape(-1)).sum(axis=1)
            columns.append(np.concatenate((picture, self.training[distance.argmin()])))
        Image.fromarray(np.concatenate(columns, axis=1)).save(path)


def numbers(kind: type) -> Any:
    return lambda text: [kind(part) for part in text.split(",")]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", help="reference, or a bundle's folder")
    parser.add_argument("--judge", default="judge-emoji", help="a judge with the label `style`")
    parser.add_argument("--data", type=Path, required=True, help="the folder that research/emoji.py wrote")
    parser.add_argument("--split", choices=["validation", "test", "unseen"], default="validation")
    parser.add_argument("--guidance", type=numbers(float), help="one or several, as 1,2,3; default: the model's")
    parser.add_argument("--steps", type=numbers(int), help="one or several, as 10,20; default: the model's")
    parser.add_argument("--limit", type=int, help="only the first pictures of the split, to try it")
    parser.add_argument("--pairs", type=Path, help="a .png of the pictures closest to training pictures")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()

    model, judge = zoo.load(given.model), zoo.load(given.judge)
    split = Split(given.data / f"emoji-{given.split}.npz", given.limit)
    figures = Figures(split, judge)
    inputs = model.manifest.tasks["generate"].inputs
    asked = {name: getattr(given, name) or [inputs[name].default or 0] for name in ("guidance", "steps")}
    pictures = figures.real_images
    rows: list[dict[str, float]] = []
    if not given.json:
        print(given.split, *(f"{name} {value}" for name, value in figures.yardsticks.items()), sep=", ")
    for guidance, steps in itertools.product(asked["guidance"], asked["steps"]):
        pictures = drawn(model, split, guidance=guidance, steps=steps)
        rows.append({"guidance": guidance, "steps": steps, **figures.measured(pictures)})
        if not given.json:
            if len(rows) == 1:
                print(*(f"{name:>9}" for name in rows[0]))
            print(*(f"{value:9.7g}" for value in rows[-1].values()), flush=True)
    if given.pairs:
        figures.save_pairs(pictures, given.pairs)
    if given.json:
        found = {"model": given.model, "judge": given.judge, "split": given.split, **figures.yardsticks}
        print(json.dumps(found | {"drawn": rows}, indent=2))


if __name__ == "__main__":
    main()
