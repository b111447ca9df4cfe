import os
import signal
import sys
import threading
import time
from pathlib import Path
from subprocess import PIPE

import numpy as np
import onnx
import pytest

from tests.children import IGNORING_SIGINT, started
from tests.tiny_tasks import studio
from zoo import runtime
from zoo.errors import DeviceError, InvalidFileError, NotFoundError, UsageError
from zoo.runtime import (
    CPU,
    CUDA,
    cuda_obstacle,
    cuda_options,
    nvidia_gpus,
    open_session,
    physical_cores,
    placement,
    require_cuda,
)
from zoo.system.installation import runtime_command, runtimes
from zoo.system.temporary import LockedFolder

LOOP = """<ir_version: 8, opset_import: ["" : 17]>
g (float[batch,2,4,4] x, int64 n) => (float[batch,2,4,4] y)
<float[2,2,3,3] w = {0,0,0,0,1,0,0,0,0, 0,0,0,0,0,0,0,0,0, 0,0,0,0,0,0,0,0,0, 0,0,0,0,1,0,0,0,0}> {
  go = Constant<value = bool {1}>()
  y = Loop(n, go, x) <body = step (int64 i, bool keep, float[batch,2,4,4] a) => (bool more, float[batch,2,4,4] b) {
     more = Identity(keep)
     c = Conv<pads = [1,1,1,1]>(a, w)
     b = Relu(c)
  }>
}"""


def node(name: str, op: str, provider: str, index: int) -> dict:
    """An event as ONNX Runtime 1.31 writes it, without what `placement` does not read."""
    args = {"op_name": op, "provider": provider, "node_index": str(index)}
    return {"cat": "Node", "ph": "X", "ts": 5219, "dur": 81, "name": f"{name}_kernel_time", "args": args}


SESSION = {"cat": "Session", "ph": "X", "ts": 12, "dur": 584, "name": "model_loading_uri", "args": {}}
RECORDED_ON_CPU = [  # of LOOP with n = 2
    SESSION,
    node("FusedConv_3", "FusedConv", CPU, 3),
    node("Identity_0", "Identity", CPU, 0),
    {"cat": "Session", "ph": "X", "ts": 5217, "dur": 110, "name": "SequentialExecutor::Execute", "args": {}},
    node("FusedConv_3", "FusedConv", CPU, 3),
    node("Identity_0", "Identity", CPU, 0),
    node("Loop_0", "Loop", CPU, 0),
]
MADE_FOR_CUDA = [
    SESSION,
    node("conv1", "Conv", CUDA, 1),
    node("conv2", "Conv", CUDA, 2),
    node("Memcpy", "MemcpyToHost", CUDA, 3),
    node("shape", "Shape", CPU, 4),
    node("xor", "BitwiseXor", CPU, 5),
]


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return studio(tmp_path / "studio")


@pytest.fixture
def loop(tmp_path: Path) -> Path:
    path = tmp_path / "loop.onnx"
    onnx.save_model(onnx.parser.parse_model(LOOP), path)
    return path


def test_a_session_names_its_ports_and_runs(bundle: Path):
    session = open_session(bundle / "generate.onnx", "cpu")
    assert session.inputs == ("label", "seed", "steps", "guidance") and session.outputs == ("image",)
    assert session.provider == "cpu" and session.reason == "" and str(session) == "cpu"
    one = np.array([1])
    image = session.run({"label": one, "seed": one, "steps": np.array(20), "guidance": np.zeros(1, np.float32)})
    assert image["image"].shape == (1, 8, 8, 1) and (image["image"] == 31 + 7 + 20).all()


@pytest.mark.skipif(nvidia_gpus() > 0, reason="this machine has a GPU")
def test_without_a_gpu_auto_is_the_cpu_and_cuda_is_an_error(bundle: Path):
    session = open_session(bundle / "decode.onnx", "auto")
    assert str(session) == "cpu"
    with pytest.raises(
        DeviceError,
        match="^CUDA was requested but is unavailable: this machine has no NVIDIA GPU, or no driver for it$",
    ):
        open_session(bundle / "decode.onnx", "cuda")


@pytest.mark.skipif(nvidia_gpus() == 0, reason="needs a GPU")
def test_cuda_runs_every_convolution_there(loop: Path):
    session = open_session(loop, "cuda")
    session.run({"x": np.zeros((1, 2, 4, 4), np.float32), "n": np.array(2)})
    assert session.provider == "cuda" and not any("Conv" in op for op in session.left_on_cpu)


def test_a_gpu_that_can_not_be_used_is_explained_by_the_library_that_is_missing(bundle: Path, monkeypatch):
    """No GPU here: its number is the one thing made up; the missing library is this machine's own finding."""
    monkeypatch.setattr(runtime, "nvidia_gpus", lambda: 1)
    obstacle = cuda_obstacle()
    if not obstacle:
        pytest.skip("the CUDA libraries are installed here")
    assert obstacle.startswith("there is 1 NVIDIA GPU, but ") and obstacle.endswith(runtime_command("cuda"))
    assert "\n" not in obstacle
    assert str(open_session(bundle / "decode.onnx", "auto")) == f"cpu: {obstacle}"
    with pytest.raises(DeviceError, match="^CUDA was requested but is unavailable: there is 1 NVIDIA GPU"):
        open_session(bundle / "decode.onnx", "cuda")


def test_where_there_is_no_build_for_cuda_no_command_is_given(monkeypatch):
    """`genzoo[cuda]` would bring the build without CUDA again."""
    monkeypatch.setattr(runtime, "nvidia_gpus", lambda: 2)
    monkeypatch.setattr(runtime, "CUDA", "none")
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    assert cuda_obstacle() == "there are 2 NVIDIA GPUs, but there is no onnxruntime-gpu for this system"


def test_a_session_that_fell_back_to_the_cpu_is_not_taken_for_cuda(bundle: Path, monkeypatch, capfd):
    """ONNX Runtime makes a CPU session without an error when CUDA's libraries do not load."""
    monkeypatch.setattr(runtime, "cuda_obstacle", lambda: "")
    with pytest.raises(DeviceError, match="CUDA was requested but is unavailable: ONNX Runtime"):
        open_session(bundle / "decode.onnx", "cuda")
    session = open_session(bundle / "decode.onnx", "auto")
    assert session.provider == "cpu" and session.reason
    assert capfd.readouterr() == ("", "")  # ONNX Runtime's own words stay unsaid


@pytest.fixture
def asked_for(monkeypatch) -> list:
    """What sessions are asked for, on a machine that seems to have CUDA; they run on the CPU."""
    import onnxruntime

    asked, real = [], onnxruntime.InferenceSession

    def session(graph, options, *, providers, **more):
        asked.append(providers)
        return real(graph, options, providers=[CPU], **more)

    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    monkeypatch.setattr(runtime, "cuda_obstacle", lambda: "")
    return asked


DEFAULTS = {
    "cudnn_conv_algo_search": "EXHAUSTIVE",
    "use_tf32": "1",
    "arena_extend_strategy": "kNextPowerOfTwo",
    "gpu_mem_limit": "18446744073709551615",
}


@pytest.mark.parametrize(
    "given, exact, changed",
    [
        ("", False, {}),
        ("use_tf32=0", False, {"use_tf32": "0"}),
        (
            "cudnn_conv_algo_search=HEURISTIC, gpu_mem_limit=2000000000,arena_extend_strategy=kSameAsRequested",
            False,
            {
                "cudnn_conv_algo_search": "HEURISTIC",
                "gpu_mem_limit": "2000000000",
                "arena_extend_strategy": "kSameAsRequested",
            },
        ),
        ("use_tf32=1", True, {"use_tf32": "0"}),  # golden cases are compared without TF32, whatever is set
    ],
)
def test_the_cuda_options_that_are_set_reach_the_session(bundle: Path, monkeypatch, asked_for, given, exact, changed):
    monkeypatch.setenv("ZOO_CUDA_OPTIONS", given)
    open_session(bundle / "decode.onnx", "auto", exact=exact)
    assert asked_for[0] == [(CUDA, DEFAULTS | changed), CPU]


@pytest.mark.parametrize(
    "given, says",
    [
        ("use_tf32", "'use_tf32' must be NAME=VALUE"),
        ("use_tf32=yes", "use_tf32 is 'yes'; it must be 0 or 1"),
        ("cudnn_conv_algo=DEFAULT", "there is no 'cudnn_conv_algo'; did you mean 'cudnn_conv_algo_search'"),
        ("gpu_mem_limit=2GB", "gpu_mem_limit is '2GB'; it must be text that matches"),
    ],
)
def test_wrong_cuda_options_are_one_line(bundle: Path, monkeypatch, given, says):
    monkeypatch.setenv("ZOO_CUDA_OPTIONS", given)
    with pytest.raises(UsageError, match=f"^ZOO_CUDA_OPTIONS: {says}[^\n]*$"):
        open_session(bundle / "decode.onnx", "auto")
    open_session(bundle / "decode.onnx", "cpu")  # which has no use for them


def test_the_cuda_options_are_ones_that_the_provider_knows():
    import onnxruntime

    if "onnxruntime-gpu" not in runtimes():
        pytest.skip("onnxruntime-gpu is not installed")
    assert CUDA in onnxruntime.get_available_providers()
    [library] = (Path(onnxruntime.__file__).parent / "capi").glob("*onnxruntime_providers_cuda.*")
    words = library.read_bytes()
    values = [v for name, value in cuda_options().items() for v in (name, value) if not v.isdigit()]
    assert [word for word in [*values, "HEURISTIC", "kSameAsRequested"] if word.encode() not in words] == []


def test_the_profile_of_a_call_decides_whether_it_ran_on_cuda(loop: Path):
    """A session that says `cuda` and runs on the CPU is found out by its first call."""
    folder = LockedFolder("zoo-profile-")
    inner = runtime._create(loop, [CPU], 1, folder)
    session = runtime.Session(inner, "cuda", "", "loop.onnx", folder)
    with pytest.raises(DeviceError, match=r"^CUDA was requested, but loop.onnx partly ran on the CPU: 1 FusedConv$"):
        session.run({"x": np.zeros((1, 2, 4, 4), np.float32), "n": np.array(2)})
    assert not folder.path.exists()


def test_placement_counts_nodes_once_however_often_a_loop_runs_them():
    assert placement(RECORDED_ON_CPU) == {"FusedConv": {CPU: 1}, "Identity": {CPU: 1}, "Loop": {CPU: 1}}
    assert placement(MADE_FOR_CUDA) == {
        "BitwiseXor": {CPU: 1},
        "Conv": {CUDA: 2},
        "MemcpyToHost": {CUDA: 1},
        "Shape": {CPU: 1},
    }


def test_require_cuda_lists_what_stays_and_refuses_what_may_not():
    assert require_cuda(placement(MADE_FOR_CUDA), "g.onnx") == {"BitwiseXor": 1, "Shape": 1}
    with pytest.raises(DeviceError, match=r"g.onnx partly ran on the CPU: 1 FusedConv$"):
        require_cuda(placement(RECORDED_ON_CPU), "g.onnx")
    with pytest.raises(DeviceError, match="partly ran on the CPU: 1 MatMul"):
        require_cuda(placement([*MADE_FOR_CUDA, node("m", "MatMul", CPU, 9)]), "g.onnx")
    with pytest.raises(DeviceError, match="no node of g.onnx ran on it"):
        require_cuda(placement([SESSION, node("shape", "Shape", CPU, 4)]), "g.onnx")


def test_damaged_and_missing_graphs_are_one_line(bundle: Path):
    with pytest.raises(NotFoundError, match="none.onnx does not exist"):
        open_session(bundle / "none.onnx", "cpu")
    (bundle / "decode.onnx").write_bytes(b"\x00 no graph")
    with pytest.raises(InvalidFileError, match="^ONNX Runtime refuses decode.onnx: [^\n]+$"):
        open_session(bundle / "decode.onnx", "cpu")


def test_a_graph_that_fails_is_one_line_and_silent(bundle: Path, capfd):
    session = open_session(bundle / "generate.onnx", "cpu")
    with pytest.raises(InvalidFileError, match="^generate.onnx failed on cpu: [^\n]+$"):
        session.run({"label": np.array(["x"])})
    assert capfd.readouterr() == ("", "")


def test_a_model_can_not_set_session_options_by_its_metadata(bundle: Path, monkeypatch):
    monkeypatch.setenv("ORT_LOAD_CONFIG_FROM_MODEL", "1")
    open_session(bundle / "decode.onnx", "cpu")
    assert "ORT_LOAD_CONFIG_FROM_MODEL" not in os.environ


def test_physical_cores_are_between_one_and_what_the_process_may_use():
    assert 1 <= physical_cores() <= (os.cpu_count() or 1)


def test_after_a_call_no_thread_goes_on_looking_for_work(loop: Path, monkeypatch):
    """It would take the cores of the session that runs next; ONNX Runtime's default does, for tens of milliseconds."""
    monkeypatch.setattr(runtime, "physical_cores", lambda: 4)
    session, inputs = open_session(loop, "cpu"), {"x": np.ones((64, 2, 4, 4), np.float32), "n": np.array(9)}
    idle = []
    for _ in range(5):
        session.run(inputs)
        busy = time.process_time()
        time.sleep(0.03)
        idle.append(time.process_time() - busy)
    assert min(idle) < 0.01


def test_another_thread_s_call_is_interrupted_and_no_other(loop: Path):
    session, failed = open_session(loop, "cpu"), []

    def call() -> None:
        with pytest.raises(InvalidFileError, match="^loop.onnx failed on cpu: .*terminate"):
            session.run({"x": np.zeros((1, 2, 4, 4), np.float32), "n": np.array(10**12)})
        failed.append(True)

    thread = threading.Thread(target=call)
    thread.start()
    session.interrupt(threading.get_ident())
    assert session.run({"x": np.zeros((1, 2, 4, 4), np.float32), "n": np.array(3)})
    while thread.is_alive():  # the first time, it may not have begun
        session.interrupt(thread.ident)
        thread.join(0.05)
    assert failed == [True] and session._calls == {}


@pytest.mark.slow
@pytest.mark.parametrize("before", [(), IGNORING_SIGINT], ids=["alone", "ignoring"])
def test_ctrl_c_ends_a_call_that_would_run_for_hours(loop: Path, before: tuple[str, ...]):
    code = (
        "import sys, numpy as np; from pathlib import Path; from zoo.runtime import open_session\n"
        "from zoo.system.processes import hear_interrupts; hear_interrupts()\n"
        "session = open_session(Path(sys.argv[1]), 'cpu'); print('ready', flush=True)\n"
        "session.run({'x': np.zeros((1, 2, 4, 4), np.float32), 'n': np.array(10**12)})"
    )
    with started([*before, sys.executable, "-c", code, loop], stdout=PIPE, stderr=PIPE) as child:
        assert child.stdout.readline() == b"ready\n"
        child.send_signal(signal.SIGINT)
        _, errors = child.communicate(timeout=120)
    assert b"KeyboardInterrupt" in errors and child.returncode == -signal.SIGINT
