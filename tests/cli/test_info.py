import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests import tiny
from tests.tiny_tasks import studio
from zoo.cli.examples import examples
from zoo.hookspecs import Port, Task
from zoo.ports.signature import call_text

from .commands import zoo
from .test_run import error


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return studio(tmp_path_factory.mktemp("cli") / "studio")


@pytest.fixture(scope="module")
def registry(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.registry(tmp_path_factory.mktemp("registry"), bundle)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZOO_HOME", str(tmp_path / "home"))


def rows(text: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines()]


def test_a_bundle_s_folder_is_shown_with_tasks_ports_classes_and_files(bundle: Path):
    outcome = zoo("info", bundle)
    assert outcome.code == 0 and outcome.err == ""
    lines = rows(outcome.out)
    assert outcome.out.splitlines()[0] == f"{bundle}: Tests a command line"
    assert ["classes", "0", "Shirt,", "1", "Sneaker,", "2", "Ankle", "boot"] in lines
    assert "reconstruct (default): The picture" in outcome.out.splitlines()
    assert ["in", "steps", "count", "int64", "[]", "1", "..", "50;", "default", "20;", "sampler", "steps"] in lines
    assert lines_with(lines, "image")[:8] == ["in", "image", "image", "uint8", "[batch,", "height,", "width,", "1]"]
    assert "8x8 or more; at most 10,000 pixels" in outcome.out
    assert [row[0] for row in lines if row and row[0].endswith((".onnx", ".safetensors", ".md"))] == sorted(
        path.name for path in bundle.iterdir() if path.name != "model.yaml"
    )


def lines_with(lines: list[list[str]], port: str) -> list[str]:
    return next(row for row in lines if row[:2] == ["in", port])


def test_it_begins_with_what_the_model_can_do_and_ends_with_internals(bundle: Path):
    lines = zoo("info", bundle).out.splitlines()
    assert lines[2:5] == [
        "reconstruct (default): The picture",
        f"    zoo run {bundle} reconstruct --example --out out.png",
        f"    zoo run {bundle} reconstruct --image picture.png --out out.png",
    ]
    order = [next(i for i, line in enumerate(lines) if line.startswith(start)) for start in ("gen", "in ", "digest")]
    assert order == sorted(order)
    report = json.loads(zoo("info", bundle, "--json").out)
    assert report["examples"]["reconstruct"][0] == lines[3].strip() and "decode" in report["examples"]


def test_show_writes_the_picture_of_a_golden_case_or_asks_for_a_file(bundle: Path, tmp_path: Path):
    from PIL import Image

    said = error(zoo("info", bundle, "--show"), 2)
    assert said == "stdout is not a terminal; give a file for the picture: --show --out FILE.png"
    outcome = zoo("info", bundle, "--show", "--out", tmp_path / "s.png")
    assert outcome.code == 0 and outcome.out == f"{tmp_path}/s.png\n"
    with Image.open(tmp_path / "s.png") as picture:
        assert picture.format == "PNG" and min(picture.size) >= 64
    assert "add --show" in error(zoo("info", bundle, "--out", tmp_path / "t.png"), 2)
    assert "ends in .png" in error(zoo("info", bundle, "--show", "--out", tmp_path / "t.txt"), 2)
    assert "--card" in error(zoo("info", bundle, "--show", "--card"), 2)
    assert "does not make pictures" in error(zoo("info", "judge-mnist", "--show", "--out", tmp_path / "j.png"), 2)


def test_in_a_terminal_show_opens_the_picture(bundle: Path, monkeypatch: pytest.MonkeyPatch):
    from zoo.cli import info

    opened: list[str] = []
    monkeypatch.setattr(info.click, "launch", opened.append)
    monkeypatch.setattr("click.testing._NamedTextIOWrapper.isatty", lambda self: True, raising=False)
    outcome = zoo("info", bundle, "--show")
    assert outcome.code == 0 and opened == [outcome.out.strip()] and Path(opened[0]).is_file()


def test_json_is_the_manifest_and_where_it_lies(bundle: Path):
    report = json.loads(zoo("info", bundle, "--json").out)
    assert report["here"] and report["folder"] == str(bundle) and len(report["digest"]) == 64
    assert report["manifest"]["tasks"]["generate"]["inputs"]["steps"]["maximum"] == 50


def test_the_card(bundle: Path):
    assert zoo("info", bundle, "--card").out == "# studio\n\nTests a command line.\n"
    assert error(zoo("info", bundle, "--card", "--json"), 2) == "--card prints Markdown, --json JSON; choose one"


def test_a_card_can_not_steer_the_terminal(tmp_path: Path):
    folder = studio(tmp_path / "studio")
    (folder / "README.md").write_text("# \x1b[2Jgone \u202e txt\n")
    assert zoo("info", folder, "--card").out == "# \\x1b[2Jgone \\u202e txt\n"


def test_of_a_model_that_is_not_here_the_registry_tells(registry: Path):
    outcome = zoo("info", "studio", "--registry", registry)
    assert outcome.code == 0 and "no; `zoo pull " in outcome.out
    assert ["tasks", "reconstruct,", "encode,", "decode,", "generate,", "classify"] in rows(outcome.out)
    report = json.loads(zoo("info", "studio", "--registry", registry, "--json").out)
    assert report["here"] is False and report["versions"] == [1] and "model.yaml" in report["files"]
    assert "fetches it" in error(zoo("info", "studio", "--registry", registry, "--card"), 3)


def test_of_a_pulled_model_the_manifest_tells(registry: Path):
    assert zoo("pull", "studio", "--registry", registry).code == 0
    report = json.loads(zoo("info", "studio", "--registry", registry, "--json").out)
    assert report["here"] and report["manifest"]["name"] == "studio"


def test_what_is_not_there_is_one_line(registry: Path, tmp_path: Path):
    assert "did you mean 'studio'?" in error(zoo("info", "studo", "--registry", registry), 3)
    assert error(zoo("info", f"{tmp_path}/none"), 3).endswith("is not a bundle: it has no model.yaml")
    assert "is not a model reference" in error(zoo("info", "No Such"), 2)


def test_it_imports_nothing_heavy(bundle: Path, registry: Path):
    code = (
        "import sys; from zoo.cli import main\n"
        "heavy = {'numpy', 'onnxruntime', 'onnx', 'PIL', 'torch', 'requests'}\n"
        "for words in eval(sys.argv[1]):\n"
        "    try: main(['info', *words])\n"
        "    except SystemExit as e: assert not e.code, words\n"
        "    assert not heavy & set(sys.modules), (words, heavy & set(sys.modules))"
    )
    place = str(registry)
    calls = [[str(bundle)], [str(bundle), "--json"], [str(bundle), "--card"], ["studio", "--registry", place]]
    root = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-c", code, repr(calls)], capture_output=True, text=True, env=os.environ | {"PYTHONPATH": root}
    )
    assert done.returncode == 0, done.stderr


UNSAFE = "a\x7fb\x9bc\u202ed\u2028e\U000e0001f"


def test_json_escapes_what_could_control_a_terminal(tmp_path):
    bundle = tiny.bundle(tmp_path / "odd", "odd", summary=UNSAFE)
    registry = tiny.registry(tmp_path / "registry", bundle)
    for outcome in (
        zoo("info", bundle, "--json"),
        zoo("list", "odd", "--json", "--registry", registry),
    ):
        [found] = re.findall(r'"summary": (".*"),?$', outcome.out, re.MULTILINE)[:1]
        assert outcome.code == 0 and json.loads(found) == UNSAFE
        assert all(char == "\n" or char.isprintable() for char in outcome.out)


def test_a_bare_name_is_a_reference_and_one_line_says_so(tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    tiny.bundle(tmp_path / "vqvae-fashion")
    assert zoo("info", "vqvae-fashion").out.startswith("vqvae-fashion:")
    assert "'vqvae-fashion' is the name of a model here; the folder is ./vqvae-fashion" in caplog.text
    assert zoo("info", "./vqvae-fashion").out.splitlines()[0].endswith("Doubles every pixel")
    assert zoo("verify", "vqvae-fashion/").code == 0
    outcome = zoo("verify", "nothing-here")
    assert outcome.code == 3 and "the folder" not in outcome.err


def test_ports_classes_and_metrics_fit_100_columns():
    lines = zoo("info", "ddpm-fashion").out.split("\ninternals\n")[0].splitlines()
    assert max(len(line) for line in lines if not line.startswith("    zoo run ")) <= 100  # to be copied
    at = next(n for n, line in enumerate(lines) if line.startswith("in   steps "))
    assert lines[at + 1].startswith(" " * 40) and lines[at + 1].strip()  # the summary goes on


@pytest.mark.parametrize(
    ("dtype", "limits", "shown"),
    [
        ("int64", {"minimum": 1234567}, "1234567"),
        ("int64", {"maximum": -1}, "-1"),
        ("int64", {"minimum": -5, "maximum": 5}, "0"),
        ("float32", {"minimum": 1234567.5}, "1234567.5"),
        ("float32", {"minimum": -2.0, "maximum": -0.5}, "-0.5"),
    ],
)
def test_the_numbers_of_examples_are_exact_and_allowed(dtype: str, limits: dict[str, float], shown: str):
    port = Port(kind="scalar" if dtype == "float32" else "label", dtype=dtype, shape=("batch",), **limits)
    image = Port(kind="image", dtype="uint8", shape=("batch", 8, 8, 1))
    task = Task(summary="Draws", inputs={"how": port}, outputs={"image": image})
    assert list(examples("tiny", "draw", task)) == [f"zoo run tiny draw --how {shown} --out out.png"]


def test_defaults_are_exact_in_the_text_of_a_model():
    port = Port(kind="count", dtype="int64", shape=(), default=1234567)
    image = Port(kind="image", dtype="uint8", shape=("batch", 8, 8, 1))
    assert call_text(Task(summary="Draws", inputs={"steps": port}, outputs={"image": image})).startswith(
        "(steps=1234567) -> image"
    )
