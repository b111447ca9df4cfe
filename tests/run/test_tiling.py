from itertools import product

import numpy as np
import pytest

from zoo.errors import UsageError
from zoo.hookspecs import Port, Task, Tile
from zoo.run.tiling import check_tile, run_in_tiles

IMAGE = Port(kind="image", dtype="uint8", shape=("batch", "height", "width", 1))
TOKENS = Port(kind="tokens", dtype="int64", shape=("batch", "rows", "columns"))
SIZE = Port(kind="size", dtype="int64", shape=(2,))
TILE = Tile(multiple=4, context=5)

RECONSTRUCT = Task(summary="r", inputs={"image": IMAGE}, outputs={"again": IMAGE}, tile=TILE)
ENCODE = Task(summary="e", inputs={"image": IMAGE}, outputs={"tokens": TOKENS, "size": SIZE}, tile=TILE)
DECODE = Task(summary="d", inputs={"tokens": TOKENS, "size": SIZE}, outputs={"image": IMAGE}, tile=TILE)


def blur(x: np.ndarray) -> np.ndarray:
    """The sum of the 11x11 values around each, zeros beyond the edges: it sees 5 each way."""
    padded = np.pad(x.astype(np.int64), ((0, 0), (5, 5), (5, 5), (0, 0)))
    height, width = x.shape[1:3]
    return sum(padded[:, i : i + height, j : j + width] for i, j in product(range(11), range(11)))


def reconstruct(inputs):
    return {"again": (blur(inputs["image"]) % 251).astype(np.uint8)}


def encode(inputs):
    image = inputs["image"]
    height, width = image.shape[1:3]
    padded = np.pad(image, ((0, 0), (0, -height % 4), (0, -width % 4), (0, 0)), mode="edge")
    return {"tokens": blur(padded)[:, ::4, ::4, 0], "size": np.array([height, width])}


def decode(inputs):
    height, width = inputs["size"]
    whole = inputs["tokens"].repeat(4, axis=1).repeat(4, axis=2)[..., None]
    return {"image": (blur(whole) % 251).astype(np.uint8)[:, :height, :width]}


@pytest.mark.parametrize("height, width", [(8, 8), (13, 57), (48, 33)])
@pytest.mark.parametrize("side", [4, 9, 16, 1000])
def test_tiles_give_what_one_call_gives(height, width, side):
    image = np.random.default_rng(0).integers(0, 256, (2, height, width, 1), dtype=np.uint8)
    for task, run, inputs in (
        (RECONSTRUCT, reconstruct, {"image": image}),
        (ENCODE, encode, {"image": image}),
        (DECODE, decode, encode({"image": image})),
    ):
        whole, tiled = run(inputs), run_in_tiles(run, task, inputs, side)
        assert whole.keys() == tiled.keys()
        for name in whole:
            np.testing.assert_array_equal(tiled[name], whole[name], err_msg=f"{task.summary} {name}")
            assert tiled[name].dtype == whole[name].dtype


def test_a_tile_is_fed_no_more_than_its_surrounding():
    seen = []

    def run(inputs):
        seen.append(inputs["image"].shape[1:3])
        return reconstruct(inputs)

    run_in_tiles(run, RECONSTRUCT, {"image": np.zeros((1, 100, 100, 1), np.uint8)}, 16)
    assert len(seen) == 49 and max(seen) == (32, 32)  # 16, and 5 each way rounded up to 8


def test_what_cannot_be_tiled_is_refused():
    whole = Task(summary="w", inputs={"image": IMAGE}, outputs={"again": IMAGE})
    with pytest.raises(UsageError, match="reconstruct does not support --tile: in this model every position depends"):
        check_tile("reconstruct", whole, 64)
    with pytest.raises(UsageError, match="--tile is 3; it must be at least 4"):
        check_tile("reconstruct", RECONSTRUCT, 3)
