"""Pictures drawn by code, for golden cases and examples: none is copied from a data set."""

from typing import Any

import numpy as np
from PIL import Image, ImageDraw

# Outlines in a unit square, x to the right, y down; mirrored if only half is given.
_HALVES = {
    "shirt": [(0.5, 0.12), (0.62, 0.1), (0.74, 0.14), (0.95, 0.3), (0.86, 0.46), (0.75, 0.38), (0.74, 0.9), (0.5, 0.9)],
    "trousers": [(0.5, 0.06), (0.68, 0.06), (0.72, 0.5), (0.72, 0.95), (0.56, 0.95), (0.5, 0.35)],
    "dress": [(0.5, 0.12), (0.58, 0.05), (0.66, 0.08), (0.62, 0.38), (0.78, 0.95), (0.5, 0.95)],
    "coat": [(0.5, 0.1), (0.62, 0.06), (0.76, 0.14), (0.9, 0.75), (0.78, 0.78), (0.72, 0.4), (0.75, 0.95), (0.5, 0.95)],
    "bag": [(0.5, 0.36), (0.86, 0.36), (0.92, 0.85), (0.5, 0.85)],
}
_WHOLES = {
    "shoe": [(0.05, 0.5), (0.12, 0.42), (0.32, 0.46), (0.5, 0.34), (0.62, 0.4), (0.92, 0.58), (0.97, 0.7), (0.05, 0.7)],
    "boot": [(0.12, 0.15), (0.42, 0.15), (0.45, 0.52), (0.9, 0.68), (0.94, 0.82), (0.1, 0.82)],
}
_LINES = {
    "zero": [(0.5, 0.15), (0.7, 0.3), (0.7, 0.7), (0.5, 0.85), (0.3, 0.7), (0.3, 0.3), (0.5, 0.15)],
    "one": [(0.38, 0.28), (0.54, 0.15), (0.5, 0.85)],
    "four": [(0.36, 0.18), (0.3, 0.55), (0.7, 0.52), (0.66, 0.2), (0.62, 0.88)],
    "seven": [(0.3, 0.2), (0.7, 0.2), (0.45, 0.85)],
}
SHAPES = (*_HALVES, *_WHOLES, *_LINES)
_OVERSAMPLE = 8


def silhouette(name: str, height: int, width: int, channels: int, rng: np.random.Generator) -> np.ndarray:
    """One of `SHAPES`, shaded, on black: uint8 [height, width, channels]."""
    shape = Image.new("L", (width * _OVERSAMPLE, height * _OVERSAMPLE))
    draw = ImageDraw.Draw(shape)

    def at(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
        return [(x * shape.width, y * shape.height) for x, y in points]

    if name in _LINES:
        draw.line(at(_LINES[name]), fill=255, width=round(0.09 * shape.width), joint="curve")
    else:
        half = _HALVES.get(name)
        draw.polygon(at(half + [(1 - x, y) for x, y in reversed(half)] if half else _WHOLES[name]), fill=255)
        if name == "bag":
            draw.arc(at([(0.33, 0.12), (0.67, 0.62)]), 180, 360, fill=255, width=round(0.04 * shape.width))
    mask = np.asarray(shape.resize((width, height), Image.Resampling.BOX), np.float32)[..., None] / 255
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    folds = 1 + 0.08 * np.sin(x / width * rng.uniform(6, 16) + rng.uniform(0, 6)) - 0.15 * y / height
    colour = rng.uniform(150, 250, channels)
    return (mask * folds[..., None] * colour).clip(0, 255).astype(np.uint8)


def scene(height: int, width: int, channels: int, rng: np.random.Generator) -> np.ndarray:
    """A gradient, covered with discs, stripes, strokes and patches of noise: uint8 [height, width, channels]."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)

    def colour() -> np.ndarray:
        return rng.uniform(0, 255, channels)

    slope = rng.uniform(-1, 1, 2)
    ramp = (slope[0] * y / height + slope[1] * x / width + 1)[..., None] / 2
    image = colour() * (1 - ramp) + colour() * ramp  # [height, width, channels]

    def paint(where: np.ndarray, value: Any) -> None:
        image[where] = value[where] if value.shape == image.shape else value

    for shape in rng.permutation(["disc", "stripes", "stroke", "stroke", "noise"])[: rng.integers(2, 5)]:
        cy, cx = rng.uniform(0, height), rng.uniform(0, width)
        reach = rng.uniform(0.15, 0.4) * min(height, width)
        if shape == "disc":
            paint((y - cy) ** 2 + (x - cx) ** 2 < reach**2, colour())
        elif shape == "stripes":
            period = rng.integers(3, 9)
            paint((np.abs(y - cy) < reach) & ((x + y) % period < period / 2), colour())
        elif shape == "stroke":
            angle = rng.uniform(0, np.pi)
            along = (y - cy) * np.sin(angle) + (x - cx) * np.cos(angle)
            across = (y - cy) * np.cos(angle) - (x - cx) * np.sin(angle)
            paint((np.abs(across) < max(reach / 6, 0.8)) & (np.abs(along) < 2 * reach), colour())
        else:
            paint((np.abs(y - cy) < reach) & (np.abs(x - cx) < reach), rng.uniform(0, 255, image.shape))
    return image.clip(0, 255).astype(np.uint8)


def drawing(height: int, width: int, channels: int, rng: np.random.Generator) -> np.ndarray:
    """A picture drawn by code, uint8 [height, width, channels]: either a scene of shapes or one object on black."""
    if rng.random() < 0.5:
        return scene(height, width, channels, rng)
    return silhouette(str(rng.choice(SHAPES)), height, width, channels, rng)
