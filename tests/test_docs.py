"""What the documentation shows is run, what it links to is there, and what is generated is fresh."""

import importlib.util
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.cli.commands import zoo

ROOT = Path(__file__).parent.parent
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]


def _generate():
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["cli.md", "contract.md", "models.md", "writing-a-plugin.md"])
def test_generated_pages_are_fresh(name):
    page = _generate().PAGES[name]()
    assert (ROOT / "docs" / name).read_text() == page, f"docs/{name} is out of date: run `make generate`"


def test_every_hook_is_on_the_contract_page():
    from zoo import hookspecs

    page = (ROOT / "docs" / "contract.md").read_text()
    hooks = [name for name, value in vars(hookspecs).items() if hasattr(value, "zoo_spec")]
    assert len(hooks) >= 8
    assert [name for name in hooks if f"### {name}\n" not in page] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    targets = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text)
    local = [t for t in targets if not re.match(r"[a-z]+:", t)]
    assert [t for t in local if not (page.parent / t).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_pages_have_no_place_holders(page):
    assert re.findall(r"\b(TODO|FIXME|XXX|[A-Z]+_TABLE|[A-Z]+_COMMANDS|RESULTS)\b", page.read_text()) == []


def _console_lines(page: Path) -> list[str]:
    blocks = re.findall(r"```console\n(.*?)```", page.read_text(), re.DOTALL)
    return [line[2:] for block in blocks for line in block.splitlines() if line.startswith("$ zoo ")]


def _commands(page: Path) -> list[list[str]]:
    """The page's `zoo` commands; a training is cut short, since its length is not what is tested."""
    commands = [shlex.split(line, comments=True) for line in _console_lines(page)]
    short = ["--steps", "2", "--batch-size", "4"]
    return [[*command, *short] if command[1] == "train" else command for command in commands]


@pytest.fixture
def place(tmp_path, monkeypatch):
    """An empty folder with the pictures that the pages speak of, and a store of its own."""
    from zoo.media.drawings import SHAPES, silhouette

    rng = np.random.default_rng(0)
    for name in SHAPES[:3]:
        folder = tmp_path / "my-pictures" / name
        folder.mkdir(parents=True)
        for i in range(2):
            Image.fromarray(silhouette(name, 28, 28, 1, rng)[..., 0]).save(folder / f"{i}.png")
    for number, name in enumerate(["shoe.png", "boot.png"]):
        Image.open(tmp_path / "my-pictures" / SHAPES[number] / "0.png").save(tmp_path / name)
    Image.new("L", (60, 40), "white").save(tmp_path / "scan.png")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ZOO_HOME", str(tmp_path / "home"))
    return tmp_path


def said_by(words: list[str]) -> str:
    """What a command of a page prints, which must work: in a process of its own, as the reader starts it.

    Trainings and measurements run in this one, which has torch imported already: tests/cli/test_train_processes.py
    starts them as processes.
    """
    if words[:2] in (["zoo", "train"], ["zoo", "eval"]):
        outcome = zoo(*words[1:])
        code, said = outcome.code, outcome.out + outcome.err
    else:
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        done = subprocess.run(words, capture_output=True, text=True, env=os.environ | {"PATH": path})
        code, said = done.returncode, done.stdout + done.stderr
    assert code == 0, f"{shlex.join(words)}\n{said}"
    return said


@pytest.mark.slow
@pytest.mark.parametrize("page", ["README.md", "docs/writing-a-plugin.md", "docs/looking.md"])
def test_a_page_s_commands_work(place, page):
    commands = _commands(ROOT / page)
    assert len(commands) >= 8
    for command in commands:
        said_by(command)


@pytest.mark.slow
def test_the_recording_of_own_pictures_is_what_happens(place):
    """Each command works, and gives the lines that the page shows: numbers differ, since the training here is tiny."""
    from zoo.media.drawings import SHAPES, silhouette

    rng = np.random.default_rng(0)
    for name, shape in zip(("food", "people", "symbols"), SHAPES):
        folder = place / "emoji" / name
        folder.mkdir(parents=True)
        for i in range(8):
            grey = silhouette(shape, 48, 48, 1, rng)[4:44]
            Image.fromarray(np.concatenate([grey, 255 - grey, grey // 2], axis=2)).save(folder / f"{i}.png")
    page = (ROOT / "docs" / "own-pictures.md").read_text()
    blocks = re.findall(r"```console\n(.*?)```", page, re.DOTALL)
    parts = [part for block in blocks for part in re.split(r"^\$ ", block, flags=re.MULTILINE) if part]
    assert len(parts) == 8
    for part in parts:
        command, *shown = part.splitlines()
        words = shlex.split(re.sub(r"--max-time \w+", "--preset tiny", command).replace("--samples 150", "--samples 6"))
        said = said_by(words)
        assert command != "zoo list mine" or "mine/drawer:1  colour 48x40 emoji: food, people" in said
        lines = {_without_numbers(line) for line in said.splitlines()}
        missing = [line for line in shown if line != "…" and _without_numbers(line) not in lines]
        assert not missing, f"{command}\n{missing}\n{said}"
    with Image.open("food.png") as food:
        assert food.size == (98, 82)  # four of 48x40, with a line between them
    assert (place / "drawer.training" / "loss.png").is_file()


def _without_numbers(line: str) -> str:
    """What does not depend on the preset or on what was measured: a tiny model has fewer tasks."""
    line = re.sub(r"^(step .*?: loss \S+),.*", r"\1", line)
    line = re.sub(r", generate_begin.*", "", line.replace("preset small", "preset tiny"))
    line = re.sub(r"-?[0-9][0-9,.]*(e[-+]?[0-9]+)?", "N", line)
    return re.sub(r" +", " ", re.sub(r"\bN (GFLOP|MFLOP|KB|MB|GB|B|s|min|%)\b|\bin N s\b", "N", line)).strip()


def test_the_readme_s_python_works(place):
    source = (ROOT / "README.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", source, re.DOTALL)
    script = next(block for block in blocks if "zoo.load" in block)
    names: dict = {}
    exec(script, names)
    assert names["tokens"].shape == (1, 7, 7)
    assert names["again"].shape == (2, 28, 28, 1)


def test_the_python_page_s_code_works(place):
    script = re.search(r"```python\n(.*?)```", (ROOT / "docs" / "python.md").read_text(), re.DOTALL)[1]
    names: dict = {}
    exec(script.replace('["sneaker", "bag"]', '["sneaker", "bag"], steps=2'), names)
    assert names["drawn"]["image"].shape == (2, 28, 28, 1) and len(names["drawn"].images) == 2


@pytest.mark.slow
def test_the_readme_s_plugin_exports_and_runs(place):
    """The plugin of one screen is real: with its model file added, it makes a bundle that inverts pictures."""
    import torch

    import zoo
    from zoo.build.export import export_bundle
    from zoo.formats.manifest import Training
    from zoo.hookspecs import BuildRequest

    class Inverter(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.level = torch.nn.Parameter(torch.tensor([255.0]))

        def forward(self, image):
            return (self.level - image.float()).to(torch.uint8)

    source = (ROOT / "README.md").read_text()
    block = next(b for b in re.findall(r"```python\n(.*?)```", source, re.DOTALL) if "describe_family" in b)
    hooks: dict = {"model_of_the_package": Inverter}
    exec(block.replace("from .model import Inverter", "Inverter = model_of_the_package"), hooks)

    class Loaded:
        def call(self, hook, request):
            return hooks[hook](request)

    build = BuildRequest(family="tiny", config={})
    export_bundle(
        out=place / "tiny",
        name="tiny",
        version=1,
        family="tiny",
        loaded=Loaded(),
        config={},
        module=hooks["build_module"](build),
        classes=(),
        summary="inverts",
        license="MIT",
        training=Training(),
    )
    picture = np.arange(64, dtype=np.uint8).reshape(1, 8, 8, 1)
    np.testing.assert_array_equal(zoo.load(str(place / "tiny")).invert(image=picture)["inverted"], 255 - picture)
