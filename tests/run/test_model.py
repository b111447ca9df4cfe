import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

import zoo
from tests.tiny_tasks import bundle_of, studio
from zoo.errors import InvalidFileError, NotFoundError, UsageError
from zoo.run.model import Model


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
        ("generate", {}, "needs seed"),
        ("reconstruct", {"image": PICTURES[0]}, r"image\[None\]"),
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
    assert repr(model).splitlines()[:3] == [
        "<zoo.Model studio:1",
        "  reconstruct(image) -> reconstruction",
        "  encode(image) -> tokens, size",
    ]


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
    assert out[0].endswith("['Model', 'ZooError', '__version__', 'load'] True") and out[1] == "[]"
    assert (Path(zoo.__file__).parent / "py.typed").is_file()
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        zoo.nothing  # noqa: B018
