"""ONNX Runtime sessions: which provider runs a graph, and why.

A list of available providers proves nothing: the wheel lists CUDA on machines without a GPU, and a session that cannot
load it silently falls back to the CPU. So `cuda` here means that a real session got it and that the profile of a real
call shows it; anything else is an error or a line that says why.
"""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import threading
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol

from msgspec import Meta, Struct, structs

from .errors import DeviceError, InvalidFileError, NotFoundError, PluginError, UsageError
from .system.gpus import nvidia_gpus as nvidia_gpus
from .system.installation import (
    has_cuda_build,
    install_command,
    runtime_command,
    runtime_problem,
    warn_of_mixed_runtimes,
)
from .system.temporary import LockedFolder
from .text import one_line, safe_text

if TYPE_CHECKING:
    import numpy as np

Device = Literal["auto", "cpu", "cuda"]
Placement = dict[str, dict[str, int]]
"""Operator -> provider -> number of nodes."""

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
_HEAVY = re.compile("Conv|MatMul|Gemm")  # and what the optimiser turns them into: FusedConv, FusedMatMul, …
NO_GPU = "this machine has no NVIDIA GPU, or no driver for it"


class CudaOptions(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options of ONNX Runtime's CUDA provider, under their own names; `ZOO_CUDA_OPTIONS` sets them.

    The defaults are ONNX Runtime's; `bench/cuda_options.py` measures what other values gain and cost.
    """

    cudnn_conv_algo_search: Literal["EXHAUSTIVE", "HEURISTIC", "DEFAULT"] = "EXHAUSTIVE"  # searched at the first call
    use_tf32: Literal["0", "1"] = "1"  # 10 bits of mantissa in products: faster, but different pictures
    arena_extend_strategy: Literal["kNextPowerOfTwo", "kSameAsRequested"] = "kNextPowerOfTwo"
    gpu_mem_limit: Annotated[str, Meta(pattern=r"^[0-9]+\Z")] = str(2**64 - 1)  # of the arena, in bytes


class Session:
    """A graph that is ready to run; several threads may call it at the same time.

    Attributes:
        inputs, outputs: names, in the graph's order.
        provider: `cpu` or `cuda`, what the session really got.
        runtime_version: of ONNX Runtime.
        reason: why an available GPU is not used, one line; else empty.
        left_on_cpu: operators with nodes on the CPU and the number of nodes; known after the first call of a session
            that was opened with `device="cuda"`.
    """

    def __init__(self, session: Any, provider: str, reason: str, name: str, profile: LockedFolder | None = None):
        self._session, self._name = session, name
        self._profile, self._lock = profile, threading.Lock()
        self.inputs = tuple(i.name for i in session.get_inputs())
        self.outputs = tuple(o.name for o in session.get_outputs())
        self.provider, self.reason = provider, reason
        self.runtime_version = _runtime_version()
        self.left_on_cpu: dict[str, int] = {}
        self._calls: dict[int, Any] = {}  # by thread: the options of the call in progress

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The outputs by name. Check the inputs against the task's ports first (`zoo.ports`).

        Raises:
            DeviceError: `cuda` was requested, and a Conv, MatMul or Gemm ran on the CPU, or CUDA failed.
            InvalidFileError: the graph failed.
        """
        outputs = dict(zip(self.outputs, self._interruptible(dict(inputs)), strict=True))
        with self._lock:
            profile, self._profile = self._profile, None
        if profile:
            with profile:
                events = json.loads(Path(self._session.end_profiling()).read_bytes())
            self.left_on_cpu = require_cuda(placement(events), self._name)
        return outputs

    def _interruptible(self, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
        """Runs in a thread, so that Ctrl-C stops a long call: Python cannot handle a signal while a kernel runs."""
        import onnxruntime

        options = self._calls[threading.get_ident()] = onnxruntime.RunOptions()
        result: list[Any] = []
        main = threading.current_thread() is threading.main_thread()
        hears = main and signal.getsignal(signal.SIGINT) not in (signal.SIG_IGN, signal.SIG_DFL)
        done = threading.Event()

        def call() -> None:
            try:
                result.append(self._session.run(None, inputs, options))
            except Exception as e:  # ONNX Runtime's errors have no common base class
                result.append(e)
            finally:
                done.set()

        try:
            if hears:
                threading.Thread(target=call, daemon=True).start()
            else:  # no Ctrl-C can come here
                call()
            done.wait()
        except (KeyboardInterrupt, SystemExit):  # SIGTERM
            options.terminate = True  # checked between two nodes
            done.wait(timeout=60)
            raise
        finally:
            del self._calls[threading.get_ident()]
        if isinstance(result[0], Exception):
            kind = DeviceError if self.provider == "cuda" else InvalidFileError
            hint = "; --device cpu runs it without CUDA" if self.provider == "cuda" else ""
            raise kind(f"{self._name} failed on {self.provider}: {_line(result[0])}{hint}")
        return result[0]

    def interrupt(self, thread: int) -> None:
        """Ends the call that the thread of this id has in progress, if it has one; there, it raises
        InvalidFileError or DeviceError."""
        if options := self._calls.get(thread):
            options.terminate = True

    @property
    def processes(self) -> tuple[int, ...]:
        """Ids of the processes that run it in addition to this one: none."""
        return ()

    def __str__(self) -> str:
        return explain_device(self)


def open_session(graph: Path, device: Device = "auto", *, threads: int | None = None, exact: bool = False) -> Session:
    """A session for a graph that `zoo.graph.check` accepted.

    Args:
        device: `auto` uses CUDA if there is a GPU and a real session gets it, else the CPU; `cuda` means CUDA or an
            error.
        threads: of the CPU provider; None: one per physical core that this process may use.
        exact: no TF32 on CUDA, for comparing outputs.

    Raises:
        PluginError: ONNX Runtime is not installed, or cannot be imported.
        UsageError: `ZOO_CUDA_OPTIONS` has an unknown option or value; it is not read if `device` is `cpu`.
        NotFoundError: there is no such file.
        InvalidFileError: ONNX Runtime refuses the graph.
        DeviceError: `cuda` was requested and is unavailable.
    """
    if not graph.is_file():
        raise NotFoundError(f"{safe_text(graph)} does not exist")
    try:
        str(graph).encode()
    except UnicodeEncodeError:
        raise InvalidFileError(f"{safe_text(graph)}: ONNX Runtime only opens paths in UTF-8; rename it") from None
    require_runtime()
    os.environ.pop("ORT_LOAD_CONFIG_FROM_MODEL", None)  # a model must not set session options

    options, obstacle = ({}, "") if device == "cpu" else (cuda_options(exact), cuda_obstacle())
    warn_of_mixed_runtimes()
    if device != "cpu" and not obstacle:
        profile = LockedFolder("zoo-profile-") if device == "cuda" else None
        try:
            session = _create(graph, [(CUDA, options), CPU], threads, profile)
        except InvalidFileError as e:
            obstacle = str(e)
        else:
            if session.get_providers()[0] == CUDA:
                return Session(session, "cuda", "", graph.name, profile)
            again = install_command("cuda")
            obstacle = f"ONNX Runtime made the session without CUDA; run `zoo doctor` for details, or {again}"
        if profile:
            profile.cleanup()
    if device == "cuda":
        raise DeviceError(f"CUDA was requested but is unavailable: {obstacle}")
    reason = "" if obstacle == NO_GPU else obstacle  # without a GPU, nothing is left unused
    return Session(_create(graph, [CPU], threads, None), "cpu", reason, graph.name)


def require_runtime() -> None:
    """Imports ONNX Runtime, which an extra of zoo brings.

    Raises:
        PluginError: it is not installed, or cannot be imported; the line has the command that fixes it.
    """
    try:
        from onnxruntime import InferenceSession  # noqa: F401 - what is left after an uninstallation may lack it
    except Exception as e:  # a damaged installation raises what it likes
        raise PluginError(": ".join(runtime_problem(e))) from None


def _runtime_version() -> str:
    import onnxruntime

    return onnxruntime.__version__


def cuda_options(exact: bool = False) -> dict[str, str]:
    """The CUDA provider's options: the defaults, and those set in `ZOO_CUDA_OPTIONS`, e.g.
    `use_tf32=0,gpu_mem_limit=9`.

    Args:
        exact: no TF32, even if it is set.

    Raises:
        UsageError: an unknown option or value.
    """
    set_here: dict[str, str] = {}
    for word in filter(None, os.environ.get("ZOO_CUDA_OPTIONS", "").split(",")):
        name, equals, value = word.partition("=")
        if not equals:
            raise UsageError(f"ZOO_CUDA_OPTIONS: '{safe_text(word)}' must be NAME=VALUE; commas separate options")
        set_here[name.strip()] = value.strip()
    options = CudaOptions()
    if set_here:
        from .settings import read

        options = read(CudaOptions, set_here, "ZOO_CUDA_OPTIONS")
    return structs.asdict(options) | ({"use_tf32": "0"} if exact else {})


def _create(graph: Path, providers: list, threads: int | None, profile: LockedFolder | None) -> Any:
    import onnxruntime

    onnxruntime.set_default_logger_severity(4)  # its warnings are not for users; reasons come from `cuda_obstacle`
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.intra_op_num_threads = threads or physical_cores()
    # It would put the activations of the second call (in a loop: of the second step) into a separate block, in addition
    # to the memory of the first. Without it a sampler needs a third less memory on the CPU, and is as fast there.
    options.enable_mem_pattern = False
    # Otherwise the threads of a session that just ran keep spinning on the cores that the next session needs: `encode`
    # and `decode` in turn took 1.5 times as long.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    if profile:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile.path / "call")
    try:
        # Without its own fallback, which prints to stdout and continues on the CPU.
        return onnxruntime.InferenceSession(graph, options, providers=providers, enable_fallback=0)
    except Exception as e:  # a dozen types, including UnicodeDecodeError
        raise InvalidFileError(f"ONNX Runtime refuses {safe_text(graph.name)}: {_line(e)}") from None


def _line(error: Exception) -> str:
    text = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", str(error).strip() or type(error).__name__)
    return one_line(text).rstrip(".")


# --- Why CUDA, or why not ---------------------------------------------------------------------------------------------


class _Placed(Protocol):
    """Where a session runs: its `provider`, and if that is not CUDA, the `reason`."""

    provider: str
    reason: str


def explain_device(session: _Placed) -> str:
    """One line: `cuda`, `cpu`, or `cpu: there is 1 NVIDIA GPU, but …`."""
    return f"{session.provider}: {session.reason}" if session.reason else session.provider


def cuda_obstacle() -> str:
    """What keeps ONNX Runtime from using CUDA on this machine, one line with the fix; empty if nothing does.

    Loads the CUDA libraries if there is a GPU.

    Raises:
        PluginError: there is a GPU, and ONNX Runtime is not installed.
    """
    gpus = nvidia_gpus()
    if not gpus:
        return NO_GPU
    here = f"there {'are' if gpus > 1 else 'is'} {gpus} NVIDIA GPU{'s' if gpus > 1 else ''}, but "
    require_runtime()
    import onnxruntime

    if CUDA not in onnxruntime.get_available_providers():
        if not has_cuda_build():
            return f"{here}there is no onnxruntime-gpu for this system"
        return f"{here}the installed ONNX Runtime has no CUDA: {runtime_command('cuda')}"
    library = Path(onnxruntime.__file__).parent / "capi" / _library("onnxruntime_providers_cuda")
    if problem := _load_problem(library):
        return f"{here}its libraries do not load ({problem}): {runtime_command('cuda')}"
    return ""


def _load_problem(library: Path) -> str:
    """Why a provider's library cannot be loaded, in the loader's words: ONNX Runtime only writes it to its log."""
    import contextlib
    import ctypes
    import io

    import onnxruntime

    with contextlib.redirect_stdout(io.StringIO()):  # it prints what is missing
        onnxruntime.preload_dlls()
    try:
        # The provider needs this library's symbols.
        ctypes.CDLL(str(library.with_name(_library("onnxruntime_providers_shared"))), mode=ctypes.RTLD_GLOBAL)
        ctypes.CDLL(str(library))
    except OSError as e:
        return one_line(e)
    return ""


def _library(name: str) -> str:
    return f"{name}.dll" if sys.platform == "win32" else f"lib{name}.so"


def placement(profile_json: list[dict[str, Any]]) -> Placement:
    """Where each node of a profiled call ran, by operator; nodes inside loops count once.

    Args:
        profile_json: the parsed profile that ONNX Runtime writes, of one call.
    """
    nodes = {
        (event["args"]["op_name"], event["args"]["provider"], event["name"], event["args"].get("node_index"))
        for event in profile_json
        if event.get("cat") == "Node" and event.get("args", {}).get("provider")
    }
    placed: Placement = {}
    for (op, provider), count in sorted(Counter((op, provider) for op, provider, *_ in nodes).items()):
        placed.setdefault(op, {})[provider] = count
    return placed


def require_cuda(placed: Placement, name: str) -> dict[str, int]:
    """Operators left on the CPU and their number of nodes.

    Raises:
        DeviceError: a Conv, MatMul or Gemm is among them, or nothing ran on CUDA at all.
    """
    left = {op: providers[CPU] for op, providers in placed.items() if CPU in providers}
    if heavy := {op: count for op, count in left.items() if _HEAVY.search(op)}:
        listed = ", ".join(f"{count} {safe_text(op)}" for op, count in heavy.items())
        raise DeviceError(f"CUDA was requested, but {safe_text(name)} partly ran on the CPU: {listed}")
    if not any(CUDA in providers for providers in placed.values()):
        raise DeviceError(f"CUDA was requested, but no node of {safe_text(name)} ran on it")
    return left


# --- Threads ----------------------------------------------------------------------------------------------------------


def physical_cores() -> int:
    """The number of physical cores that this process may use, by its CPU affinity and its control group's quota.

    Two threads on one core share its vector units, and if there are more threads than the quota allows, they are
    paused in turn.
    """
    if not hasattr(os, "sched_getaffinity"):  # macOS, Windows
        return max(1, (os.cpu_count() or 2) // (1 if sys.platform == "darwin" else 2))
    cores = set()
    for cpu in os.sched_getaffinity(0):
        siblings = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
        cores.add(siblings.read_text() if siblings.is_file() else cpu)
    quota = Path("/sys/fs/cgroup/cpu.max")
    try:
        limit, period = quota.read_text().split()
        allowed = -(-int(limit) // int(period))
    except (OSError, ValueError):  # no quota: no such file, or the word `max`
        allowed = len(cores)
    return max(1, min(len(cores), allowed))
