import io
import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests import tiny
from tests.children import started
from tests.tiny_tasks import copy_with_version, studio
from zoo.media import tensors

from .commands import Outcome, zoo


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return studio(tmp_path_factory.mktemp("cli") / "studio")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in, with a picture, and a store of its own."""
    monkeypatch.setenv("ZOO_HOME", str(tmp_path / "home"))
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    Image.fromarray(PIXELS).save("x.png")
    return folder


PIXELS = np.random.default_rng(0).integers(0, 256, (8, 12), dtype=np.uint8)


def error(outcome: Outcome, code: int) -> str:
    """The one line of a failure."""
    lines = outcome.err.splitlines()
    assert outcome.code == code and lines and lines[-1].startswith("Error: "), outcome
    return lines[-1].removeprefix("Error: ")


def pixels(path: str | io.BytesIO) -> np.ndarray:
    return np.asarray(Image.open(path))


def test_a_picture_in_and_a_picture_out(bundle: Path):
    outcome = zoo("run", bundle, "--image", "x.png", "--device", "cpu")
    assert (outcome.code, outcome.out) == (0, "studio-reconstruct.png\n")
    assert outcome.err.startswith("on cpu, ") and outcome.err.count("\n") == 1
    assert (pixels("studio-reconstruct.png") == PIXELS).all()


def test_a_name_that_was_not_given_never_overwrites_and_one_that_was_does(bundle: Path):
    Path("studio-reconstruct.png").write_text("mine")
    assert zoo("run", bundle, "--image", "x.png").out == "studio-reconstruct-2.png\n"
    assert zoo("run", bundle, "--image", "x.png").out == "studio-reconstruct-3.png\n"
    assert Path("studio-reconstruct.png").read_text() == "mine"
    assert zoo("run", bundle, "--image", "x.png", "--out", "studio-reconstruct.png").code == 0
    assert (pixels("studio-reconstruct.png") == PIXELS).all()


@pytest.mark.parametrize("out", ["x.png", "./link.png", "x{i}.png"])
def test_a_file_that_is_read_is_never_overwritten(bundle: Path, out: str):
    Path("link.png").symlink_to("x.png")
    Path("x0.png").hardlink_to("x.png")
    before = Path("x.png").read_bytes()
    said = error(zoo("run", bundle, "--image", "x.png", "--out", out), 2)
    name = out.replace("{i}", "0")
    assert said == f"--out would overwrite {name}, which is read; give another name"
    assert Path("x.png").read_bytes() == before


def test_many_pictures_are_a_grid_or_a_file_each(bundle: Path):
    common = ("run", bundle, "generate", "-n", 3, "--seed", 4, "--guidance", 0, "--label", "sneaker")
    assert zoo(*common).out == "studio-generate-4.png\n"
    grid = pixels("studio-generate-4.png")
    assert grid.shape == (18, 18) and [grid[0, 0], grid[0, 10], grid[10, 0]] == [31 * s + 27 for s in (4, 5, 6)]
    assert (grid[:, 8:10] == 255).all() and (grid[10:, 10:] == 255).all()
    assert zoo(*common, "--out", "x-{i}.png").out == "x-0.png\nx-1.png\nx-2.png\n"
    assert [pixels(f"x-{i}.png")[0, 0] for i in range(3)] == [31 * s + 27 for s in (4, 5, 6)]


def test_metadata_say_how_the_picture_was_made(bundle: Path):
    zoo("run", bundle, "generate", "-n", 2, "--seed", 4, "--label", "sneaker", "--out", "g.png", "--device", "cpu")
    recipe = json.loads(Image.open("g.png").text["zoo"])
    versions = recipe.pop("versions")
    assert versions.keys() == {"zoo", "onnxruntime"} and len(recipe.pop("digest")) == 64
    assert recipe.pop("options") == {"label": 1, "steps": 20, "guidance": pytest.approx(0.1)}
    assert recipe == {
        "format": 1,
        "model": "studio:1",  # never the folder
        "task": "generate",
        "output": "image",
        "seed": 4,
        "number": 2,
        "tile": None,
        "invert": False,
        "fit": False,
        "example": False,
        "files": {},
        "provider": "cpu",
        "grid": {"count": 2, "columns": 2, "height": 8, "width": 8, "gap": 2, "scale": 1, "caption": 0},
        "index": None,
    }


def test_stdin_and_stdout(bundle: Path):
    data = Path("x.png").read_bytes()
    outcome = zoo("run", bundle, "--image", "-", "--out", "-", stdin=data)
    assert outcome.code == 0 and (pixels(io.BytesIO(outcome.data)) == PIXELS).all()
    assert list(Path().iterdir()) == [Path("x.png")]


def test_tokens_there_and_back(bundle: Path):
    assert zoo("run", bundle, "encode", "--image", "x.png").out == "studio-encode.safetensors\n"
    assert tensors.load(Path("studio-encode.safetensors"))["size"].tolist() == [8, 12]
    assert json.loads(tensors.read_metadata(Path("studio-encode.safetensors"))["zoo"])["model"] == "studio:1"
    assert zoo("run", bundle, "decode", "--tokens", "studio-encode.safetensors", "--out", "d.png").code == 0
    assert (pixels("d.png") == (PIXELS[::4, ::4] // 64 * 64).repeat(4, 0).repeat(4, 1)).all()

    assert zoo("run", bundle, "encode", "--image", "x.png", "--out", "t.npy").code == 0
    outcome = zoo("run", bundle, "decode", "--tokens", "t.npy", "--out", "n.png")
    assert (pixels("n.png") == pixels("d.png")).all() and "does not store the picture's size" in outcome.err


def test_tokens_of_another_model_are_refused(bundle: Path, tmp_path: Path):
    zoo("run", bundle, "encode", "--image", "x.png", "--out", "t.safetensors")
    other = copy_with_version(bundle, tmp_path / "other", 2)
    said = error(zoo("run", other, "decode", "--tokens", "t.safetensors"), 4)
    assert said.startswith("t.safetensors contains tokens of studio:1 (") and said.endswith("another model's tokens")


def test_labels_are_shown_as_a_table_and_as_json(bundle: Path):
    outcome = zoo("run", bundle, "classify", "--image", "x.png", "--image", "x.png")
    lines = outcome.out.splitlines()
    assert lines[0].split() == ["picture", "label", "score", "next"] and len(lines) == 3
    assert lines[1].split()[:2] == ["x.png", "Sneaker"] and "Shirt 0." in lines[1]
    report = json.loads(zoo("run", bundle, "classify", "--image", "x.png", "--json", "--device", "cpu").out)
    assert report["values"]["label"] == [{"number": 1, "name": "Sneaker"}] and report["paths"] == []
    assert len(report["values"]["probabilities"][0]) == 3
    assert report["provider"] == report["device"] == "cpu" and report["task"] == "classify" and report["seconds"] >= 0
    assert zoo("run", bundle, "classify", "--image", "x.png", "--out", "c.safetensors").out == "c.safetensors\n"
    assert tensors.load(Path("c.safetensors")).keys() == {"label", "probabilities"}


def test_a_drawn_seed_is_printed_and_makes_the_same_picture(bundle: Path):
    report = json.loads(zoo("run", bundle, "generate", "--json", "--out", "a.png").out)
    assert report["notes"] == [f"seed {report['seed']}"]
    zoo("run", bundle, "generate", "--seed", report["seed"], "--out", "b.png")
    assert Path("a.png").read_bytes() == Path("b.png").read_bytes()


def test_the_example_runs_every_task(bundle: Path):
    for task in ("reconstruct", "encode", "decode", "generate", "classify"):
        assert zoo("run", bundle, task, "--example").code == 0


def test_help_of_the_command_and_of_a_task(bundle: Path):
    outcome = zoo("run", "--help")
    assert outcome.code == 0 and "Usage: zoo run MODEL [TASK] [OPTIONS]" in outcome.out.replace("main", "zoo")
    assert "zoo run vqvae-fashion reconstruct --image shoe.png" in outcome.out
    outcome = zoo("run", bundle, "generate", "--help")
    assert outcome.code == 0 and "--steps INTEGER" in outcome.out and "[1 .. 50; default: 20]" in outcome.out
    assert "-n N" in outcome.out and "Other tasks of studio: reconstruct, encode, decode, classify." in outcome.out
    outcome = zoo("run", bundle, "--help")
    assert "--image FILE" in outcome.out and "-n N" not in outcome.out


def test_the_examples_in_the_help_of_every_task_work(bundle: Path):
    Image.fromarray(PIXELS).save("picture.png")
    assert zoo("run", bundle, "encode", "picture.png", "--out", "tokens.safetensors").code == 0
    seen = []
    for task in ("reconstruct", "encode", "decode", "generate", "classify"):
        shown = zoo("run", bundle, task, "--help").out
        lines = [line.strip() for line in shown.splitlines() if line.strip().startswith("zoo run")]
        assert lines, shown
        for line in lines:
            outcome = zoo(*shlex.split(line)[1:])
            assert outcome.code == 0, (line, outcome.err)
        seen += lines
    assert f"zoo run {bundle} reconstruct --image picture.png --out out.png" in seen
    assert f"zoo run {bundle} decode --tokens tokens.safetensors --out out.png" in seen


def test_help_names_the_classes(bundle: Path):
    assert "Classes of --label: Shirt, Sneaker, Ankle boot." in zoo("run", bundle, "generate", "--help").out
    assert "Classes of" not in zoo("run", bundle, "reconstruct", "--help").out


def test_a_file_in_the_place_of_the_task_gets_the_option_for_it(bundle: Path):
    said = error(zoo("run", bundle, "x.png"), 2)
    line = f"zoo run {bundle} reconstruct --image x.png"
    assert said == f"'x.png' is a file, not a task; reconstruct takes it with --image: {line}"
    assert zoo(*shlex.split(line)[1:]).code == 0
    assert "reconstruct --image no-such.JPG" in error(zoo("run", bundle, "no-such.JPG"), 2)
    assert "did you mean 'reconstruct'" in error(zoo("run", bundle, "reconstrukt"), 3)


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["reconstruct"], 2, "reconstruct needs --image FILE; "),
        (["reconstrct"], 3, "did you mean 'reconstruct'?"),
        (["--imge", "x.png"], 2, "No such option '--imge'. Did you mean '--image'?"),
        (["--image", "x.png", "generate"], 2, "give image only once: with --image, or as files without an option"),
        (["--image", "none.png"], 3, "none.png does not exist"),
        (["--image", "x.png", "--device", "gpu"], 2, "'gpu' is not one of 'auto', 'cpu', 'cuda'"),
        (["--image", "x.png", "--out", "no/where.png"], 7, "the folder no does not exist; create it first"),
        (["--image", "x.png", "--out", "."], 2, "--out . is a folder; give a file name in it"),
        (["--image", "x.png", "--out", "x.jpg"], 2, "reconstruct gives pictures; the name must end in .png"),
        (["--image", "x.png", "--out", "/proc/x.png"], 7, "/proc"),
        (["--image", "x.png", "--out", "-", "--json"], 2, "--json and --out - both write to stdout"),
        (
            ["encode", "--image", "x.png", "--out", "t.png"],
            2,
            "encode gives tokens; the name must end in .safetensors or",
        ),
        (["classify", "--image", "x.png", "--out", "c.npy"], 2, ".npy can only contain one array: use .safetensors"),
        (["generate", "--label", "boots"], 2, "label 'boots' is not a class of this model"),
        (["generate", "--steps", "0"], 2, "steps is 0; it must be 1 .. 50"),
        (["generate", "--steps", "few"], 2, "'few' is not a valid integer"),
        (["generate", "-n", "0"], 2, "-n is 0; it must be 1 .. 10000"),
        (["generate", "--seed", "1", "--seed", "2"], 2, "--seed was given 2 times: 1 and 2; give it once"),
        (["generate", "--seed", "-1"], 2, "seed is -1; it must be 0 .. "),
        (["generate", "--seed", str(2**53)], 2, f"seed is {2**53}; it must be 0 .. {2**53 - 1}"),
        (["generate", "--guidance", "nan"], 2, "guidance contains NaN or infinity"),
    ],
)
def test_what_is_wrong_is_one_line(bundle: Path, words: list[str], code: int, said: str):
    assert said in error(zoo("run", bundle, *words), code)


@pytest.mark.parametrize("isolate", [pytest.param("--isolate", marks=pytest.mark.slow), "--no-isolate"])
def test_names_that_are_not_utf8_work(bundle: Path, isolate: str):
    """Of a picture, an output, a bundle and a registry; ONNX Runtime itself takes only UTF-8."""
    picture, out, folder, registry = (os.fsdecode(name) for name in (b"p\xff.png", b"o\xff.png", b"b\xff", b"r\xff"))
    Path("x.png").rename(picture)
    shutil.copytree(bundle, folder)
    tiny.registry(Path(registry), tiny.bundle(Path("tiny")))
    words = ("--image", picture, isolate, "--json", "--out")
    assert zoo("run", f"./{folder}", *words, out).code == 0
    assert (pixels(out) == PIXELS).all()
    assert zoo("run", "tiny", "--registry", registry, *words, "doubled.png").code == 0
    assert (pixels("doubled.png") == np.minimum(PIXELS.astype(int) * 2, 255)).all()


def test_bad_pictures_are_one_line(bundle: Path):
    Path("cut.png").write_bytes(Path("x.png").read_bytes()[:90])
    Image.fromarray(PIXELS[:5, :5]).save("small.png")
    Path("text.png").write_text("no picture")
    for name, said in (
        ("cut.png", "cut.png "),
        ("small.png", "small.png is 5x5 pixels; it must be at least 8x8"),
        ("text.png", "text.png is not a picture that zoo can read: PNG, JPEG, WebP, GIF or BMP"),
    ):
        assert error(zoo("run", bundle, "--image", name), 4).startswith(said)
    assert not Path("studio-reconstruct.png").exists()


def test_the_model_comes_first():
    assert error(zoo("run", "--image", "x.png"), 2) == "the model comes first: zoo run MODEL [TASK] [OPTIONS]"
    assert error(zoo("run"), 2).startswith("name a model: zoo run MODEL [TASK] [OPTIONS]")
    assert "Usage:" in zoo("run", "--help").out


def test_cuda_without_a_gpu_is_an_error(bundle: Path):
    from zoo.runtime import nvidia_gpus

    if nvidia_gpus():
        pytest.skip("this machine has a GPU")
    said = error(zoo("run", bundle, "--image", "x.png", "--device", "cuda"), 8)
    assert said == "CUDA was requested but is unavailable: this machine has no NVIDIA GPU, or no driver for it"


def test_a_model_that_is_not_here_is_fetched_after_saying_how_much(tmp_path: Path):
    source = tiny.bundle(tmp_path / "tiny", ballast=2_000)
    registry = tiny.registry(tmp_path / "registry", source)
    assert "is not in the store" in error(zoo("run", "tiny", "--registry", registry, "--help"), 3)
    first = zoo("run", "tiny", "--registry", registry, "--image", "x.png", "--out", "d.png")
    assert first.code == 0 and "is not in the store: fetching " in first.err and " kB" in first.err
    assert (pixels("d.png") == np.minimum(PIXELS.astype(int) * 2, 255)).all()
    again = zoo("run", "tiny", f"--registry={registry}", "--image", "x.png", "--out", "d.png")
    assert again.code == 0 and "fetching" not in again.err
    assert "--image FILE" in zoo("run", "tiny", "--registry", registry, "--help").out


def test_a_reader_that_goes_away_is_exit_code_141(bundle: Path):
    """The pipe's reader is closed before the PNG is written."""
    reader, writer = os.pipe()
    command = [sys.executable, "-m", "zoo", "run", str(bundle), "--image", "x.png", "--out", "-"]
    with started(command, stdout=writer, stderr=subprocess.PIPE, cwd=Path.cwd(), env=_environment()) as process:
        os.close(writer)
        os.close(reader)
        _, errors = process.communicate()
    assert process.returncode == 141 and b"Traceback" not in errors and b"Error" not in errors


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has this file")
@pytest.mark.parametrize("words", [("list",), ("run", "BUNDLE", "--image", "x.png", "--out", "-")])
def test_a_full_disk_behind_stdout_is_one_line_and_exit_code_7(bundle: Path, words: tuple[str, ...]):
    command = [sys.executable, "-m", "zoo", *(str(bundle) if word == "BUNDLE" else word for word in words)]
    with open("/dev/full", "w") as full:  # noqa: PTH123
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, env=_environment())
    assert done.returncode == 7
    assert done.stderr == "Error: cannot write the output: No space left on device\n"


def test_running_does_not_import_onnx_or_torch(tmp_path: Path):
    """`onnx` costs 0.2 s: graphs are checked when a model is pulled."""
    registry = tiny.registry(tmp_path / "registry", tiny.bundle(tmp_path / "tiny"))
    assert zoo("run", "tiny", "--registry", registry, "--image", "x.png").code == 0
    code = (
        "import sys; from zoo.cli import main\n"
        f"try: main(['run', 'tiny', '--registry', {str(registry)!r}, '--image', 'x.png', '--out', 'y.png'])\n"
        "except SystemExit as e: print(e.code, sorted({'onnx', 'torch', 'timm', 'requests'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=_environment())
    assert done.stdout == "y.png\n0 []\n", done.stderr


def _environment() -> dict[str, str]:
    root = str(Path(__file__).parents[2])
    return os.environ | {"PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])}


def test_a_picture_over_the_limit_is_told_about_tiles_where_the_task_has_them():
    Image.new("L", (3000, 3000)).save("large.png")
    said = error(zoo("run", "vqvae-fashion", "reconstruct", "--image", "large.png"), 4)
    assert "9,000,000 pixels; it may have at most" in said
    assert said.endswith("; --tile PIXELS works on larger ones in tiles of that side length")


def test_a_tensor_may_be_in_a_safetensors_file(here: Path):
    z = np.zeros((1, 32), np.float32)
    run = ("run", "vae-fashion", "decode", "--out", "z.png", "--device", "cpu", "--latents")
    for names, said in ((["z"], ""), (["latents", "other"], ""), (["a", "b"], "has no tensor latents; it has a, b")):
        tensors.save(here / "z.safetensors", dict.fromkeys(names, z))
        outcome = zoo(*run, "z.safetensors")
        assert error(outcome, 4).endswith(said) if said else outcome.code == 0, outcome
    (here / "z.safetensors").write_bytes(b"\x00" * 8 + b"{")
    assert "z.safetensors" in error(zoo(*run, "z.safetensors"), 4)
