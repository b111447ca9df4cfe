"""What the doctor finds: with real sessions, and with installations that are broken on purpose."""

import json
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from zoo import doctor
from zoo.doctor import Finding
from zoo.system.gpus import nvidia_gpus
from zoo.system.installation import runtimes

from .fake_plugins import BROKEN, ROOT, install, run_zoo


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A site folder at the head of sys.path, and a store of its own."""
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(site)
    monkeypatch.setenv("ZOO_HOME", str(tmp_path / "home"))
    return site


def distribution(site: Path, name: str, version: str, *requires: str) -> None:
    """Metadata alone, as a distribution leaves it; it hides an installed one of that name."""
    info = site / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    lines = [f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}", *(f"Requires-Dist: {r}" for r in requires)]
    (info / "METADATA").write_text("\n".join(lines) + "\n")


def bad(check) -> list[Finding]:
    return [finding for finding in check() if finding.severity != "ok"]


# --- The whole command ------------------------------------------------------------------------------------------------


def test_a_sound_installation_has_no_problem_and_ran_a_real_call(site, tmp_path):
    result = run_zoo("doctor", "--json", site=site, home=tmp_path / "home")
    findings = json.loads(result.stdout)
    assert [f for f in findings if f["severity"] == "problem"] == []
    assert result.returncode == 0
    assert {"python", "dependencies", "onnxruntime", "session", "telemetry", "store", "plugins"} <= {
        f["check"] for f in findings
    }
    [session] = [f for f in findings if f["check"] == "session"]
    assert session["text"].startswith(("a real call ran on cpu (", "a real call ran on cuda ("))


@pytest.mark.parametrize(
    ("value", "severity", "says"),
    [
        (None, "ok", "ONNX Runtime's telemetry is off (ORT_DISABLE_TELEMETRY=1)"),
        ("", "ok", "ONNX Runtime's telemetry is off (ORT_DISABLE_TELEMETRY=1)"),
        (" True", "ok", "ONNX Runtime's telemetry is off (ORT_DISABLE_TELEMETRY=True)"),
        (
            "0",
            "warning",
            "ORT_DISABLE_TELEMETRY is '0': ONNX Runtime writes a device id into the home folder and sends",
        ),
    ],
)
def test_telemetry_is_off_unless_the_user_turned_it_on(monkeypatch, value, severity, says):
    env = {name: word for name, word in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    env |= {} if value is None else {"ORT_DISABLE_TELEMETRY": value}
    code = "import os, zoo; print(os.environ['ORT_DISABLE_TELEMETRY'])"
    seen = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True).stdout
    monkeypatch.setenv("ORT_DISABLE_TELEMETRY", seen.removesuffix("\n"))
    [finding] = [finding for finding in doctor._environment() if finding.check == "telemetry"]
    assert finding.severity == severity and finding.text.startswith(says)


def test_problems_end_with_exit_code_1_and_each_has_its_mend(site, tmp_path):
    distribution(site, "onnx", "1.20.1")
    install(site, "raises", BROKEN["raises"][0])
    env = {"ORT_LOAD_CONFIG_FROM_MODEL": "1", "ZOO_CUDA_OPTIONS": "use_tf32=maybe"}
    result = run_zoo("doctor", site=site, home=tmp_path / "home", **env)
    assert (result.returncode, result.stderr) == (1, "")
    lines = result.stdout.splitlines()
    for line, mend in [
        ("problem  dependencies: onnx 1.20.1 is installed; zoo needs >=1.21", "pip install -U 'onnx>=1.21'"),
        ("problem  security: onnx 1.20.1 is older than 1.21: it follows links", "pip install -U 'onnx>=1.21'"),
        ("problem  environment: ORT_LOAD_CONFIG_FROM_MODEL is set", "unset ORT_LOAD_CONFIG_FROM_MODEL"),
        ("problem  environment: ZOO_CUDA_OPTIONS: use_tf32 is 'maybe'", "unset ZOO_CUDA_OPTIONS, or correct it"),
        ("warning  plugins: zoo-raises 1.0 is set aside: ", "upgrade it (pip install -U zoo-raises)"),
    ]:
        [at] = [i for i, text in enumerate(lines) if text.startswith(line)]
        assert lines[at + 1].startswith(f"         -> {mend}")


def test_it_works_without_onnx_runtime_onnx_numpy_and_pillow(site, tmp_path):
    """A folder with the light packages alone, in an interpreter that sees no other (-S)."""
    for name in ("click", "msgspec", "packaging", "pluggy", "pyyaml", "tabulate", "filelock"):
        files = metadata.distribution(name)
        for top in {file.parts[0] for file in files.files if file.parts[0] not in ("..", "__pycache__")}:
            (site / top).symlink_to(files.locate_file(top))
    distribution(site, "genzoo", "0.1.0", *metadata.requires("genzoo"))
    env = {k: v for k, v in os.environ.items() if not k.startswith("ZOO_")}
    env |= {"PYTHONPATH": f"{site}{os.pathsep}{ROOT}", "ZOO_HOME": str(tmp_path / "home")}
    command = [sys.executable, "-S", "-P", "-m", "zoo", "doctor", "--json"]
    result = subprocess.run(command, capture_output=True, text=True, env=env)
    assert (result.returncode, result.stderr) == (1, "")
    findings = json.loads(result.stdout)
    problems = {f["text"].split()[0]: f for f in findings if f["severity"] == "problem"}
    [runtime] = [f for f in findings if f["check"] == "onnxruntime"]
    extra = "cuda" if nvidia_gpus() else "cpu"
    text = "this needs ONNX Runtime, which is not installed"
    assert runtime == {
        "check": "onnxruntime", "severity": "problem", "text": text, "mend": f"pip install 'genzoo[{extra}]'",
    }  # fmt: skip
    assert problems["onnx"]["text"].startswith("onnx is not installed; zoo needs >=")
    assert problems["onnx"]["mend"].startswith("pip install -U 'onnx>=")
    assert {"onnx", "numpy", "pillow"} <= problems.keys()
    assert {f["check"] for f in findings if f["severity"] == "problem"} == {"dependencies", "onnxruntime"}


# --- Packages ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("gpus", "extra"), [(0, "cpu"), (1, "cuda")])
def test_two_onnx_runtimes_are_a_problem_that_names_both(site, monkeypatch, gpus, extra):
    distribution(site, "onnxruntime", "1.30.0")
    distribution(site, "onnxruntime-gpu", "1.31.0")
    monkeypatch.setattr("zoo.system.installation.nvidia_gpus", lambda: gpus)
    monkeypatch.setattr("zoo.system.installation.direct_url", dict)
    assert bad(doctor._runtime) == [
        Finding(
            check="onnxruntime",
            severity="problem",
            text="onnxruntime 1.30.0 and onnxruntime-gpu 1.31.0 are both installed and overwrite each other's files",
            mend=f"pip uninstall -y onnxruntime onnxruntime-gpu && pip install 'genzoo[{extra}]'",
        )
    ]


def test_requirements_come_from_zoos_own_metadata(site):
    distribution(
        site,
        "genzoo",
        "7",
        "frobnicate>=2",
        "click>=99",
        "msgspec>=0.1",
        "absent>=1; sys_platform == 'nowhere'",
        "uninstalled; extra == 'build'",
        "pluggy>=99; extra == 'build'",
        "pytest>=99; extra == 'test'",
    )
    findings = bad(doctor._dependencies)
    assert [(f.severity, f.text.split(";")[0], f.mend) for f in findings] == [
        ("problem", "frobnicate is not installed", "pip install -U 'frobnicate>=2'"),
        ("problem", f"click {metadata.version('click')} is installed", "pip install -U 'click>=99'"),
        ("problem", f"pluggy {metadata.version('pluggy')} is installed", "pip install -U 'pluggy>=99'"),
    ]


def test_an_old_onnx_runtime_is_a_problem_although_an_extra_brings_it(site):
    distribution(site, "genzoo", "7", "onnxruntime>=1.23; extra == 'cpu'", "onnxruntime-gpu>=1.23; extra == 'cuda'")
    distribution(site, "onnxruntime-gpu", "1.22.1")
    [finding] = bad(doctor._dependencies)
    assert (finding.severity, finding.text) == ("problem", "onnxruntime-gpu 1.22.1 is installed; zoo needs >=1.23")
    assert finding.mend == "pip install -U 'onnxruntime-gpu>=1.23'"


@pytest.mark.parametrize(
    ("name", "version", "says"),
    [
        ("onnx", "1.20.9", "onnx 1.20.9 is older than 1.21: it follows links out of a model's folder"),
        ("onnxruntime-gpu", "1.24.2", "onnxruntime-gpu 1.24.2 is older than 1.25: it reads weights outside"),
        ("onnx", "1.21.0", None),
    ],
)
def test_security_floors(site, name, version, says):
    distribution(site, name, version)
    findings = bad(doctor._security)
    assert len(findings) == (says is not None)
    assert all(f.severity == "problem" and f.text.startswith(says) for f in findings)


def test_other_systems_are_said_to_be_untested(monkeypatch):
    monkeypatch.setattr("platform.system", lambda: "Darwin")
    [finding] = doctor._python()
    assert finding.severity == "warning"
    assert "untested on Darwin" in finding.text


def test_a_check_that_fails_is_a_finding(monkeypatch):
    def _broken():
        yield Finding(check="broken", severity="ok", text="so far")
        raise RuntimeError("\x1b[31mred")

    assert [f.text for f in doctor._guarded(_broken)] == [
        "so far",
        "the check itself failed: RuntimeError: \\x1b[31mred",
    ]


# --- ONNX Runtime and CUDA --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("module", "says"),
    [
        ("import os; os.abort()", "ONNX Runtime crashed the process (SIGABRT)"),
        ("raise ImportError('libfoo.so.1: not found')", "ImportError: libfoo.so.1: not found"),
        ("print('hello')", "ImportError: cannot import name 'InferenceSession'"),
    ],
)
def test_an_onnx_runtime_that_is_broken_is_one_finding(site, module, says):
    (site / "onnxruntime.py").write_text(module)
    [finding] = bad(doctor._session)
    assert finding.severity == "problem"
    assert says in finding.text
    assert finding.mend == f"pip install --force-reinstall --no-deps {next(iter(runtimes()))}"


def test_a_gpu_that_cannot_be_used_is_a_warning_that_says_why(site, monkeypatch):
    """No GPU is needed: what a driver offers is pretended, what follows is real."""
    monkeypatch.setattr("zoo.runtime.nvidia_gpus", lambda: 1)
    monkeypatch.setattr("zoo.runtime.cuda_obstacle", lambda: "there is 1 NVIDIA GPU, but libcudnn.so.9 does not load")
    distribution(site, "onnxruntime-gpu", "1.31.0", "nvidia-cufoo~=13.0; extra == 'cuda'", "numpy>=1")
    distribution(site, "nvidia-cufoo-cu12", "12.8.90")
    monkeypatch.setattr("zoo.system.installation.runtimes", lambda: {"onnxruntime-gpu": "1.31.0"})
    monkeypatch.setattr("zoo.system.installation.direct_url", dict)
    cuda, session = doctor.native_findings()
    assert cuda == Finding(
        check="cuda",
        severity="warning",
        text="the GPU is not used: there is 1 NVIDIA GPU, but libcudnn.so.9 does not load;"
        " it needs nvidia-cufoo~=13.0, found: nvidia-cufoo-cu12 12.8.90",
        mend="pip install 'genzoo[cuda]'",
    )
    assert (session.severity, session.text) == ("ok", "a real call ran on cpu (CUDA cannot be used)")


def test_the_cuda_libraries_that_the_wheel_asks_for_are_compared(site):
    requires = ("a~=13.0", "b-cu13~=9.0", "c~=10.0", "d~=1.0")
    distribution(site, "onnxruntime-gpu", "1.31.0", *(f"{r}; extra == 'cuda'" for r in requires), "sympy; extra == 'x'")
    distribution(site, "a", "12.9")
    distribution(site, "b-cu12", "9.1")
    distribution(site, "c", "10.3")
    assert list(doctor._other_cuda()) == [
        "it needs a~=13.0, found: a 12.9",
        "it needs b-cu13~=9.0, found: b-cu12 9.1",
        "it needs d~=1.0, found: not installed",
    ]


def test_cards_without_a_driver_are_seen_on_the_bus(tmp_path):
    for name, vendor, kind in (("0", "0x10de", "0x030200"), ("1", "0x10de", "0x040300"), ("2", "0x8086", "0x030000")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "vendor").write_text(f"{vendor}\n")
        (tmp_path / name / "class").write_text(f"{kind}\n")
    assert doctor._nvidia_cards(tmp_path) == 1


# --- The store --------------------------------------------------------------------------------------------------------


def test_a_store_that_is_not_there_yet_is_judged_by_its_parent_and_not_made(site, tmp_path):
    [finding] = doctor._store()
    assert finding.severity == "ok"
    assert str(tmp_path / "home") in finding.text
    assert not (tmp_path / "home").exists()


def test_a_store_that_cannot_be_written_is_a_problem(site, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ZOO_HOME", str(tmp_path / "file" / "home"))
    [finding] = doctor._store()
    assert finding.severity == "problem"
    assert "cannot be written" in finding.text
    assert finding.mend == "set ZOO_HOME to a folder that you can write"


def test_little_space_is_a_warning(site, monkeypatch):
    monkeypatch.setattr(doctor, "LITTLE_SPACE", 1 << 62)
    [finding] = doctor._store()
    assert (finding.severity, finding.mend.split(",")[0]) == ("warning", "zoo prune")
