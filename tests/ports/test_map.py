"""Maps: kept as .npy, shown in colours, in every command and host."""

import json

import numpy as np
import pytest
from PIL import Image

from tests.cli.commands import zoo
from tests.plugins.targets.hosts import HOSTS, call, need
from tests.plugins.targets.test_web import serving
from zoo import load
from zoo.errors import InvalidFileError
from zoo.hookspecs import Port, Task
from zoo.media.files import InputFile, read_input
from zoo.media.tensors import MAX_NPY_HEADER, encode_npy, npy_metadata, read_npy
from zoo.ports.kinds import KINDS, problem
from zoo.ports.map import COLOURS, MAP_FILE, colours
from zoo.site import Site

from .bundles import bundle

MAP = Port(kind="map", dtype="float32", shape=("batch", "height", "width"))
DEPTH = np.array([[[0, 0.25, 0.5], [0.75, 1, -1]]], np.float32)
HALF = np.array([0.5], np.float32)

GRAPH = """(float[batch,height,width] depth, float[batch] gain) => (float[batch,height,width] nearer)
  <int64[2] last = {1, 2}> {
    column = Unsqueeze(gain, last)
    nearer = Mul(depth, column)
}"""


@pytest.fixture
def camera(tmp_path, monkeypatch):
    """A bundle that takes and gives maps; the working folder has `depth.npy`."""
    monkeypatch.setenv("ZOO_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    np.save("depth.npy", DEPTH)
    gain = Port(kind="scalar", dtype="float32", shape=("batch",), minimum=0, maximum=2, default=1)
    task = Task(summary="Brings things nearer", inputs={"depth": MAP, "gain": gain}, outputs={"nearer": MAP})
    return bundle(tmp_path / "camera", "camera", task, GRAPH, depth=DEPTH, gain=HALF, nearer=DEPTH / 2)


def run_it(out="nearer.npy"):
    done = zoo("run", "./camera", "--depth", "depth.npy", "--gain", "0.5", "--out", out)
    assert (done.code, done.out) == (0, f"{out}\n"), done.err


# --- What it is -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({}, ""),
        ({"shape": ("batch", 28, 28, 10)}, ""),
        ({"shape": ("batch", 28)}, "ports of the kind map have the shape [batch, height, width], not [batch, 28]"),
        ({"shape": (1, 28, 28)}, "the first dimension of the kind map is batch, not 1"),
        ({"dtype": "uint8"}, "ports of the kind map are float32, not uint8"),
        ({"noise": "normal"}, "ports of the kind map have no noise"),
    ],
)
def test_what_a_port_may_declare(fields, says):
    shape = {"kind": "map", "dtype": "float32", "shape": ("batch", "height", "width")}
    assert problem(Port(**shape | fields)) == says


def test_colours_go_from_the_smallest_value_to_the_largest():
    ramp = np.linspace(-3, 5, 5, dtype=np.float32).reshape(1, 1, 5)
    assert colours(ramp).tolist() == [[[list(colour) for colour in COLOURS]]]
    assert colours(np.full((1, 1, 2), 7, np.float32)).tolist() == [[[list(COLOURS[0])] * 2]]
    odd = np.array([[[np.nan, 1, np.inf, 3]]], np.float32)
    assert colours(odd).tolist() == [[[list(COLOURS[i]) for i in (0, 0, 0, 4)]]]
    assert colours(np.full((1, 1, 1), np.nan, np.float32)).tolist() == [[[list(COLOURS[0])]]]


def test_channels_are_side_by_side_on_one_scale():
    two = np.stack([np.zeros((2, 4, 3)), np.ones((2, 4, 3))], axis=-1).astype(np.float32)  # [2, 4, 3, 2]
    assert colours(two).shape == (2, 4, 6, 3)
    assert colours(two)[0, 0, [2, 3]].tolist() == [list(COLOURS[0]), list(COLOURS[-1])]


# --- Its files --------------------------------------------------------------------------------------------------------


def test_a_file_is_an_ordinary_npy_with_a_recipe_in_its_header(tmp_path):
    data = encode_npy(DEPTH, '{"label": "True (é)"}')
    (tmp_path / "x.npy").write_bytes(data)
    np.testing.assert_array_equal(np.load(tmp_path / "x.npy"), DEPTH)
    np.testing.assert_array_equal(np.load(tmp_path / "x.npy", mmap_mode="r"), DEPTH)
    file = read_input(str(tmp_path / "x.npy"))
    assert npy_metadata(file) == '{"label": "True (é)"}' and data.endswith(DEPTH.tobytes())
    assert b"True" not in data and (len(data) - DEPTH.nbytes) % 64 == 0


def test_a_recipe_that_is_too_long_is_left_out():
    assert encode_npy(DEPTH, "x" * MAX_NPY_HEADER) == encode_npy(DEPTH)


@pytest.mark.parametrize("data", [b"\x93NUMPY", b"\x93NUMPY\x01\0\xff\xff# zoo", encode_npy(DEPTH), b"# zoo 00"])
def test_a_file_without_a_recipe_has_none(data):
    assert npy_metadata(InputFile("x.npy", data, "0" * 64)) is None


@pytest.mark.parametrize("layout", [None, 0, -1, 10**6, True, "3", {"count": 3}])
def test_a_recipe_without_a_number_of_maps_is_refused(layout):
    with pytest.raises(InvalidFileError, match="does not say how many maps"):
        MAP_FILE.count(layout, DEPTH)


# --- The commands -----------------------------------------------------------------------------------------------------


def test_run_keeps_numbers_and_shows_colours(camera, tmp_path):
    run_it()
    np.testing.assert_array_equal(np.load(tmp_path / "nearer.npy"), DEPTH / 2)
    run_it("nearer.png")
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "nearer.png")), colours(DEPTH)[0])
    done = zoo("run", "./camera", "--depth", "nearer.npy")  # the recipe in it does no harm, and nothing is printed
    assert (done.code, done.out) == (0, "camera-play.npy\n"), done.err
    done = zoo("run", "./camera", "--depth", "depth.npy", "--out", "x.jpg")
    assert done.code == 2 and "play gives maps; the name must end in .npy or .png" in done.err


def test_again_makes_it_again_and_finds_a_change(camera, tmp_path):
    run_it()
    done = zoo("again", "nearer.npy", "--model", "./camera", "--out", "again.npy")
    assert done.code == 0 and done.out.startswith("identical"), done.err
    assert (tmp_path / "again.npy").read_bytes() == (tmp_path / "nearer.npy").read_bytes()
    file = read_input("nearer.npy")
    changed = read_npy(file)
    changed[0, 1, 1] += 0.01
    (tmp_path / "nearer.npy").write_bytes(encode_npy(changed, npy_metadata(file)))
    done = zoo("again", "nearer.npy", "--model", "./camera")
    assert done.code == 5 and "nearer.npy differs: worst 0.01" in done.err
    np.save(tmp_path / "plain.npy", DEPTH)
    done = zoo("again", "plain.npy", "--model", "./camera")
    assert done.code == 4 and "plain.npy has no recipe" in done.err


def test_again_knows_one_map_of_several(camera, tmp_path):
    np.save("depth.npy", np.concatenate([DEPTH, DEPTH + 1]))
    done = zoo("run", "./camera", "--depth", "depth.npy", "--out", "nearer-{i}.npy")
    assert done.out.splitlines() == ["nearer-0.npy", "nearer-1.npy"], done.err
    done = zoo("again", "nearer-1.npy", "--model", "./camera")
    assert done.code == 0 and done.out.startswith("identical"), done.err


def test_verify_replays_it_and_info_shows_it(camera):
    (report,) = json.loads(zoo("verify", "./camera", "--replay", "--json").out)
    assert report["replay"][0]["outputs"]["nearer"]["verdict"] == "identical"
    rows = [line.split() for line in zoo("info", "./camera").out.splitlines()]
    assert ["in", "depth", "map", "float32", "[batch,", "height,", "width]"] in rows


def test_python_shows_it(camera):
    result = load("./camera").play(depth=DEPTH, gain=0.5)
    np.testing.assert_array_equal(result["nearer"], DEPTH / 2)
    [image] = result.images
    assert image.size == (3, 2) and image.mode == "RGB"
    assert KINDS["map"].png(DEPTH).startswith(b"\x89PNG")


# --- Hosts ------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", ["python", "node", "cpp"])
def test_a_host_takes_and_gives_it_as_data(name, camera, tmp_path):
    host = HOSTS[name]
    need(host.missing())
    done = zoo("export", "./camera", "--target", host.target, "-o", "out")
    assert done.code == 0, done.err
    run_it()  # a file of zoo's own, with a recipe in its header
    words = ["play", "--depth", tmp_path / "nearer.npy", "--gain", "2", "--out", tmp_path / "whole.npy"]
    for command in (["verify"], words):
        done = call(host, tmp_path / "out", *command)
        assert done.returncode == 0, done.stderr
    np.testing.assert_array_equal(np.load(tmp_path / "whole.npy"), DEPTH)
    assert "--depth map.npy --out nearer.npy" in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.slow
def test_the_page_draws_it(camera, tmp_path):
    from playwright.sync_api import sync_playwright
    from zoo_targets.web import browser, flags

    need("" if browser() else "Chromium")
    done = zoo("export", "./camera", "--target", "web", "-o", "site")
    assert done.code == 0, done.err
    run_it()
    with sync_playwright() as playwright, serving(Site(tmp_path / "site")) as url:
        chromium = playwright.chromium.launch(executable_path=browser(), args=flags())
        page = chromium.new_page()
        page.goto(f"{url}?device=wasm")
        page.wait_for_selector("html[data-ready]", timeout=60_000)
        page.set_input_files("#port-depth", tmp_path / "nearer.npy")
        page.fill("#port-gain", "2")
        page.click("#go")
        page.wait_for_selector("html[data-drawn='1']", timeout=30_000)
        pixels = page.evaluate(
            "Array.from(document.querySelector('#outputs canvas[data-port=nearer]')"
            ".getContext('2d').getImageData(0, 0, 3, 2).data)"
        )
        text = page.text_content("#outputs")
        chromium.close()
    shown = np.array(pixels, np.uint8).reshape(2, 3, 4)
    assert np.abs(shown[..., :3].astype(int) - colours(DEPTH)[0]).max() <= 1
    assert "dark -1 to bright 1" in text and "Download nearer" in text
