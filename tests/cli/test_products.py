"""Lists of values, sheets and enlarged pictures: `zoo run … --label all --seed 0..7 --sheet --scale 8`."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.tiny_tasks import studio

from .commands import zoo
from .test_run import error, pixels


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return studio(tmp_path_factory.mktemp("products") / "studio")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZOO_HOME", str(tmp_path / "home"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    Image.fromarray(np.full((8, 12), 7, np.uint8)).save("x.png")


def level(seed: int, label: int) -> int:
    """What the bundle's `generate` draws with guidance 0, in every pixel."""
    return (31 * seed + 7 * label + 20) % 256


def recipe(path: str) -> dict:
    return json.loads(Image.open(path).text["zoo"])


def test_every_label_with_every_seed(bundle: Path):
    command = ("run", bundle, "generate", "--label", "Shirt,ankle boot", "--seed", "2..4", "--guidance", 0)
    assert zoo(*command, "--out", "p-{i}.png").code == 0
    drawn = [pixels(f"p-{i}.png")[0, 0] for i in range(6)]
    assert drawn == [level(seed, label) for label in (0, 2) for seed in (2, 3, 4)]
    zoo(*command, "--out", "grid.png")
    assert pixels("grid.png").shape == (2 * 8 + 2, 3 * 8 + 2 * 2)  # a row for each label, a column for each seed
    assert recipe("grid.png")["options"]["seed"] == [2, 3, 4, 2, 3, 4] and recipe("grid.png")["seed"] is None
    assert zoo("again", "grid.png", "--model", bundle).out.startswith("identical")
    assert zoo("again", "p-4.png", "--model", bundle).out.startswith("identical")


def test_all_labels_and_n_seeds(bundle: Path):
    zoo("run", bundle, "generate", "--label", "all", "-n", 2, "--seed", 5, "--guidance", 0, "--out", "p-{i}.png")
    drawn = [pixels(f"p-{i}.png")[0, 0] for i in range(6)]
    assert drawn == [level(seed, label) for label in (0, 1, 2) for seed in (5, 6)]


def test_one_drawn_seed_is_used_for_all_labels(bundle: Path):
    outcome = zoo("run", bundle, "generate", "--label", "0..2", "--guidance", 0, "--out", "p-{i}.png")
    seed = int(outcome.err.splitlines()[0].removeprefix("seed "))
    assert [pixels(f"p-{i}.png")[0, 0] for i in range(3)] == [level(seed, label) for label in range(3)]
    assert zoo("again", "p-2.png", "--model", bundle).out.startswith("identical")


def test_labels_given_one_by_one_still_count_the_seeds_up(bundle: Path):
    words = ("run", bundle, "generate", "--label", "Shirt", "--label", "Sneaker", "--seed", 3, "--guidance", 0)
    zoo(*words, "--out", "p-{i}.png")
    assert [pixels(f"p-{i}.png")[0, 0] for i in range(2)] == [level(3, 0), level(4, 1)]


def test_numbers_are_lists_too(bundle: Path):
    zoo("run", bundle, "generate", "--guidance", "0,0.05,0.1", "--seed", "1,9", "--label", "all", "--out", "g.png")
    assert len(recipe("g.png")["options"]["guidance"]) == 18 and recipe("g.png")["grid"]["columns"] == 2


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("--label", "sneker,shirt"), "label 'sneker' is not a class of this model; did you mean 'sneaker'?"),
        (("--label", "0..7"), "label is 7; it must be -1 .. 2"),
        (("--seed", "4..2"), "--seed 4..2: the range is empty; give the smaller number first"),
        (("--seed", "1,,2"), "--seed 1,,2: '' is not a number or a range A..B of whole numbers"),
        (("--seed", "0..9007199254740991"),
         "--seed 0..9007199254740991 is more than 10,000 values, the most of one call"),
        (("--guidance", f"0..{10**30}"), f"--guidance 0..{10**30} is more than 10,000 values, the most of one call"),
        (("--seed", "0..9999", "--label", "all"),
         "3 of --label x 10,000 of --seed is 30,000 pictures; one call makes at most 10,000"),
        (("--label", "all", "-n", "5000"),
         "3 of --label x 5,000 of -n is 15,000 pictures; one call makes at most 10,000"),
        (("--seed", "0..3", "-n", "4"), "-n counts seeds up, and --seed lists them; give one of the two"),
        (("--label", "all", "-n", "0"), "-n is 0; it must be 1 .. 10000"),
        (("--steps", "1,2"), "Invalid value for '--steps': '1,2' is not a valid integer."),
        (("--seed", "x"), "Invalid value for '--seed': 'x' is not a valid integer."),
        (("--scale", "65"), "Invalid value for '--scale': 65 is not in the range 1<=x<=64."),
        (("--sheet", "--out", "x-{i}.png"), "--sheet is one picture; give --out a name without braces"),
        (("--seed", "0..9999", "--scale", "10"),
         "enlarged by 10, the pictures are 8198x8198, 67,207,204 pixels; at most 40,000,000 are allowed"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_and_writes_nothing(bundle: Path, words: tuple[str, ...], line: str):
    outcome = zoo("run", bundle, "generate", *words)
    assert error(outcome, 2) == line and [path.name for path in Path().iterdir()] == ["x.png"]


def test_a_class_whose_name_has_a_comma_is_one_class():
    from zoo.hookspecs import Port
    from zoo.ports.label import listed

    names = ("tench, Tinca tinca", "all", "goldfish")
    port = Port(kind="label", dtype="int64", shape=("batch",), minimum=-1, maximum=2, classes=names)
    assert listed("label", port, "Tench, tinca tinca") is None
    assert listed("label", port, "all") is None  # a class has this name
    assert listed("label", port, "goldfish,0..1") == [2, 0, 1]


def test_a_sheet_has_a_caption_above_each_picture_and_comes_out_again(bundle: Path):
    words = ("run", bundle, "generate", "--label", "Shirt,Sneaker", "--seed", "1..2", "--guidance", 0)
    assert zoo(*words, "--sheet", "--out", "sheet.png").out == "sheet.png\n"
    sheet, grid = pixels("sheet.png"), recipe("sheet.png")["grid"]
    assert grid == {"count": 4, "columns": 2, "height": 8, "width": 8, "gap": 2, "scale": 14, "caption": 2 * 12 + 2}
    assert sheet.shape == (2 * (26 + 112) + 2, 2 * 112 + 2)
    for row, label in enumerate((0, 1)):
        top = row * (26 + 112 + 2)
        assert (sheet[top + 26 : top + 138, :112] == level(1, label)).all()
        assert (sheet[top : top + 26, :112] < 128).sum() > 50  # its caption
    assert (sheet[:26, :112] != sheet[:26, 114:]).any()  # another seed, another caption
    assert zoo("again", "sheet.png", "--model", bundle, "--out", "again.png").out.startswith("identical")
    assert (pixels("again.png") == sheet).all()


def test_a_sheet_that_is_not_enlarged_comes_out_again(bundle: Path):
    zoo("run", bundle, "generate", "-n", 2, "--seed", 4, "--sheet", "--scale", 1, "--out", "small.png")
    assert zoo("again", "small.png", "--model", bundle, "--out", "again.png").out.startswith("identical")
    assert Path("again.png").read_bytes() == Path("small.png").read_bytes()


def test_a_sheet_of_files_names_them(bundle: Path):
    from zoo.media.sheet import View
    from zoo.run.call import gather
    from zoo.run.model import load
    from zoo.run.products import captions, with_view

    model = load(str(bundle))
    call = gather(model, "reconstruct", {"image": ["x.png", "x.png"]}, note=print)
    assert captions(model.manifest.tasks["reconstruct"], call) == (("x.png",), ("x.png",))
    assert with_view(model, call, None, None, True).view == View(10, None, (("x.png",), ("x.png",)))  # 112 / 12 pixels


def test_enlarged_pictures_come_out_again(bundle: Path):
    words = ("run", bundle, "generate", "-n", 3, "--seed", 4, "--guidance", 0, "--scale", 8)
    zoo(*words, "--out", "big.png")
    assert pixels("big.png").shape == (2 * 64 + 2, 2 * 64 + 2) and (pixels("big.png")[:64, :64] == level(4, -1)).all()
    zoo(*words, "--out", "b-{i}.png")
    assert pixels("b-2.png").shape == (64, 64)
    for name in ("big.png", "b-2.png"):
        assert zoo("again", name, "--model", bundle, "--out", "again.png").out.startswith("identical")
        assert Path("again.png").read_bytes() == Path(name).read_bytes()


def test_one_changed_pixel_of_an_enlarged_picture_is_noticed(bundle: Path):
    from .test_again import change

    zoo("run", bundle, "generate", "--seed", 4, "--scale", 8, "--out", "big.png")
    changed = pixels("big.png").copy()
    changed[5, 5] ^= 1
    change("big.png", "changed.png", changed)
    said = error(zoo("again", "changed.png", "--model", bundle), 4)
    assert said == "changed.png: its enlarged pixels are not uniform: another program changed it"


def test_only_pictures_can_be_enlarged(bundle: Path):
    assert "No such option" in error(zoo("run", bundle, "encode", "x.png", "--scale", 8), 2)
    assert "No such option" in error(zoo("run", bundle, "classify", "x.png", "--sheet"), 2)


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({"scale": 10**6}, "does not match its recipe"),
        ({"scale": 0}, "does not match its recipe"),
        ({"caption": -5}, "does not match its recipe"),
        ({"scale": "x"}, "Expected `int`, got `str`"),
    ],
)
def test_a_stranger_s_layout_is_one_line(bundle: Path, fields: dict, line: str):
    from .test_again import change

    zoo("run", bundle, "generate", "--seed", 4, "--scale", 2, "--out", "big.png")
    change("big.png", "changed.png", grid={**recipe("big.png")["grid"], **fields})
    assert line in error(zoo("again", "changed.png", "--model", bundle), 4)


@pytest.mark.parametrize("command", ["run", "compare", "animate"])
def test_show_is_an_option_of_all_that_draw(command: str):
    words = (command, *["ddpm-mnist"] * (2 if command == "compare" else 1))
    steps = ("--steps", 1) if command == "run" else ("--set", "steps=1")
    outcome = zoo(*words, "-n", 1, *steps, "--show")
    assert outcome.code == 0 and outcome.err.splitlines()[-1] == "--show does nothing: stdout is not a terminal"
    said = error(zoo(*words, "--show", "--json"), 2)
    assert said == "--show and --json both write to stdout; choose one"
