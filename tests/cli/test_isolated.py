"""Every command that runs a model runs a stranger's in a worker process."""

import ast
import json
from pathlib import Path

import pytest
from PIL import Image

from tests import hostile, tiny
from zoo.store import trust

from .commands import zoo

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ZOO_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("ZOO_ISOLATE")
    monkeypatch.chdir(tmp_path)
    Image.new("L", (8, 8), 3).save("x.png")
    return tmp_path


@pytest.fixture
def no_session_here(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **options: object) -> None:
        raise AssertionError("a session was opened in this process")

    monkeypatch.setattr("zoo.run.isolated.open_session", refuse)


def test_only_what_isolates_opens_sessions():
    """Whoever opens a session asks `zoo.run.isolated.opener`; the others open graphs that they have just made."""
    own = {"run/isolated.py", "run/worker.py", "doctor.py", "build/bundling.py", "build/export.py", "build/subject.py"}
    own.add("run/speed.py")  # `zoo publish`, of models that were made here
    found = set()
    for path in (ROOT / "zoo").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.ImportFrom) else []
            if {"open_session", "InferenceSession"} & {*names, getattr(node, "attr", "")}:
                found.add(path.relative_to(ROOT / "zoo").as_posix())
    assert found == own | {"runtime.py"}


def test_run_and_again_and_verify_use_a_worker(no_session_here):
    folder = tiny.bundle(Path("tiny"))
    assert zoo("run", "./tiny", "double", "--image", "x.png", "--out", "o.png").out == "o.png\n"
    outcome = zoo("again", "o.png", "--model", "./tiny")
    assert outcome.out.startswith("identical "), outcome.err
    outcome = zoo("verify", "./tiny", "--replay", "--device", "cpu")
    assert outcome.code == 0 and "identical" in outcome.out, outcome.err
    assert folder.is_dir()


def test_the_recipe_names_the_runtime_of_the_worker():
    import onnxruntime

    tiny.bundle(Path("tiny"))
    zoo("run", "./tiny", "--image", "x.png", "--out", "o.png")
    recipe = json.loads(Image.open("o.png").text["zoo"])
    assert recipe["versions"]["onnxruntime"] == onnxruntime.__version__


@pytest.mark.parametrize(
    "words",
    [
        ("run", "vqvae-fashion", "reconstruct", "--example", "--out", "o.png"),
        ("verify", "vqvae-fashion:1", "--replay", "--device", "cpu"),
        ("export", "vae-fashion", "--target", "web", "--task", "generate", "-o", "site"),
    ],
    ids=lambda words: words[0],
)
def test_isolate_applies_to_built_in_models(no_session_here, words):
    """The web target has no int64: its export runs the part of the graph that draws the noise, and the golden cases."""
    outcome = zoo(*words, "--isolate")
    assert outcome.code == 0, outcome.err
    with pytest.raises(AssertionError, match="in this process"):
        zoo(*(word.replace("site", "other") for word in words))


@pytest.mark.slow
def test_eval_uses_a_worker(no_session_here, tmp_path: Path):
    import numpy as np

    from zoo.media import drawings

    pictures = np.stack([drawings.scene(28, 28, 1, np.random.default_rng(i)) for i in range(8)])
    np.savez(tmp_path / "drawn.npz", images=pictures, labels=np.arange(8))
    outcome = zoo("eval", "vqvae-fashion", "--data", tmp_path / "drawn.npz", "--isolate", "--json")
    assert outcome.code == 0 and json.loads(outcome.out)[0]["name"] == "psnr", outcome.err


@pytest.mark.parametrize("words", [("run",), ("verify", "--replay", "--device", "cpu")], ids=lambda words: words[0])
def test_a_graph_that_crashes_is_one_line(monkeypatch, words):
    """The check refuses this one, so it is switched off: there will be others."""
    monkeypatch.setattr("zoo.store.check_apart.check_in", lambda worker, folder, manifest: [])
    hostile.bundle(Path("stranger"), "null")
    command, *options = words
    inputs = ("--image", "x.png", "--out", "o.png") if command == "run" else ()
    outcome = zoo(command, "./stranger", *inputs, *options)
    assert (outcome.code, outcome.err.count("\n")) == (4, 1)
    assert "stranger: running double.onnx crashed its worker process (SIGSEGV)" in outcome.err


@pytest.mark.parametrize("kind", ["flat", "empty", "five channels"])
def test_what_a_graph_gives_is_compared_with_its_ports(kind):
    hostile.bundle(Path("stranger"), kind)
    for isolate in ("--isolate", "--no-isolate"):
        outcome = zoo("run", "./stranger", "--image", "x.png", "--out", "o.png", isolate)
        assert (outcome.code, outcome.err.count("\n")) == (4, 1) and "does not match its manifest" in outcome.err
    assert not Path("o.png").exists()


def test_a_graph_that_is_known_to_crash_is_refused(no_session_here):
    hostile.bundle(Path("stranger"), "null")
    outcome = zoo("run", "./stranger", "--image", "x.png")
    assert outcome.code == 4 and "leaves out input 2 of Max, which is not optional" in outcome.err


@pytest.mark.slow
def test_what_build_makes_needs_no_worker():
    outcome = zoo("build", "vae-fashion", "--out", "mine")
    assert outcome.code == 0, outcome.err
    from zoo.store.locate import locate

    bundle = locate("./mine")
    assert trust.was_made_here(bundle.digest) and bundle.worker is None
