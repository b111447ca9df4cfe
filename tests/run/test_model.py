import base64
import inspect
import io
import os
import pickle
import pydoc
import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import MethodType

import numpy as np
import pytest
from PIL import Image

import zoo
from tests.tiny_tasks import bundle_of, studio
from zoo.errors import InvalidFileError, NotFoundError, UsageError
from zoo.hookspecs import Port, Task
from zoo.ports.signature import example_of
from zoo.run.model import Model, _method


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return studio(tmp_path_factory.mktemp("model") / "studio")


@pytest.fixture
def model(folder: Path) -> Model:
    return Model(bundle_of(folder), "cpu")


PICTURES = np.random.default_rng(0).integers(0, 256, (3, 9, 10, 1), dtype=np.uint8)


def test_load_takes_a_folder(folder: Path):
    model = zoo.load(str(folder), device="cpu")
    assert isinstance(model, zoo.Model) and model.device == "cpu" and model.reference == str(folder)
    assert len(model.digest) == 64 and model.manifest.name == "studio"
    assert (model.reconstruct(image=PICTURES)["reconstruction"] == PICTURES).all()


def test_load_of_what_is_not_there_is_one_line(tmp_path: Path):
    with pytest.raises(zoo.ZooError, match=r"is not a bundle: it has no model\.yaml$"):
        zoo.load(f"{tmp_path}/none")


def test_a_task_is_a_method_and_run_is_the_same(model: Model):
    encoded = model.encode(image=PICTURES)
    assert encoded.keys() == {"tokens", "size"} and encoded["tokens"].shape == (3, 3, 3)
    same = model.run("encode", image=PICTURES)
    assert all((same[name] == encoded[name]).all() for name in encoded)
    decoded = model.decode(tokens=encoded["tokens"][:, :2, :2], size=[7, 8])["image"]
    assert decoded.shape == (3, 7, 8, 1) and decoded.dtype == np.uint8


def test_defaults_names_and_numbers(model: Model):
    image = model.generate(seed=[1, 2], label="sneaker", guidance=0)["image"]
    assert image[:, 0, 0, 0].tolist() == [31 + 7 + 20, 62 + 7 + 20]


def test_what_is_wrong_is_said_before_a_session_opens(model: Model):
    for task, ports, said in [
        ("reconstruct", {}, "needs image"),
        ("reconstruct", {"image": PICTURES[0, :, :, 0].astype(float)}, "image is float64; pictures are uint8"),
        ("reconstruct", {"picture": PICTURES}, "has no input 'picture'"),
    ]:
        with pytest.raises(UsageError, match=said):
            model.run(task, **ports)
    assert model._sessions == {}


def test_unknown_tasks(model: Model):
    with pytest.raises(NotFoundError, match="studio has no task 'generat'; it has .*; did you mean 'generate'"):
        model.run("generat", seed=1)
    with pytest.raises(AttributeError, match="Model has no attribute or task 'paint'"):
        model.paint  # noqa: B018
    assert not hasattr(model, "_repr_html_") and "classify" in dir(model)


def test_it_shows_its_tasks(model: Model):
    lines = repr(model).splitlines()
    assert lines[:3] == [
        "<zoo.Model studio:1",
        "  reconstruct(image [batch, height, width, 1]) -> reconstruction [batch, height, width, 1]",
        "  encode(image [batch, height, width, 1]) -> tokens [batch, rows, columns], size [2]",
    ]
    assert "  generate(label=-1 (-1 .. 2), seed=None, steps=20 (1 .. 50), guidance=0.1 (0 .. 0.1)) ->" in repr(model)
    assert lines[-1].startswith("  example: ") and lines[-1].endswith(">")


def test_every_example_works(model: Model):
    for name, task in model.manifest.tasks.items():
        eval(example_of(name, task), {"model": model})
    shown = repr(model).rpartition("example: ")[2].removesuffix(">")
    assert eval(shown, {"model": model}).size == (12, 8)


def test_a_task_has_a_signature_and_a_docstring(model: Model):
    signature = inspect.signature(model.generate)
    assert {name: p.default for name, p in signature.parameters.items()} == {
        "label": -1,
        "seed": None,
        "steps": 20,
        "guidance": 0.1,
    }
    assert signature.parameters["steps"].annotation is int
    assert signature.parameters["seed"].annotation == int | Sequence[int] | None
    assert signature.parameters["label"].annotation == str | int | Sequence[str | int]
    assert all(p.kind is p.KEYWORD_ONLY for p in signature.parameters.values())
    assert inspect.signature(model.decode).parameters["size"].default is inspect.Parameter.empty
    assert signature.return_annotation is zoo.Outputs
    text = pydoc.render_doc(model.generate, renderer=pydoc.plaintext)
    for said in (
        "label: str | int",
        "int64 [batch], -1 .. 2, default -1; Shirt, Sneaker, Ankle boot",
        "drawn if it is missing",
        "image: uint8 [batch, 8, 8, 1]",
        "model.generate(label='Ankle boot', seed=7).images[0]",
    ):
        assert said in text


def test_a_missing_seed_is_drawn_and_given_back(model: Model):
    drawn = model.generate(label=["sneaker", "shirt"], guidance=0)
    assert drawn.seed.dtype == np.int64 and drawn.seed[1] == drawn.seed[0] + 1
    again = model.generate(label=["sneaker", "shirt"], guidance=0, seed=drawn.seed)
    assert (again["image"] == drawn["image"]).all() and (again.seed == drawn.seed).all()
    assert model.generate().seed.shape == (1,) and model.generate(seed=5).seed.tolist() == [5]
    assert len({int(model.generate(steps=1).seed[0]) for _ in range(5)}) > 1
    assert model.reconstruct(image=PICTURES).seed is None


def test_outputs_are_a_dict_and_pictures(model: Model):
    outputs = model.reconstruct(image=PICTURES)
    assert isinstance(outputs, dict) and list(outputs) == ["reconstruction"]
    assert [(i.mode, i.size) for i in outputs.images] == [("L", (10, 9))] * 3
    assert (np.asarray(outputs.images[2]) == PICTURES[2, :, :, 0]).all()
    assert repr(outputs) == "<zoo.Outputs reconstruction: uint8 [3, 9, 10, 1]>"
    bundle = outputs._repr_mimebundle_()
    png = Image.open(io.BytesIO(base64.b64decode(bundle["image/png"])))
    assert png.size == (22 * 11, 20 * 11) and bundle["text/plain"] == repr(outputs)
    assert png.getpixel((0, 0)) == png.getpixel((10, 10)) == PICTURES[0, 0, 0, 0]
    assert base64.b64decode(bundle["image/png"]) == outputs._repr_png_()

    encoded = model.encode(image=PICTURES)
    assert encoded.images == [] and encoded._repr_png_() is None
    assert encoded._repr_mimebundle_().keys() == {"text/plain"} and "size: int64 [2] = [9, 10]" in repr(encoded)
    copied = pickle.loads(pickle.dumps(outputs))
    assert copied.keys() == outputs.keys() and len(copied.images) == 3
    assert zoo.Outputs(a=1).images == []  # made by hand


def test_inputs_may_have_the_names_of_keywords_and_of_self():
    seed = Port(kind="seed", dtype="int64", shape=())
    task = Task(summary="Draws", inputs={"self": seed, "lambda": seed}, outputs={"image": seed})

    class Recorder:
        def run(self, name, /, **ports):
            return name, ports

    method = _method("generate", task)
    assert MethodType(method, Recorder())(**{"self": 1, "lambda": 2}) == ("generate", {"self": 1, "lambda": 2})
    assert str(inspect.signature(MethodType(method, Recorder()))) == "(**ports: Any) -> zoo.run.results.Outputs"
    assert method.__doc__.endswith('model.generate(**model.example("generate"))["image"]')
    only_self = _method("generate", Task(summary="Draws", inputs={"self": seed}, outputs={"image": seed}))
    assert list(inspect.signature(MethodType(only_self, Recorder())).parameters) == ["self"]


FORKED = """
import os, sys, threading
import numpy as np
import zoo
import warnings; warnings.simplefilter("ignore")  # of Python 3.12 about a fork with threads

model = zoo.load(sys.argv[1], isolated=sys.argv[2] in ("worker", "calling"))
pictures = np.arange(8 * 8, dtype=np.uint8).reshape(1, 8, 8, 1)
assert (model.reconstruct(image=pictures)["reconstruction"] == pictures).all()
if sys.argv[2] == "locked":
    model._lock.acquire()  # as another thread may at the moment of the fork
if sys.argv[2] == "calling":
    import threading

    inside, forked = threading.Event(), threading.Event()

    def call():
        with model._bundle.worker.turn():
            inside.set()
            forked.wait()

    threading.Thread(target=call).start()
    inside.wait()
child = os.fork()
if not child:
    assert (model.reconstruct(image=pictures)["reconstruction"] == pictures).all()
    sys.exit(7)  # through the end of the interpreter, which must not wait for the parent's threads
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
if sys.argv[2] == "calling":
    forked.set()
if sys.argv[2] != "locked":
    assert (model.reconstruct(image=pictures)["reconstruction"] == pictures).all()
print("both")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
@pytest.mark.parametrize("how", ["here", "locked", "worker", "calling"])
def test_the_child_of_a_fork_opens_its_own_sessions(folder: Path, how: str):
    command = [sys.executable, "-c", FORKED, str(folder), how]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "both\n"), done.stderr


def test_threads_share_a_model_and_open_each_graph_once(model: Model, monkeypatch):
    opened = []
    inner = model._open
    monkeypatch.setattr(model, "_open", lambda *a, **k: opened.append(a) or inner(*a, **k))
    results: dict[int, bool] = {}

    def work(seed: int) -> None:
        image = model.generate(seed=seed, guidance=0)["image"]
        results[seed] = bool((image == (31 * seed - 7 + 20) % 256).all())

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(opened) == 1 and all(results.values()) and len(results) == 12


def test_threads_get_what_one_thread_gets():
    model = zoo.load("vqvae-mnist", device="cpu")
    calls = [("generate", {"label": str(n), "seed": n, "steps": 2}) for n in range(6)]
    calls += [("reconstruct", {"image": np.full((28, 28), 40 * n, np.uint8)}) for n in range(6)]
    alone = [model.run(task, **ports) for task, ports in calls]
    fresh = zoo.load("vqvae-mnist", device="cpu")
    with ThreadPoolExecutor(6) as pool:
        together = list(pool.map(lambda call: fresh.run(call[0], **call[1]), calls * 2))
    for one, other in zip(alone * 2, together, strict=True):
        assert one.keys() == other.keys() and all((one[name] == other[name]).all() for name in one)


def test_a_damaged_graph_is_one_line(tmp_path: Path):
    folder = studio(tmp_path / "studio")
    (folder / "decode.onnx").write_bytes(b"no graph")
    with pytest.raises(InvalidFileError, match=r"^ONNX Runtime refuses decode\.onnx"):
        Model(bundle_of(folder), "cpu").decode(tokens=np.zeros((1, 2, 2), int), size=[8, 8])


def test_importing_zoo_is_instant_and_typed():
    code = (
        "import sys, zoo; print(zoo.__version__, sorted(zoo.__all__), dir(zoo) == zoo.__all__);"
        "print(sorted({'numpy', 'onnxruntime', 'PIL', 'torch', 'onnx', 'yaml', 'msgspec', 'click'} & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.splitlines()
    assert out[0].endswith("['Model', 'Outputs', 'ZooError', '__version__', 'load', 'models'] True") and out[1] == "[]"
    assert (Path(zoo.__file__).parent / "py.typed").is_file()
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        zoo.nothing  # noqa: B018
