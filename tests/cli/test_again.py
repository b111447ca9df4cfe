import json
import re
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from tests.tiny_tasks import copy_with_version, studio
from zoo.media.metadata import MAX_METADATA

from .commands import zoo
from .test_run import PIXELS, error


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return studio(tmp_path_factory.mktemp("cli") / "studio")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ZOO_HOME", str(tmp_path / "home"))
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    Image.fromarray(PIXELS).save("x.png")
    return folder


def change(source: str, target: str, pixels: np.ndarray | None = None, **fields: object) -> None:
    """The picture with other pixels, or another recipe."""
    image = Image.open(source)
    recipe = json.loads(image.text["zoo"]) | fields
    info = PngImagePlugin.PngInfo()
    info.add_itxt("zoo", json.dumps(recipe))
    Image.fromarray(np.asarray(image) if pixels is None else pixels).save(target, pnginfo=info)


def test_a_grid_of_drawn_pictures_comes_out_identical(bundle: Path):
    zoo("run", bundle, "generate", "-n", 5, "--seed", 3, "--label", "sneaker", "--steps", 7, "--out", "g.png")
    outcome = zoo("again", "g.png", "--model", bundle, "--out", "h.png")
    assert outcome.code == 0 and outcome.out.startswith("identical (made on ") and outcome.out.endswith("\nh.png\n")
    assert Path("g.png").read_bytes() == Path("h.png").read_bytes()
    refused = zoo("again", "g.png")
    assert refused.code == 3 and "name the folder with --model" in refused.err


def test_equal_labels_are_as_many_pictures_again(bundle: Path):
    assert zoo("run", bundle, "generate", "--label", "1,1,1", "--seed", 3, "--out", "g.png").code == 0
    outcome = zoo("again", "g.png", "--model", bundle, "--out", "h.png")
    assert outcome.code == 0 and outcome.out.startswith("identical"), outcome.err
    assert Path("g.png").read_bytes() == Path("h.png").read_bytes()


def test_a_model_that_was_published_is_found_by_its_digest(bundle: Path, tmp_path: Path):
    from tests import tiny

    registry = tiny.registry(tmp_path / "registry", bundle)
    assert zoo("run", "studio", "generate", "--registry", registry, "--out", "g.png").code == 0
    assert zoo("again", "g.png").code == 0  # pulled: its registry need not be given
    newer = copy_with_version(bundle, tmp_path / "newer", 2)
    tiny.registry(registry, newer)
    assert zoo("again", "g.png", "--registry", registry).code == 0


def test_one_picture_of_a_batch(bundle: Path):
    zoo("run", bundle, "generate", "-n", 3, "--seed", 3, "--out", "g-{i}.png")
    report = json.loads(zoo("again", "g-2.png", "--model", bundle, "--json", "--out", "h.png").out)
    assert report["verdict"] == "identical" and report["paths"] == ["h.png"] and report["picture"] == "g-2.png"
    assert Path("g-2.png").read_bytes() == Path("h.png").read_bytes()


def test_the_example_comes_out_again(bundle: Path):
    for task in ("generate", "decode", "reconstruct"):
        zoo("run", bundle, task, "--example", "--out", "e.png")
        assert zoo("again", "e.png", "--model", bundle).code == 0


def test_an_input_is_found_beside_the_picture_or_given(bundle: Path, tmp_path: Path):
    zoo("run", bundle, "--image", "x.png", "--out", "r.png")
    assert zoo("again", "r.png", "--model", bundle).code == 0
    Path("x.png").rename(tmp_path / "moved.png")
    said = error(zoo("again", "r.png", "--model", bundle), 3)
    assert said.startswith(
        "the picture was made from x.png, which was not found; give the file with --file FILE (SHA-256 "
    )
    assert zoo("again", "r.png", "--model", bundle, "--image", tmp_path / "moved.png").code == 0
    Image.fromarray(PIXELS[::-1].copy()).save("x.png")
    assert error(zoo("again", "r.png", "--model", bundle), 5).startswith("x.png is no longer the file that the picture")


@pytest.mark.parametrize("source", ["x.npy", "x.npz", "x.npz:some", "x-idx3-ubyte"])
def test_a_picture_of_an_array_is_found_beside_the_picture_or_given(bundle: Path, tmp_path: Path, source: str):
    pictures = np.random.default_rng(0).integers(0, 256, (3, 8, 8), dtype=np.uint8)
    file = source.partition(":")[0]

    def save(pictures: np.ndarray) -> None:
        if file.endswith("ubyte"):
            shape = b"".join(length.to_bytes(4, "big") for length in pictures.shape)
            Path(file).write_bytes(b"\0\0\x08\x03" + shape + pictures.tobytes())
        elif file.endswith(".npy"):
            np.save(file, pictures)
        else:
            others = {"other": pictures[:, ::-1]} if ":" in source else {}
            np.savez(file, some=pictures, **others)

    save(pictures)
    Path("made").mkdir()
    assert zoo("run", bundle, "reconstruct", source, "--out", "made/{stem}.png").code == 0
    [made] = Path("made").glob("*-2.png")
    assert (np.asarray(Image.open(made)) == pictures[2]).all()
    assert zoo("again", made, "--model", bundle).code == 0  # in the current folder
    moved = tmp_path / file
    Path(file).rename(moved)
    assert "which was not found" in error(zoo("again", made, "--model", bundle), 3)
    assert zoo("again", made, "--model", bundle, "--file", moved).code == 0
    moved.rename(Path("made") / file)
    assert zoo("again", made, "--model", bundle).code == 0  # beside the picture
    save(pictures[::-1])
    assert zoo("again", made, "--model", bundle).code == 0
    (Path("made") / file).unlink()
    assert "is no longer the file that the picture" in error(zoo("again", made, "--model", bundle), 5)


def test_an_input_from_stdin_must_be_given(bundle: Path):
    zoo("run", bundle, "--image", "-", "--out", "r.png", stdin=Path("x.png").read_bytes())
    assert "made from data from stdin" in error(zoo("again", "r.png", "--model", bundle), 3)
    assert zoo("again", "r.png", "--model", bundle, "--image", "x.png").code == 0


def test_tokens_are_inputs_too(bundle: Path):
    zoo("run", bundle, "encode", "--image", "x.png", "--out", "t.safetensors")
    zoo("run", bundle, "decode", "--tokens", "t.safetensors", "--size", "5x6", "--out", "d.png")
    assert zoo("again", "d.png", "--model", bundle).code == 0


def test_pixels_that_differ_are_exit_code_5(bundle: Path):
    zoo("run", bundle, "generate", "--seed", 3, "--out", "g.png")
    pixels = np.asarray(Image.open("g.png")).copy()
    change("g.png", "near.png", pixels ^ (np.arange(64).reshape(8, 8) == 70).astype(np.uint8))
    assert zoo("again", "near.png", "--model", bundle).out.startswith("identical")
    pixels[0, 0] ^= 64
    change("g.png", "far.png", pixels)
    said = error(zoo("again", "far.png", "--model", bundle), 5)
    assert said.startswith("far.png differs: ") and "worst 64" in said
    outcome = zoo("again", "far.png", "--model", bundle, "--json")
    assert outcome.code == 5 and json.loads(outcome.out)["verdict"] == "differs"


def test_a_level_of_difference_is_within_the_tolerance(bundle: Path):
    zoo("run", bundle, "generate", "-n", 20, "--seed", 3, "--out", "g.png")
    pixels = np.asarray(Image.open("g.png")).copy()
    pixels[0, 0] ^= 1
    change("g.png", "near.png", pixels)
    outcome = zoo("again", "near.png", "--model", bundle)
    assert outcome.code == 0 and outcome.out.startswith("the same within tolerance: ")


@pytest.mark.parametrize(
    ("fields", "code", "said"),
    [
        ({"format": 2}, 4, "its recipe has format 2; this zoo reads 1: upgrade zoo"),
        (
            {"grid": {"count": 10**9, "columns": 1, "height": 1, "width": 1}},
            4,
            "size does not match its recipe",
        ),
        ({"grid": {"count": 1, "columns": 1, "height": 0, "width": 8}}, 4, "size does not match its recipe"),
        ({"index": 7}, 4, "size does not match its recipe"),
        ({"seed": "x"}, 4, "its metadata is not what zoo writes: "),
        ({"task": "paint"}, 3, "studio has no task 'paint'"),
        ({"output": "sound"}, 4, "the recipe names 'sound', which is not an output of generate"),
        ({"options": {"colour": 1}}, 2, "generate has no input 'colour'"),
        ({"options": {"steps": {"a": 1}}}, 2, "steps is dict; it must be int64"),
        ({"options": {"steps": [1, [2]]}}, 2, "steps has rows of different lengths"),
        ({"options": {"guidance": [1, [2]]}}, 4, "the recipe has 2 values of guidance for 1"),
        ({"options": {"label": {"a": 1}}}, 2, "label is dict; it must be int64"),
        ({"number": 10**9}, 4, "the recipe asks for 1,000,000,000 outputs"),
        ({"files": {"image": []}}, 4, "the recipe has 0 values of image"),
        ({"options": {"tokens": "/etc/passwd"}}, 2, "generate has no input 'tokens'"),
        (
            {"task": "reconstruct", "output": "reconstruction", "options": {"image": ["x.png"]}},
            4,
            "option image a path",
        ),
        ({"digest": "0" * 64}, 2, "the picture was made by studio:1 (000000000000…)"),
    ],
)
def test_a_recipe_that_a_stranger_changed_is_one_line(bundle: Path, fields: dict, code: int, said: str):
    zoo("run", bundle, "generate", "--seed", 3, "--out", "g.png")
    change("g.png", "bad.png", **fields)
    assert said in error(zoo("again", "bad.png", "--model", bundle), code)


def test_a_recipe_can_not_name_a_folder_or_an_input_elsewhere(bundle: Path, tmp_path: Path):
    zoo("run", bundle, "--image", "x.png", "--out", "r.png")
    change("r.png", "bad.png", model=str(bundle))
    assert "is not a model reference" in error(zoo("again", "bad.png"), 2)
    secret = tmp_path / "secret.png"
    Path("x.png").rename(secret)
    recipe = json.loads(Image.open("r.png").text["zoo"])
    change(
        "r.png", "bad.png", files={"image": [{"name": str(secret), "sha256": recipe["files"]["image"][0]["sha256"]}]}
    )
    assert "which was not found" in error(zoo("again", "bad.png", "--model", bundle), 3)


def test_pictures_without_a_recipe(bundle: Path):
    said = error(zoo("again", "x.png"), 4)
    assert said == "x.png has no recipe: zoo did not write it, or it lost its metadata"
    Image.fromarray(PIXELS).save("x.jpg")
    assert error(zoo("again", "x.jpg"), 4) == said.replace("x.png", "x.jpg")
    assert error(zoo("again", "none.png"), 3) == "none.png does not exist"
    zoo("run", bundle, "generate", "--seed", 3, "--out", "g.png")
    assert error(zoo("again", "g.png", "--model", bundle, "--out", "no/x.png"), 7).startswith("the folder no does not")
    assert error(zoo("again", "x.png", "--out", "-"), 2).startswith("`zoo again` prints its result on stdout")


DIGITS = "0" * 64


@pytest.mark.parametrize(
    ("fields", "code", "says"),
    [
        ({"options": {"label": [1] * 100_000}}, 4, "the recipe has 100,000 values of label for 1 outputs"),
        ({"options": {"label": []}}, 4, "the recipe has 0 values of label for 1 outputs"),
        ({"number": 10_000}, 4, "the recipe asks for 10,000 outputs; its file is one of 1"),
        ({"files": {"image": [{"name": "x.png", "sha256": DIGITS}] * 10_000}}, 4, "10,000 values of image"),
        ({"files": {"image": []}}, 4, "the recipe has 0 values of image for 1 outputs"),
        ({"files": {"image": [{"name": "a" * 300, "sha256": DIGITS}]}}, 3, "which was not found"),
        ({"files": {"image": [{"name": "a" * 3000, "sha256": DIGITS}]}}, 4, "its metadata is not what zoo writes"),
        ({"digest": "x" * 300}, 4, "its metadata is not what zoo writes"),
        ({"provider": "x" * MAX_METADATA}, 4, "its metadata is not what zoo writes: 1,048,577 characters"),
        ({"grid": {"count": 16, "columns": 4, "height": 2, "width": 2, "gap": 0}}, 4, r"uint8 \[16, 2, 2, 1\]"),
        ({"grid": {"count": 10**300}}, 4, "damaged|metadata|grid|Object|Integer"),
        ({"number": -1}, 4, "the recipe asks for -1 outputs"),
        ({"output": "probabilities"}, 4, "which is not an output of generate"),
    ],
)  # fmt: skip
def test_a_recipe_that_asks_for_other_numbers_than_its_picture_has_is_one_line_at_once(bundle, fields, code, says):
    zoo("run", bundle, "generate", "--seed", 3, "--out", "g.png")
    change("g.png", "odd.png", **fields)
    began = time.monotonic()
    assert re.search(says, error(zoo("again", "odd.png", "--model", bundle), code))
    assert time.monotonic() - began < 10
