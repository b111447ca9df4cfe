"""What is wrong with this installation, and the command that fixes it.

Each check yields findings; a check that fails itself becomes a finding too. Checks that load native code (ONNX Runtime,
CUDA) run in a child process: a broken installation may crash it, and the doctor must survive to report that.
"""

import contextlib
import os
import platform
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from subprocess import TimeoutExpired
from typing import Literal

import msgspec
from packaging.requirements import Requirement
from packaging.version import Version

from . import __version__
from .system.installation import DISTRIBUTION, RUNTIMES, reinstall_command, runtime_command, runtime_problem, runtimes
from .system.processes import describe_end, run_isolated
from .text import human_bytes, safe_text

Severity = Literal["ok", "warning", "problem"]

SECURITY_FLOORS = {
    "onnx": ("1.21", "it follows links out of a model's folder (CVE-2026-27489, CVE-2026-34447)"),
} | dict.fromkeys(RUNTIMES, ("1.25", "it reads weights outside a model's folder; only zoo's own check prevents that"))
"""Package: the oldest version that is safe with strangers' models, and what is wrong with older ones."""

TELEMETRY_OFF = ("1", "true", "yes", "on")
"""The values of ORT_DISABLE_TELEMETRY, in any case, that ONNX Runtime obeys; `zoo` sets 1."""

LITTLE_SPACE = 1_000_000_000
SESSION_SECONDS = 120
"""Time limit for the first session; loading the CUDA libraries from a cold disk takes tens of seconds."""


class Finding(msgspec.Struct, frozen=True):
    """One line about the installation."""

    check: str
    severity: Severity
    text: str
    mend: str = ""  # the command, or what to do


def examine() -> list[Finding]:
    """All findings, in the order of the checks."""
    checks = (_python, _dependencies, _security, _runtime, _session, _environment, _store, _plugins)
    return [finding for check in checks for finding in _guarded(check)]


def _guarded(check: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    try:
        yield from check()
    except Exception as e:
        text = safe_text(f"the check itself failed: {type(e).__name__}: {e}")
        yield Finding(check.__name__.lstrip("_"), "problem", text, "please report it")


# --- Python and the packages around zoo -------------------------------------------------------------------------------


def _python() -> Iterator[Finding]:
    system, here = platform.system(), f"Python {platform.python_version()}"
    text = f"{here} on {system} {platform.machine()}"
    if system == "Linux":
        yield Finding("python", "ok", text)
    else:
        text = f"{text}: zoo is developed on Linux and untested on {system}"
        yield Finding("python", "warning", text, "expect rough edges, and report them")


def _dependencies() -> Iterator[Finding]:
    """The minimum versions that zoo's own metadata declares; those of extras apply if the package is installed."""
    try:
        declared = [Requirement(line) for line in metadata.requires(DISTRIBUTION) or []]
    except metadata.PackageNotFoundError:
        text = "zoo is not installed as a package, so the versions it needs cannot be checked"
        yield Finding("dependencies", "warning", text, "pip install .")
        return
    findings = list(filter(None, map(_requirement, declared)))
    yield from findings
    if not findings:
        yield Finding("dependencies", "ok", f"zoo {__version__}, all packages are compatible")


def _requirement(requirement: Requirement) -> Finding | None:
    """What is wrong with one requirement; None if it is met or does not apply here."""
    needed = _applies(requirement, "")
    if not needed and not _applies(requirement, "build", "cpu", "cuda"):
        return None
    name, version = requirement.name, version_of(requirement.name)
    mend = f"pip install -U '{name}{requirement.specifier}'"
    if version is None:
        text = f"{name} is not installed; zoo needs {requirement.specifier or 'it'}"
        return Finding("dependencies", "problem", text, mend) if needed else None
    if requirement.specifier.contains(version, prereleases=True):
        return None
    text = f"{name} {version} is installed; zoo needs {requirement.specifier}"
    return Finding("dependencies", "problem", text, mend)


def _applies(requirement: Requirement, *extras: str) -> bool:
    """Whether a requirement counts here, without extras (the empty one) or for one of some."""
    return requirement.marker is None or any(requirement.marker.evaluate({"extra": extra}) for extra in extras)


def _security() -> Iterator[Finding]:
    for name, (floor, reason) in SECURITY_FLOORS.items():
        if (version := version_of(name)) and Version(version) < Version(floor):
            text = f"{name} {version} is older than {floor}: {reason}"
            yield Finding("security", "problem", text, f"pip install -U '{name}>={floor}'")


def version_of(distribution: str) -> str | None:
    """The installed version, or None."""
    return next((found.version for found in metadata.distributions(name=distribution)), None)


# --- ONNX Runtime and CUDA --------------------------------------------------------------------------------------------


def _runtime() -> Iterator[Finding]:
    text, mend = runtime_problem()
    if text:
        yield Finding("onnxruntime", "problem", text, mend)
    for name, version in runtimes().items() if not text else ():
        yield Finding("onnxruntime", "ok", f"{name} {version}")


def _session() -> Iterator[Finding]:
    """Runs `native_findings` in a child process."""
    if not find_spec("onnxruntime") or not version_of("onnx"):
        return  # reported by the checks before
    try:
        child = run_isolated("zoo.doctor", seconds=SESSION_SECONDS)
    except TimeoutExpired:
        text = f"ONNX Runtime did not run a small graph within {SESSION_SECONDS} s"
        yield Finding("session", "problem", text, reinstall_command())
        return
    try:
        yield from msgspec.json.decode(child.stdout.rpartition(b"\n")[2], type=list[Finding])
    except msgspec.DecodeError:
        yield Finding("session", "problem", f"ONNX Runtime {describe_end(child.returncode)}", reinstall_command())


def native_findings() -> Iterator[Finding]:
    """What a real session gets, judged by the profile of a real call; and why not CUDA, if there is a GPU."""
    from .errors import DeviceError, UsageError
    from .runtime import cuda_obstacle, nvidia_gpus

    try:
        from onnxruntime import InferenceSession  # noqa: F401
    except Exception as e:
        yield Finding("session", "problem", *runtime_problem(e))
        return
    gpus = nvidia_gpus()
    if not gpus:
        if cards := _nvidia_cards():
            hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
            why = "the driver offers no GPU" if hidden is None else f"CUDA_VISIBLE_DEVICES is '{safe_text(hidden)}'"
            mend = "install the NVIDIA driver until nvidia-smi lists it" if hidden is None else "unset it"
            text = f"{cards} NVIDIA card{'s are' if cards > 1 else ' is'} installed but not used: {why}"
            yield Finding("cuda", "warning", text, mend)
        yield _run("cpu", "no driver offers an NVIDIA GPU")
        return
    try:
        if obstacle := cuda_obstacle():
            raise DeviceError("; ".join([obstacle, *_other_cuda()]))
        yield _run("cuda", f"{gpus} NVIDIA GPU{'s' if gpus > 1 else ''}")
    except UsageError:
        yield _run("cpu", "ZOO_CUDA_OPTIONS is wrong")  # reported by the check of the environment
    except DeviceError as e:
        yield Finding("cuda", "warning", f"the GPU is not used: {e}", runtime_command("cuda"))
        yield _run("cpu", "CUDA cannot be used")


def _nvidia_cards(devices: Path = Path("/sys/bus/pci/devices")) -> int:
    """NVIDIA display controllers on the PCI bus, with or without a driver (Linux)."""
    found = 0
    for device in devices.glob("*"):
        with contextlib.suppress(OSError):
            vendor, kind = ((device / name).read_text() for name in ("vendor", "class"))
            found += vendor.startswith("0x10de") and kind.startswith("0x03")
    return found


def _run(device: Literal["cpu", "cuda"], why: str) -> Finding:
    import numpy as np

    from .runtime import open_session

    with tempfile.TemporaryDirectory(prefix="zoo-doctor-") as folder:
        graph = Path(folder) / "matmul.onnx"
        write_matmul(graph)
        session = open_session(graph, device)
        product = session.run({"x": np.ones((2, 64), np.float32)})["product"]
    if product.tolist() != [[64.0] * 64] * 2:
        return Finding("session", "problem", f"{device} gives a wrong matrix product", reinstall_command())
    return Finding("session", "ok", f"a real call ran on {session.provider} ({why})")


def _other_cuda() -> Iterator[str]:
    """The CUDA packages that the installed onnxruntime-gpu requires and that are missing or have another version."""
    with contextlib.suppress(metadata.PackageNotFoundError):
        for requirement in map(Requirement, metadata.requires("onnxruntime-gpu") or []):
            if _applies(requirement, "") or not _applies(requirement, "cuda", "cudnn"):
                continue
            version = version_of(requirement.name)
            if version is None or not requirement.specifier.contains(version):
                found = f"{requirement.name} {version}" if version else _sibling(requirement.name) or "not installed"
                yield f"it needs {requirement.name}{requirement.specifier}, found: {found}"


def _sibling(name: str) -> str:
    """The same CUDA library for another major version, e.g. nvidia-cublas-cu12 for nvidia-cublas; empty if none."""
    base = re.sub(r"-cu\d+$", "", name)
    siblings = [base, *(f"{base}-cu{major}" for major in range(11, 16))]
    return next((f"{other} {version}" for other in siblings if (version := version_of(other))), "")


# --- The rest ---------------------------------------------------------------------------------------------------------


def _environment() -> Iterator[Finding]:
    if "ORT_LOAD_CONFIG_FROM_MODEL" in os.environ:
        text = "ORT_LOAD_CONFIG_FROM_MODEL is set: a model could choose ONNX Runtime's settings"
        yield Finding("environment", "problem", text, "unset ORT_LOAD_CONFIG_FROM_MODEL")
    telemetry = os.environ["ORT_DISABLE_TELEMETRY"].strip()  # set by `zoo/__init__.py` if it was not
    if telemetry.lower() in TELEMETRY_OFF:
        yield Finding("telemetry", "ok", f"ONNX Runtime's telemetry is off (ORT_DISABLE_TELEMETRY={telemetry})")
    else:
        text = (
            f"ORT_DISABLE_TELEMETRY is '{safe_text(telemetry)}': ONNX Runtime writes a device id into the home folder"
        )
        text += " and sends usage data"
        yield Finding("telemetry", "warning", text, "unset ORT_DISABLE_TELEMETRY; zoo then sets it to 1")
    from .errors import UsageError
    from .runtime import cuda_options

    try:
        cuda_options()
    except UsageError as e:
        yield Finding("environment", "problem", str(e), "unset ZOO_CUDA_OPTIONS, or correct it")


def _store() -> Iterator[Finding]:
    """Whether the store, or the folder in which it will be created, can be written."""
    from .system.places import home

    folder = home()
    there = next(path for path in (folder, *folder.parents) if path.exists())
    mend = "set ZOO_HOME to a folder that you can write"
    try:
        with tempfile.TemporaryFile(dir=there):
            free = shutil.disk_usage(there).free
    except OSError as e:
        text = f"the store {safe_text(folder)} cannot be written: {e.strerror}"
        yield Finding("store", "problem", text, mend)
        return
    text = f"the store {safe_text(folder)} can be written, {human_bytes(free)} free"
    little = free < LITTLE_SPACE
    yield Finding("store", "warning" if little else "ok", text, f"zoo prune, or {mend}" if little else "")


def _plugins() -> Iterator[Finding]:
    from . import plugins

    if not plugins.enabled():
        yield Finding("plugins", "ok", plugins.OFF)
        return
    probes = plugins.probe_all()
    for probe in probes:
        if probe.plugin.problem:
            text, _, mend = probe.plugin.set_aside.rpartition("; ")
            yield Finding("plugins", "warning", text, mend)
    used = [p.plugin.distribution for p in probes if not p.plugin.problem]
    yield Finding("plugins", "ok", f"in use: {', '.join(used) or 'none'}")


def write_matmul(path: Path) -> None:
    """Writes `product = x @ w`: float32 [batch, 64] times a constant [64, 64] of ones."""
    import numpy as np
    import onnx
    from onnx import helper, numpy_helper

    ones = numpy_helper.from_array(np.ones((64, 64), np.float32), "w")
    ports = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["batch", 64]) for name in ("x", "product")]
    node = helper.make_node("MatMul", ["x", "w"], ["product"])
    graph = helper.make_graph([node], "matmul", ports[:1], ports[1:], [ones])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path.write_bytes(model.SerializeToString())


if __name__ == "__main__":
    # The last line of stdout is the answer: libraries print what they like before it.
    sys.stdout.write("\n" + msgspec.json.encode(list(_guarded(native_findings))).decode())
