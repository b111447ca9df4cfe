"""What contract 3 gives authors: files in bundles, named arrays, own augmentation, looks, ties of pixels, cheap cases.

The plugin is a stranger's: it is only used through its hooks, as `zoo plugin check`, `zoo train` and `zoo build` do.
"""

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from zoo.build import checkpoint as checkpoints
from zoo.build.begin import Asked, Parent, begin, refuse_other, with_assets
from zoo.build.bundling import bundle_of
from zoo.build.conformance import CHECKS, Examination, Subject
from zoo.build.forecast import forecast
from zoo.build.measure import measure_held_out
from zoo.build.train import Run, new_trainer, train
from zoo.build.watch import Watch
from zoo.errors import IntegrityError, PluginError, UsageError
from zoo.formats import manifest as manifests
from zoo.formats.golden import read_cases
from zoo.names import GOLDEN
from zoo.plugins import in_folder, load_from, probe

from ..cli.commands import zoo as run_cli

HERE = Path(__file__).parent


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setenv("ZOO_HOME", str(tmp_path / "home"))
    for name in [name for name in sys.modules if name.startswith("zoo_tinter")]:
        monkeypatch.delitem(sys.modules, name)
    [found] = in_folder(shutil.copytree(HERE / "plugin_of_contract_3", tmp_path / "plugin"))
    assert (found.contract, found.problem) == (3, "")
    return found


@pytest.fixture
def loaded(plugin, monkeypatch):
    loaded = load_from(probe(plugin).plugin, "tinter")
    monkeypatch.setattr("zoo.plugins.load", lambda family: loaded)
    monkeypatch.setattr("zoo.build.measure.load", lambda family: loaded)
    return loaded


def pairs(path: Path, **changes) -> Path:
    """Pictures, and the same half as bright (style 0) or unchanged (style 1)."""
    rng = np.random.default_rng(0)
    images, style = rng.integers(0, 256, (40, 8, 8), dtype=np.uint8), rng.integers(0, 2, 40)
    after = np.where(style[:, None, None] == 0, images // 2, images)
    arrays = {"images": images, "after": after, "style": style, "style_classes": np.array(["dim", "same"])} | changes
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})
    return path


def folder_of(pairs: Path, folder: Path) -> Path:
    """The same as a folder: pictures, and a table that names what they should become."""
    (folder / "after").mkdir(parents=True)
    with np.load(pairs) as arrays, (folder / "metadata.csv").open("w") as rows:
        print("file_name,after_file_name,style", file=rows)
        for i, (image, after, style) in enumerate(zip(arrays["images"], arrays["after"], arrays["style"], strict=True)):
            Image.fromarray(image).save(folder / f"{i:02}.png")
            Image.fromarray(after).save(folder / "after" / f"{i:02}.png")
            print(f"{i:02}.png,after/{i:02}.png,{arrays['style_classes'][style]}", file=rows)
    return folder


def asked(data: Path, **more) -> Asked:
    return Asked(family="tinter", data=data, name="", default_name="mine", **{"steps": 4, "batch_size": 8} | more)


def begun_from(loaded, data, parent=None, **more):
    return with_assets(loaded, begin(loaded, asked(data, **more), parent), parent)


@pytest.mark.slow
def test_a_plugin_with_all_of_it_passes_the_check(plugin, tmp_path):
    examination = Examination(Subject("tinter", plugin, tmp_path / "bundles"))
    outcomes = [examination.outcome(check.name) for check in CHECKS]
    assert [(outcome.check, outcome.line) for outcome in outcomes if outcome.verdict != "pass"] == []


@pytest.mark.slow
def test_from_pairs_to_a_bundle_and_back(loaded, tmp_path):
    """Arrays reach the trainer, files reach the bundle, its copies and every later hook."""
    begun = begun_from(loaded, pairs(tmp_path / "pairs.npz"))
    assert begun.run.config == {"styles": 2}  # from the names of the styles
    assert list(begun.run.assets) == ["levels.csv"] and set(begun.held_out.arrays) == {"after", "style"}
    trained = train(loaded, begun.run, begun.data, tmp_path / "t", held_out=begun.held_out, watched=True)
    lines = [json.loads(line) for line in (tmp_path / "t" / "log.jsonl").read_text().splitlines()]
    assert {"loss", "held_out_loss", "largest_gain"} <= set(lines[-1])
    assert (tmp_path / "t" / "targets-000004.png").is_file()

    said: list[str] = []
    manifest = bundle_of(loaded, begun.run, trained.module, trained.record, tmp_path / "mine", said.append)
    bundled = (tmp_path / "mine" / "levels.csv").read_bytes()
    assert bundled == begun.run.assets["levels.csv"] and manifest.assets == ["levels.csv"]
    cases = read_cases(tmp_path / "mine" / GOLDEN, manifest)
    assert len(cases["speckle"]) == 2 and {int(case.inputs["times"]) for case in cases["speckle"]} == {3}
    assert len(cases["tint"]) == 4

    for source in (tmp_path / "t", tmp_path / "mine"):  # a checkpoint, and a bundle
        out = tmp_path / f"again-{source.name}"
        done = run_cli("build", source, "--out", out)
        assert done.code == 0, done.err
        assert (out / "levels.csv").read_bytes() == bundled
    pictures = tmp_path / "pictures.npz"
    np.savez(pictures, images=np.load(tmp_path / "pairs.npz")["images"])
    for data, metrics in ((tmp_path / "pairs.npz", ["styles", "mean_error"]), (pictures, ["styles"])):
        done = run_cli("eval", tmp_path / "mine", "--data", data, "--json")
        assert done.code == 0, done.err
        assert [metric["name"] for metric in json.loads(done.out)] == metrics
    assert [m.name for m in measure_held_out(tmp_path / "mine", begun.held_out)] == ["styles", "mean_error"]

    assert run_cli("publish", tmp_path / "mine", "--to", tmp_path / "registry").code == 0
    assert (tmp_path / "registry/models/mine/1/levels.csv").read_bytes() == bundled
    assert run_cli("verify", tmp_path / "mine", "--replay").code == 0

    other = pairs(tmp_path / "other.npz", images=np.full((40, 8, 8), 9, np.uint8))
    on = begun_from(loaded, other, Parent(str(tmp_path / "mine")))
    assert on.run.assets == begun.run.assets  # the parent's weights belong to them

    (tmp_path / "mine" / "levels.csv").write_text("1\n")
    assert run_cli("verify", tmp_path / "mine").code != 0
    with pytest.raises(IntegrityError, match=r"levels\.csv"):
        begun_from(loaded, other, Parent(str(tmp_path / "mine")))


def test_a_folder_of_pairs_trains_as_an_npz_of_them(loaded, tmp_path):
    npz = pairs(tmp_path / "pairs.npz")
    first, second = (begun_from(loaded, data) for data in (npz, folder_of(npz, tmp_path / "pairs")))
    assert first.data.sha256 == second.data.sha256 and first.run.config == second.run.config
    gains = [train(loaded, b.run, b.data, tmp_path / name).module.gain for b, name in ((first, "a"), (second, "b"))]
    assert torch.equal(*gains)


def test_a_checkpoint_keeps_assets_and_the_same_run_goes_on(loaded, tmp_path):
    begun = begun_from(loaded, pairs(tmp_path / "pairs.npz"))
    run = replace(begun.run, assets=begun.run.assets | {"empty.txt": b"", "bytes.npy": bytes(range(256))})
    whole = train(loaded, run, begun.data, tmp_path / "whole")
    train(loaded, run, begun.data, tmp_path / "parts", max_seconds=1e-9)
    saved = checkpoints.load(tmp_path / "parts")
    assert (saved.step, Run.of(saved).assets) == (1, run.assets)
    refuse_other(Run.of(saved), replace(run, assets={}), tmp_path)  # they are not compared: the data are
    parts = train(loaded, run, begun.data, tmp_path / "parts", resume=True)
    assert torch.equal(whole.module.gain, parts.module.gain)  # so its own augmentation repeats, too


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (
            {"after": None},
            "the model needs 'after' (uint8 [batch, height, width, 1]) of each picture, and pairs",
        ),
        ({"after": None, "aftr": np.zeros((40, 8, 8), np.uint8)}, "it has style, aftr; did you mean 'aftr'?"),
        ({"after": np.zeros((40, 9, 8), np.uint8)}, "pairs: images has height 8; the other inputs have 9"),
        ({"style": np.arange(40)}, "pairs: style is 39; it must be 0 .. 1"),
        ({"style": np.zeros((39,), np.int64)}, "the model needs 'style'"),
    ],
)
def test_data_without_what_an_example_needs_are_refused_in_one_line(loaded, tmp_path, changes, says):
    with pytest.raises(UsageError) as caught:
        begin(loaded, asked(pairs(tmp_path / "pairs.npz", **changes)))
    assert says in str(caught.value) and "\n" not in str(caught.value)


def test_what_covers_the_pictures_is_scaled_with_them(loaded, tmp_path):
    begun = begin(loaded, asked(pairs(tmp_path / "pairs.npz"), image_size="4", hold_out=0))
    assert begun.data.images.shape == begun.data.arrays["after"].shape == (40, 4, 4, 1)
    same = begun.data.arrays["style"] == 1
    assert same.any() and np.array_equal(begun.data.images[same], begun.data.arrays["after"][same])


def test_what_covers_the_pictures_moves_with_them(loaded, tmp_path):
    from zoo.build.augment import Augment
    from zoo.build.batching import batch_of
    from zoo.build.train import augmented

    data = begin(loaded, asked(pairs(tmp_path / "pairs.npz"), hold_out=0)).data
    batch = batch_of(data, slice(None), torch.device("cpu"))
    moved = augmented(batch, Augment(mirror=True, shift=2), data.aligned, object(), (0, 1, 0))
    same = batch.arrays["style"] == 1
    assert not torch.equal(moved.images, batch.images) and torch.equal(moved.arrays["style"], batch.arrays["style"])
    assert torch.equal(moved.images[same], moved.arrays["after"][same])


def test_an_error_in_a_trainer_is_one_line_with_its_place(loaded, tmp_path):
    begun = begun_from(loaded, pairs(tmp_path / "pairs.npz"), hold_out=0)
    data = replace(begun.data, arrays=begun.data.arrays | {"style": begun.data.arrays["style"] + 9})
    with pytest.raises(PluginError) as caught:
        train(loaded, begun.run, data, tmp_path / "t")
    assert str(caught.value).startswith("zoo-tinter 1.0: its trainer failed at step 0 (zoo_tinter/model.py:")
    assert "IndexError" in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(PluginError) as caught:  # what `zoo train` does first
        forecast(loaded, begun.run, data)
    assert str(caught.value).startswith("zoo-tinter 1.0: its trainer failed at a first step on this data (zoo_tinter/")
    assert "IndexError" in str(caught.value) and "\n" not in str(caught.value)


def test_a_forecast_sees_the_trainers_own_augmentation(loaded, tmp_path, monkeypatch):
    begun = begun_from(loaded, pairs(tmp_path / "pairs.npz"), hold_out=0)
    trainer = type(new_trainer(loaded, begun.run, torch.device("cpu")))
    sizes = []
    monkeypatch.setattr(trainer, "augment", lambda self, batch, generator: replace(batch, images=batch.images[:, :4]))
    monkeypatch.setattr(
        trainer,
        "step",
        lambda self, batch, *_: sizes.append(batch.images.shape[1]) or {"loss": self.module.gain.sum().detach()},
    )
    forecast(loaded, begun.run, begun.data)
    assert sizes and set(sizes) == {4}


def test_an_error_of_a_look_is_one_line(loaded, tmp_path, monkeypatch):
    begun = begun_from(loaded, pairs(tmp_path / "pairs.npz"), hold_out=2)
    monkeypatch.setattr(Watch, "look", lambda *_: {}["figure"])
    with pytest.raises(PluginError) as caught:
        train(loaded, begun.run, begun.data, tmp_path / "t", held_out=begun.held_out, watched=True)
    assert "its trainer failed when it was looked at after step" in str(caught.value)
    assert "KeyError" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("made", "says"),
    [
        (
            {"model.json": b""},
            "make_assets: 'model.json' is not an asset's name: it could be mistaken for another file",
        ),
        ({"run.py": b""}, "make_assets: 'run.py' is not an asset's name: it must end in .txt, .json"),
        ({"../x.txt": b""}, "make_assets: '../x.txt' is not a file name"),
        ({"x.txt": "text"}, "make_assets: 'x.txt' is str; an asset is bytes"),
        ({f"{n}.txt": b"" for n in range(17)}, "make_assets: 17 assets; at most 16 are allowed"),
        ({"x.txt": bytes((16 << 20) + 1)}, "make_assets: 'x.txt' has 16,777,217 bytes; an asset may have at most"),
    ],
)
def test_files_that_a_bundle_cannot_contain_are_refused_before_training(loaded, tmp_path, monkeypatch, made, says):
    begun = begin(loaded, asked(pairs(tmp_path / "pairs.npz")))
    monkeypatch.setattr(type(loaded), "call", lambda self, hook, request: made)
    with pytest.raises(UsageError) as caught:
        with_assets(loaded, begun)
    assert str(caught.value).startswith(says)


def test_a_manifest_with_files_that_are_neither_its_own_nor_assets_is_refused(tmp_path):
    from tests.tiny import bundle
    from zoo.errors import InvalidFileError
    from zoo.formats.fields import File

    manifest = manifests.read(bundle(tmp_path / "tiny"))
    assert manifest.assets == []
    for name, size, says in [
        ("words.txt", 9, None),
        ("config.json", 9, "'config.json' is not an asset's name: it could be mistaken"),
        ("other.onnx", 9, "'other.onnx' is not an asset's name"),
        ("words.txt", 1 << 40, "'words.txt' has 1,099,511,627,776 bytes"),
    ]:
        files = {**manifest.files, name: File(size=size, sha256="0" * 64)}
        data = manifests.dump(manifests.Manifest(**{**fields_of(manifest), "files": files}))
        if says is None:
            assert manifests.parse(data, "model.yaml").assets == [name]
        else:
            with pytest.raises(InvalidFileError, match=f"model.yaml: files: {says}"):
                manifests.parse(data, "model.yaml")


def fields_of(manifest: manifests.Manifest) -> dict:
    return {name: getattr(manifest, name) for name in manifest.__struct_fields__}
