"""The proof that a kind of port is one file: `wave.py`, registered by a line, goes through every command and host."""

import json
import os
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from zoo_targets.web import browser, flags

from tests.cli.commands import zoo
from tests.plugins.targets.hosts import HOSTS, call, need
from tests.plugins.targets.test_web import serving
from zoo import load
from zoo.formats import manifest as manifests
from zoo.hookspecs import Port, Task
from zoo.ports.kinds import KINDS
from zoo.site import Site

from .bundles import bundle
from .wave import Wave

SOUND = np.array([[0, 0.5, 0.25, -1, 0.125]], np.float32)

GRAPH = """(float[batch,samples] sound, float[batch] volume) => (float[batch,samples] louder)
  <int64[1] last = {1}> {
    column = Unsqueeze(volume, last)
    louder = Mul(sound, column)
}"""

REGISTER = """
import zoo.formats.manifest
from tests.ports.wave import Wave
from zoo.ports.kinds import KINDS
KINDS["wave"] = Wave()
zoo.formats.manifest.__version__ = "9.9.0"
"""
"""What makes another process the zoo that has the kind."""


@pytest.fixture
def newer(monkeypatch):
    """The zoo that has the kind: one line in its list, and its version."""
    monkeypatch.setitem(KINDS, Wave.name, Wave())
    monkeypatch.setattr(manifests, "__version__", "9.9.0")


@pytest.fixture
def amplifier(newer, tmp_path, monkeypatch):
    """A bundle that takes and gives waves; the working folder has `in.wave.json`."""
    monkeypatch.setenv("ZOO_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in.wave.json").write_text(json.dumps({"wave": SOUND.tolist()}))
    wave = Port(kind="wave", dtype="float32", shape=("batch", "samples"))
    volume = Port(kind="scalar", dtype="float32", shape=("batch",), minimum=0, maximum=2, default=1)
    task = Task(summary="A louder sound", inputs={"sound": wave, "volume": volume}, outputs={"louder": wave})
    half = np.array([0.5], np.float32)
    return bundle(tmp_path / "amplifier", "amplifier", task, GRAPH, sound=SOUND, volume=half, louder=SOUND / 2)


def run_it():
    done = zoo("run", "./amplifier", "--sound", "in.wave.json", "--volume", "0.5", "--out", "out.wave.json")
    assert (done.code, done.out) == (0, "out.wave.json\n"), done.err


# --- The commands -----------------------------------------------------------------------------------------------------


def test_run_reads_its_file_and_writes_its_file(amplifier, tmp_path):
    run_it()
    written = json.loads((tmp_path / "out.wave.json").read_bytes())
    np.testing.assert_array_equal(np.array(written["wave"], np.float32), SOUND / 2)
    recipe = json.loads(written["zoo"])
    assert recipe["options"] == {"volume": 0.5} and recipe["files"]["sound"][0]["name"] == "in.wave.json"
    done = zoo("run", "./amplifier", "play", "in.wave.json", "--out", "whole.wave.json")  # without its option
    assert done.code == 0, done.err
    assert "--sound FILE" in zoo("run", "./amplifier", "play", "--help").out
    assert zoo("run", "./amplifier").err.startswith("Error: play needs --sound FILE")


@pytest.mark.parametrize(
    ("content", "code", "says"),
    [
        ("no json", 4, "bad.wave.json is not a .wave.json file"),
        ('{"wave": [[0, 1.5]]}', 2, "sound is 1.5; it must be -1 .. 1"),
        ('{"wave": [0, 1]}', 2, "sound has the shape [2]; it must be [batch, samples]: add the batch axis"),
    ],
)
def test_run_refuses_what_the_kind_refuses(amplifier, tmp_path, content, code, says):
    (tmp_path / "bad.wave.json").write_text(content)
    done = zoo("run", "./amplifier", "--sound", "bad.wave.json", "--out", "out.wave.json")
    assert done.code == code and says in done.err and done.err.count("\n") == 1
    assert not (tmp_path / "out.wave.json").exists()
    done = zoo("run", "./amplifier", "--sound", "in.wave.json", "--out", "out.png")
    assert done.code == 2 and "play gives waves; the name must end in .json" in done.err


def test_again_makes_it_again_and_finds_a_change(amplifier, tmp_path):
    run_it()
    done = zoo("again", "out.wave.json", "--model", "./amplifier", "--out", "again.wave.json")
    assert done.code == 0 and done.out.startswith("identical"), done.err
    assert json.loads((tmp_path / "again.wave.json").read_bytes())["wave"] == (SOUND / 2).tolist()
    changed = json.loads((tmp_path / "out.wave.json").read_bytes())
    changed["wave"][0][1] += 0.01
    (tmp_path / "out.wave.json").write_text(json.dumps(changed))
    done = zoo("again", "out.wave.json", "--model", "./amplifier")
    assert done.code == 5 and "out.wave.json differs: worst 0.01" in done.err


def test_verify_replays_it(amplifier):
    done = zoo("verify", "./amplifier", "--replay", "--json")
    assert done.code == 0, done.err
    (report,) = json.loads(done.out)
    assert report["replay"][0]["outputs"]["louder"]["verdict"] == "identical"


def test_info_shows_it(amplifier):
    done = zoo("info", "./amplifier")
    assert done.code == 0, done.err
    rows = [line.split() for line in done.out.splitlines()]
    assert ["in", "sound", "wave", "float32", "[batch,", "samples]", "-1", "..", "1"] in rows


def test_python_takes_and_gives_it(amplifier):
    louder = load("./amplifier").play(sound=SOUND, volume=0.5)["louder"]
    np.testing.assert_array_equal(louder, SOUND / 2)


# --- An older zoo -----------------------------------------------------------------------------------------------------


def test_an_older_zoo_says_which_it_needs(amplifier, monkeypatch):
    monkeypatch.undo()
    monkeypatch.chdir(amplifier.parent)
    for words in (
        ["info", "./amplifier"],
        ["run", "./amplifier", "--sound", "in.wave.json"],
        ["verify", "./amplifier"],
    ):
        done = zoo(*words)
        assert done.code == 4 and done.err.count("\n") == 1, done.err
        assert "needs zoo 9.9 or newer; this is zoo 0.1.0: pip install -U genzoo" in done.err


# --- Hosts ------------------------------------------------------------------------------------------------------------


@pytest.fixture(params=["python", "node"])
def host(request):
    found = HOSTS[request.param]
    need(found.missing())
    return found


@pytest.fixture
def exported(host, amplifier, tmp_path):
    done = zoo("export", "./amplifier", "--target", host.target, "-o", "out")
    assert done.code == 0, done.err
    return tmp_path / "out"


@pytest.mark.slow
def test_a_host_runs_it(host, exported, tmp_path):
    done = zoo("verify", "./out", "--run-host")
    assert done.code == 0, done.err
    np.save(tmp_path / "sound.npy", SOUND)
    words = ["play", "--sound", tmp_path / "sound.npy", "--volume", "0.5", "--out", tmp_path / "louder.npy"]
    for command in (["verify"], words):
        done = call(host, exported, *command)
        assert done.returncode == 0, done.stderr
    np.testing.assert_array_equal(np.load(tmp_path / "louder.npy"), SOUND / 2)
    np.save(tmp_path / "loud.npy", SOUND * 2)
    done = call(host, exported, "play", "--sound", tmp_path / "loud.npy")
    assert done.returncode == 1 and "sound is -2" in done.stderr  # the kind's own bounds, not the port's


@pytest.mark.slow
def test_its_readme_shows_a_call(host, exported):
    assert "play --sound wave.npy --out louder.npy" in (exported / "README.md").read_text()


@pytest.mark.slow
def test_an_older_host_says_which_zoo_it_needs(host, amplifier, tmp_path, monkeypatch):
    """A later kind with a codec of its own: the hosts of this exporter do not implement it."""
    monkeypatch.setattr(Wave, "codec", "wave")
    assert zoo("export", "./amplifier", "--target", host.target, "-o", "out").code == 0
    unknown = "port sound has the codec 'wave', which this host does not know"
    for words in (["verify"], ["play", "--sound", "sound.npy"]):
        done = call(host, tmp_path / "out", *words)
        assert done.returncode == 1
        assert done.stderr == f"Error: {unknown}: export the model again with zoo 9.9 or newer\n"


# --- The page ---------------------------------------------------------------------------------------------------------


def asks(page):
    """What the page asks for: type and accepted files of the field of `sound`."""
    page.wait_for_selector("html[data-ready]", timeout=60_000)
    field = page.locator("#port-sound")
    return field.get_attribute("type"), field.get_attribute("accept")


@pytest.fixture
def page():
    need("" if browser() else "Chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=browser(), args=flags())
        yield chromium.new_page()
        chromium.close()


@pytest.mark.slow
def test_the_page_asks_for_a_file_and_shows_numbers(amplifier, tmp_path, page):
    done = zoo("export", "./amplifier", "--target", "web", "-o", "site")
    assert done.code == 0, done.err
    np.save(tmp_path / "sound.npy", SOUND)
    with serving(Site(tmp_path / "site")) as url:
        page.goto(f"{url}?device=wasm")
        assert asks(page) == ("file", ".npy")
        page.set_input_files("#port-sound", tmp_path / "sound.npy")
        page.fill("#port-volume", "0.5")
        page.locator("#ports pre", has_text="0.5, 0.25").wait_for()
        page.click("#go")
        page.wait_for_selector("html[data-drawn='1']", timeout=30_000)
        assert page.text_content("#outputs pre") == "0, 0.25, 0.125, -0.5, 0.0625"


@pytest.mark.slow
def test_play_serves_it(amplifier, tmp_path, page):
    code = REGISTER + "from zoo.cli import main; main(['play', './amplifier', '--no-browser'])"
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment, cwd=tmp_path) as play:
        try:
            url = play.stdout.readline().strip()
            with urllib.request.urlopen(f"{url}model.json") as answer:
                port = json.load(answer)["tasks"]["play"]["inputs"]["sound"]
            assert (port["codec"], port["field"], port["since"]) == ("floats", "data", "9.9")
            page.goto(f"{url}?device=wasm")
            assert asks(page) == ("file", ".npy")
        finally:
            play.send_signal(signal.SIGINT)
            play.wait(30)
