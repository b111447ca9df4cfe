"""Without the extra that a command needs: one line, with the command that fits this installation."""

import json
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from PIL import Image

from tests import tiny
from tests.fake_plugins import ROOT, hide_runtime, run_python, run_zoo, two_runtimes
from zoo.system import installation
from zoo.system.installation import fitting_runtime, install_command, missing_module, runtime_command, runtime_to_add
from zoo.system.model_distributions import model_command

PIPX = "/home/me/.local/pipx/venvs/genzoo"
UV_TOOL = "/home/me/.local/share/uv/tools/genzoo"

WITHOUT = """
import sys
for name in sys.argv.pop(1).split(","):
    sys.modules[name] = None
from zoo.cli import main
main(prog_name="zoo")
"""


def modules_of(extra: str) -> list[str]:
    """The modules that an extra brings and the core does not."""
    lines = metadata.requires("genzoo")
    names = {re.match(r"[\w.-]+", line)[0] for line in lines if re.search(rf"extra == ['\"]{extra}['\"]", line)}
    return sorted(name.replace("-", "_") for name in names)


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        ("build", ["train", "vqvae", "--data", ".", "--out", "m"]),
        ("build", ["import", "ddpm", "weights.safetensors", "--out", "m"]),
        ("build", ["build", "vqvae-fashion", "--out", "m"]),
        ("build", ["eval", "vqvae-fashion", "--data", "."]),
        ("build", ["plugin", "new", "mine", "--out", "m"]),
        ("build", ["plugin", "check", "vqvae"]),
        ("tables", ["run", "judge-fashion", "classify", "0.png", "--out", "t.parquet"]),
    ],
    ids=lambda value: value if isinstance(value, str) else value[0],
)
def test_a_command_without_its_extra_is_one_line(tmp_path: Path, extra: str, words: list[str]):
    modules = modules_of(extra)
    assert modules
    (tmp_path / "weights.safetensors").write_bytes(b"")
    for i in range(8):
        Image.new("L", (28, 28), 30 * i).save(tmp_path / f"{i}.png")
    blocked = ",".join([*modules, *(["pyarrow.parquet"] if extra == "tables" else [])])
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, blocked, *words], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode in (2, 9) and "Traceback" not in done.stderr, done.stderr
    line = done.stderr.splitlines()[-1]  # `eval` says first what it read
    assert line.startswith("Error: ") and any(module in line for module in modules), line
    assert line.endswith(f": {install_command(extra)}")
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize(
    ("prefix", "cfg", "url", "command"),
    [
        ("/usr", "", None, "pip install 'genzoo[build]'"),
        (PIPX, "", None, "pipx install --force 'genzoo[build,cpu]'"),
        (UV_TOOL, "uv = 0.9", None, "uv tool install 'genzoo[build,cpu]'"),
        ("venv", "home = /usr\nuv = 0.9.1\n", None, "uv pip install 'genzoo[build]'"),
        ("venv", "home = /usr\n", "file:///home/me/my%20place", "pip install 'genzoo[build]'"),
    ],
)
def test_the_command_fits_the_installation(tmp_path: Path, monkeypatch, prefix: str, cfg: str, url, command: str):
    installed(monkeypatch, tmp_path, prefix, cfg, url)
    assert install_command("build") == command


COMMIT = "0123456789abcdef"
REPOSITORY = {"url": "https://example.org/zoo.git", "vcs_info": {"vcs": "git", "commit_id": COMMIT}}


@pytest.mark.parametrize(
    ("prefix", "about", "what"),
    [
        ("/usr", {"dir_info": {}}, "pip install '{0}/a clone[build]'"),
        ("/usr", {"dir_info": {"editable": True}}, "pip install -e '{0}/a clone[build]'"),
        (PIPX, {"dir_info": {}}, "pipx install --force '{0}/a clone[build,cpu]'"),
        (PIPX, {"dir_info": {"editable": True}}, "pipx install --force -e '{0}/a clone[build,cpu]'"),
        (UV_TOOL, {"dir_info": {}}, "uv tool install '{0}/a clone[build,cpu]'"),
        (UV_TOOL, {"dir_info": {"editable": True}}, "uv tool install -e '{0}/a clone[build,cpu]'"),
        (PIPX, {"url": "file:///gone", "dir_info": {}}, "pipx install --force 'genzoo[build,cpu]'"),
        ("/usr", {"url": "file:///gone.whl", "archive_info": {}}, "pip install 'genzoo[build]'"),
        ("/usr", {"url": "https://example.org/z.whl", "archive_info": {}},
         "pip install 'genzoo[build] @ https://example.org/z.whl'"),
        (PIPX, REPOSITORY, f"pipx install --force 'genzoo[build,cpu] @ git+https://example.org/zoo.git@{COMMIT}'"),
    ],
)  # fmt: skip
def test_the_command_takes_zoo_from_where_it_came(tmp_path: Path, monkeypatch, prefix: str, about: dict, what: str):
    (tmp_path / "a clone").mkdir()
    installed(monkeypatch, tmp_path, prefix)
    monkeypatch.setattr(installation, "direct_url", lambda: {"url": (tmp_path / "a clone").as_uri()} | about)
    assert install_command("build") == what.format(tmp_path)


# As uv 0.13 writes it.
RECEIPT = """
[tool]
requirements = [
    { name = "genzoo", extras = ["cpu", "tables"], directory = "/home/me/a clone" },
    { name = "genzoo-ddpm-fashion", directory = "/home/me/a clone/models/ddpm-fashion" },
    { name = "zoo-mine", editable = "/home/me/mine" },
    { name = "zoo-other", extras = ["x"], specifier = ">=2" },
    { name = "zoo-git", git = "https://example.org/g.git?subdirectory=p&rev=v1" },
    { name = "zoo-url", url = "https://example.org/u.whl" },
]
"""
OTHERS = (
    "--with '/home/me/a clone/models/ddpm-fashion' --with-editable /home/me/mine --with 'zoo-other[x]>=2'"
    " --with 'zoo-git @ git+https://example.org/g.git@v1#subdirectory=p' --with 'zoo-url @ https://example.org/u.whl'"
)


def test_uv_tool_keeps_what_was_asked_for_before(tmp_path: Path, monkeypatch):
    """`uv tool install` removes every package and extra that it is not told: models and plugins, too."""
    home = tmp_path / "uv" / "tools" / "genzoo"
    home.mkdir(parents=True)
    installed(monkeypatch, tmp_path, str(home))
    (home / "uv-receipt.toml").write_text(RECEIPT)
    assert install_command("build") == f"uv tool install {OTHERS} 'genzoo[build,cpu,tables]'"
    assert install_command("cuda") == f"uv tool install {OTHERS} 'genzoo[cuda,tables]'"
    assert model_command("a") == f"uv tool install --with genzoo-a {OTHERS} 'genzoo[cpu,tables]'"
    (home / "uv-receipt.toml").write_text("[tool]\nrequirements = 3\n")
    assert install_command("build") == "uv tool install 'genzoo[build,cpu]'"


def installed(monkeypatch, tmp_path: Path, prefix: str, cfg: str = "", url: str | None = None, gpus: int = 0) -> None:
    """Pretends that zoo is installed in an environment, on a machine with so many GPUs."""
    place = tmp_path / prefix if prefix == "venv" else Path(prefix)
    if prefix == "venv":
        place.mkdir(exist_ok=True)
        (place / "pyvenv.cfg").write_text(cfg)
    monkeypatch.setattr(sys, "prefix", str(place))
    monkeypatch.setattr(installation, "nvidia_gpus", lambda: gpus)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr("platform.machine", lambda: "x86_64")

    class Installed:
        def read_text(self, name: str) -> str | None:
            assert name == "direct_url.json"
            return url and json.dumps({"url": url, "dir_info": {"editable": True}})

    monkeypatch.setattr("importlib.metadata.distribution", lambda name: Installed())


def runtimes_are(monkeypatch, *names: str) -> None:
    monkeypatch.setattr(installation, "runtimes", lambda: dict.fromkeys(names, "1.31.1"))


def test_a_module_that_no_extra_brings_is_a_bug():
    assert missing_module(ModuleNotFoundError(name="frobnicate.part")) is None
    assert missing_module(ModuleNotFoundError()) is None
    assert missing_module(ModuleNotFoundError(name="onnx_ir.passes")).startswith("this needs onnx_ir, which is not")


# --- ONNX Runtime -----------------------------------------------------------------------------------------------------

CPU, GPU = "onnxruntime", "onnxruntime-gpu"


@pytest.mark.parametrize(
    ("there", "gpus", "prefix", "cfg", "command"),
    [
        ([], 0, "/usr", "", "pip install 'genzoo[cpu]'"),
        ([], 1, "/usr", "", "pip install 'genzoo[cuda]'"),
        ([CPU], 1, "/usr", "", f"pip uninstall -y {CPU} && pip install 'genzoo[cuda]'"),
        ([GPU], 1, "/usr", "", "pip install 'genzoo[cuda]'"),  # brings CUDA's libraries
        ([CPU, GPU], 0, "/usr", "", f"pip uninstall -y {CPU} {GPU} && pip install 'genzoo[cpu]'"),
        ([CPU, GPU], 1, "/usr", "", f"pip uninstall -y {CPU} {GPU} && pip install 'genzoo[cuda]'"),
        ([CPU, GPU], 0, "venv", "uv = 0.9\n", f"uv pip uninstall {CPU} {GPU} && uv pip install 'genzoo[cpu]'"),
        ([CPU, GPU], 1, PIPX, "", "pipx install --force 'genzoo[cuda]'"),  # makes the environment anew
        ([], 1, UV_TOOL, "", "uv tool install 'genzoo[cuda]'"),
        ([CPU, GPU], 1, UV_TOOL, "", "uv tool install --reinstall 'genzoo[cuda]'"),
    ],
)
def test_the_command_leaves_one_runtime(tmp_path: Path, monkeypatch, there, gpus, prefix, cfg, command):
    installed(monkeypatch, tmp_path, prefix, cfg, gpus=gpus)
    runtimes_are(monkeypatch, *there)
    assert runtime_command() == command


def test_without_a_runtime_hints_for_other_extras_bring_one(tmp_path: Path, monkeypatch):
    installed(monkeypatch, tmp_path, "/usr", gpus=2)
    runtimes_are(monkeypatch)
    assert install_command("build") == "pip install 'genzoo[build,cuda]'"
    runtimes_are(monkeypatch, CPU)
    assert install_command("build") == "pip install 'genzoo[build]'"


def test_there_is_no_cuda_to_install_on_other_processors(tmp_path: Path, monkeypatch):
    installed(monkeypatch, tmp_path, "/usr", gpus=1)
    assert fitting_runtime() == "cuda"
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    assert fitting_runtime() == "cpu"


@pytest.mark.parametrize(
    ("there", "gpus", "extra"),
    [([], 0, "cpu"), ([], 1, "cuda"), ([CPU], 0, "cpu"), ([GPU], 1, "cuda"), ([GPU], 0, ""), ([CPU], 1, ""),
     ([CPU, GPU], 0, ""), (["onnxruntime-openvino"], 0, "")],
)  # fmt: skip
def test_a_script_never_adds_a_second_runtime(tmp_path: Path, monkeypatch, there, gpus, extra):
    installed(monkeypatch, tmp_path, "/usr", gpus=gpus)
    runtimes_are(monkeypatch, *there)
    assert runtime_to_add() == extra


NEEDS = "this needs ONNX Runtime, which is not installed: "


def without_runtime(tmp_path: Path, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
    hide_runtime(tmp_path / "site")
    return run_zoo(*words, site=tmp_path / "site", home=tmp_path / "home", **env)


def line() -> str:
    """The line in an environment that is ours but for the runtime, which the command must therefore bring."""
    return NEEDS + install_command(fitting_runtime())


@pytest.mark.parametrize("isolate", ["0", "1"], ids=["here", "in a worker"])
def test_without_a_runtime_running_is_one_line(tmp_path: Path, isolate: str):
    tiny.bundle(tmp_path / "tiny")
    Image.new("L", (8, 8)).save(tmp_path / "a.png")
    words = ["run", f"{tmp_path}/tiny", "--image", f"{tmp_path}/a.png", "--out", f"{tmp_path}/b.png"]
    done = without_runtime(tmp_path, *words, ZOO_ISOLATE=isolate)
    assert (done.returncode, done.stdout, done.stderr) == (9, "", f"Error: {line()}\n")
    assert not (tmp_path / "b.png").exists()


def test_without_a_runtime_verifying_is_one_line_and_listing_works(tmp_path: Path):
    done = without_runtime(tmp_path, "verify", "vae-fashion", "--replay")
    assert done.returncode == 9 and done.stderr.splitlines()[-1] == f"Error: {line()}"
    assert without_runtime(tmp_path, "info", "vae-fashion").returncode == 0


def test_without_a_runtime_python_gets_the_same_line(tmp_path: Path):
    hide_runtime(tmp_path / "site")
    code = "import zoo\ntry: zoo.load('vae-fashion').generate(seed=1)\nexcept zoo.ZooError as e: print(e)"
    done = run_python(code, site=tmp_path / "site", home=tmp_path / "home")
    assert (done.stdout, done.stderr) == (f"{line()}\n", "")


@pytest.mark.slow
@pytest.mark.parametrize("words", [["train", "vae", "--steps", "9"], ["eval", "vae-fashion"]], ids=lambda w: w[0])
def test_without_a_runtime_nothing_is_trained_or_measured(tmp_path: Path, words: list[str]):
    for i in range(8):
        Image.new("L", (28, 28), 30 * i).save(tmp_path / f"{i}.png")
    out = ["--out", f"{tmp_path}/m"] if words[0] == "train" else []
    done = without_runtime(tmp_path, *words, "--data", str(tmp_path), *out)
    assert done.returncode == 9 and done.stderr.splitlines()[-1] == f"Error: {line()}"
    assert "Traceback" not in done.stderr and not list(tmp_path.glob("m*"))


@pytest.mark.parametrize("isolate", ["0", "1"], ids=["here", "in a worker"])
def test_two_runtimes_are_one_line_and_the_model_runs(tmp_path: Path, isolate: str):
    site = tmp_path / "site"
    site.mkdir()
    two_runtimes(site)
    tiny.bundle(tmp_path / "tiny")
    Image.new("L", (8, 8)).save(tmp_path / "a.png")
    words = ["run", f"{tmp_path}/tiny", "--image", f"{tmp_path}/a.png", "--out", f"{tmp_path}/b.png"]
    done = run_zoo(*words, site=site, home=tmp_path / "home", ZOO_ISOLATE=isolate)
    assert done.returncode == 0 and (tmp_path / "b.png").is_file()
    said = [line for line in done.stderr.splitlines() if "onnxruntime" in line]
    tool = f"pip install -e '{ROOT}[{fitting_runtime()}]'"
    assert said == [
        "onnxruntime 1.30.0 and onnxruntime-gpu 1.31.0 are both installed and overwrite each other's files:"
        f" pip uninstall -y onnxruntime onnxruntime-gpu && {tool}"
    ]


def test_two_runtimes_of_which_one_was_uninstalled_are_one_line(tmp_path: Path):
    """The files that they share are gone: what is left of the package can be imported, and is empty."""
    site = tmp_path / "site"
    site.mkdir()
    (site / "onnxruntime").mkdir()
    (site / "onnxruntime" / "__init__.py").write_text("")
    [(name, version)] = installation.runtimes().items()
    done = run_zoo("run", "vae-fashion", "--example", "--out", f"{tmp_path}/x.png", site=site, home=tmp_path / "home")
    assert done.returncode == 9 and "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith(f"Error: {name} {version} cannot be imported (ImportError: ")
    assert done.stderr.endswith(f": pip install --force-reinstall --no-deps {name}\n")


def test_make_installs_the_runtime_that_fits():
    """`make` only prints the commands here: with the extra that this environment needs, and on a machine with a GPU."""
    for given, extra in (([], runtime_to_add()), (["RUNTIME=cuda"], "cuda"), (["RUNTIME=cpu"], "cpu")):
        where = f"BIN={Path(sys.executable).parent}"
        command = ["make", "-n", "-W", "pyproject.toml", where, ".venv/.core", ".venv/.all", *given]
        said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
        core, everything = re.findall(r"--editable '(\.[^']*)'", said)
        assert core == (f".[{extra}]" if extra else ".")
        assert everything == f".[build,test,docs,dev{extra and f',{extra}'}]"
