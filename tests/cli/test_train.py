"""`zoo train` from the command line: bundles, mistakes in one line, what it says (signals: test_train_processes.py)."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import click
import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

import zoo as package
from tests import tiny
from tests.trainers import drawings
from zoo.build.forecast import Forecast
from zoo.build.train import Progress
from zoo.build.watch import Look
from zoo.cli import main
from zoo.cli import training as told
from zoo.cli.training import seconds_of
from zoo.formats import manifest as manifests
from zoo.media.tensors import load
from zoo.names import MANIFEST

from .commands import Outcome, zoo


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ZOO_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def line(outcome: Outcome, code: int) -> str:
    """The one line of a failure."""
    assert outcome.code == code and outcome.out == "", outcome
    assert outcome.err.startswith("Error: ") and outcome.err.count("\n") == 1, outcome.err
    return outcome.err.removeprefix("Error: ").rstrip("\n")


def test_the_time_left_counts_looks_by_themselves(monkeypatch: pytest.MonkeyPatch):
    """A look takes 30 s, as for a model that draws slowly; there are three in the first 100 steps, and four later."""
    now = [0.0]
    monkeypatch.setattr(told.time, "monotonic", lambda: now[0])
    report = told.Report(as_events=True)
    left: dict[int, float] = {}
    monkeypatch.setattr(report, "event", lambda name, **said: left.update({said["step"]: said.get("eta_seconds", 0)}))
    run = SimpleNamespace(settings={"steps": 1000, "batch_size": 4}, name="x")
    with told.Bar(report, cast(Any, run), 0) as bar:
        for step, looks in ((20, 0), (25, 1), (50, 2), (100, 3), (110, 3)):
            now[0] = step + 30.0 * looks  # a step takes a second
            bar(Progress(step, 1000, {"loss": 1.0}, Look({}, None, None, 30.0) if step in (25, 50, 100) else None))
    assert left[20] == 980  # of looks, nothing is known yet
    assert left[110] == 890 + 4 * 30  # after 200, 400, 800 and 1,000 steps


# --- A bundle at the end ----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_training_ends_with_a_bundle_that_runs(workshop):
    manifest = manifests.read(workshop.codec)
    assert manifests.check_files(workshop.codec, manifest) == []
    assert (manifest.name, manifest.version, manifest.family) == ("codec", 1, "vqvae")
    assert manifest.summary == "grey 16x16 drawings: square, disc" and manifest.classes == ("square", "disc")
    record = manifest.training
    assert (record.steps, record.images_seen, record.seed, record.data) == (20, 160, 0, "drawings train")
    assert record.data_license == "CC0-1.0" and len(record.data_sha256) == 64
    images = drawings(3).images
    model = package.load(str(workshop.codec), device="cpu")
    assert model.reconstruct(image=images)["reconstruction"].shape == images.shape
    assert zoo("verify", workshop.codec, "--replay", "--device", "cpu").code == 0


@pytest.mark.slow
def test_beside_the_bundle_lies_the_training_with_its_log(workshop):
    folder = workshop.codec.with_name("codec.training")
    files = ["checkpoint.safetensors", "log.jsonl", "loss.png", "sheet-000020.png"]
    assert sorted(p.name for p in folder.iterdir()) == files
    assert [json.loads(line)["step"] for line in (folder / "log.jsonl").read_text().splitlines()] == [10, 20]
    assert sorted(p.name for p in workshop.folder.iterdir()) == [
        "codec",
        "codec.training",
        "home",
        "judge",
        "judge.training",
    ]


@pytest.mark.slow
def test_training_goes_on_from_a_bundle(workshop):
    outcome = zoo("train", "vqvae", "--data", workshop.data, "--from", workshop.codec, "--out", "codec",
                  "--steps", 1, "--batch-size", 4, "--learning-rate", "1e-9", "--set", "clip_gradient=0.5")  # fmt: skip
    assert outcome.code == 0, outcome.err
    first, second = manifests.read(workshop.codec), manifests.read(Path("codec"))
    assert (second.name, second.version, second.config) == ("codec", 2, first.config)
    digest = manifests.digest((workshop.codec / MANIFEST).read_bytes())
    assert second.training.parent == f"codec:1@sha256:{digest}" and second.summary == first.summary
    before, after = load(workshop.codec / "codec.safetensors"), load(Path("codec/codec.safetensors"))
    for name, value in before.items():
        if "quantizer" not in name:  # which learns by averages, whatever the rate
            np.testing.assert_allclose(after[name], value, rtol=0, atol=1e-6, err_msg=name)


# --- Mistakes: one line, and nothing written --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words, code, text",
    [
        (["--preset", "tinny"], 3, "vqvae has no preset 'tinny'; it has tiny, small, base, fashion, mnist, photo, "),
        (["--set", "codec.num_codez=4"], 2, "vqvae config: there is no 'codec.num_codez'; did you mean 'num_codes'?"),
        (["--set", "codec.num_codes=1"], 2, "codec.num_codes is 1; it must be a whole number from 2 to 65536"),
        (["--set", "codec.num_codes=x"], 2, "codec.num_codes is 'x'; it must be a whole number from 2 to 65536"),
        (["--set", "codec.num_codes.x=1"], 2, "--set codec.num_codes.x: 'num_codes' has no fields of its own"),
        (["--set", "num_codes"], 2, "--set 'num_codes' must look like KEY=VALUE"),
        (["--set", "warmup_step=3"], 2, "vqvae training: there is no 'warmup_step'; did you mean 'warmup_steps'?"),
        (["--set", "warmup_steps=-3"], 2, "vqvae training: warmup_steps is -3; it must be a whole number from 0"),
        (["--set", "learning_rate=0"], 2, "vqvae training: learning_rate is 0; it must be a number above 0 to 100"),
        (["--learning-rate", "nan"], 2, "vqvae training: learning_rate is nan; it must be a number above 0 to 100"),
        (["--name", "Bad Name"], 2, "'Bad Name' is not a model reference"),
        (["--name", "a/b"], 2, "'a/b' is not a model name: use lower-case letters, digits, dots and dashes"),
        (["--license", "free; as in beer"], 2, "license is 'free; as in beer'; it must be text that matches"),
        (["--summary", "two\nlines"], 2, r"summary is 'two\nlines'; it must be text of at most 300 characters"),
        (["--batch-size", "61"], 2, "batch size 61; it must be between 1 and the number of pictures, 60"),
        (["--classes", "square"], 2, "has the class 'disc', not one of square"),
        (["--classes", "square,,disc"], 2, "--classes square,,disc: name 2 of 3 is empty"),
        (["--classes", "a,b,B"], 2, "--classes: the classes 1 and 2 are called 'b' and 'B', which zoo does not tell"),
        (["--classes", ","], 2, "--classes ,: name 1 of 2 is empty"),
        (["--data", "s3://bucket/x"], 2, "s3://bucket/x is a URL; give a file or folder on this machine"),
        (["--out", "https://example.org/m"], 2, "https://example.org/m is a URL; give a file or folder"),
        (["--resume"], 3, "no checkpoint at m.training"),
        (["--from", "vqvae-fashio"], 3, "did you mean 'vqvae-fashion'?"),
        (["--data", "nowhere"], 3, "no data at nowhere"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_and_leaves_nothing(drawn, here, words, code, text):
    usual = {"--data": drawn, "--preset": "tiny", "--out": "m"}
    usual = [word for option in usual.items() if option[0] not in words for word in option]
    outcome = zoo("train", "vqvae", *usual, *words)
    assert text in line(outcome, code)
    assert {p.name for p in here.iterdir()} <= {"home"}


def test_an_unknown_family_is_suggested(drawn):
    said = line(zoo("train", "vqvea", "--data", drawn, "--out", "m"), 3)
    assert "no installed plugin makes the family 'vqvea'" in said and said.endswith("did you mean 'vqvae'?")


def test_a_bundle_is_never_overwritten(drawn, here):
    (here / "m").mkdir()
    outcome = zoo("train", "vqvae", "--data", drawn, "--preset", "tiny", "--out", "m")
    assert line(outcome, 2) == "m exists already; a bundle never overwrites: choose another --out"


def test_from_a_model_of_another_family_is_refused(drawn, here):
    tiny.bundle(here / "other")
    outcome = zoo("train", "vqvae", "--data", drawn, "--from", here / "other", "--out", "m")
    assert "belongs to the family 'tiny', not to 'vqvae'" in line(outcome, 2)


def test_the_default_name_must_be_one(drawn):
    outcome = zoo("train", "vqvae", "--data", drawn, "--preset", "tiny", "--out", "My Model")
    assert "'My Model' is not a model reference" in line(outcome, 2)


# --- What --set reaches, and --resume -------------------------------------------------------------------------------


class Stopped(Exception):
    pass


@pytest.fixture
def begun(monkeypatch):
    """Calls `zoo train` up to its first step; gives the run that would be trained."""

    def begin(*words: object):
        runs = []

        def train(loaded, run, data, folder, **options):
            runs.append(run)
            raise Stopped

        forecast = Forecast(parameters=1, flops=1, memory_bytes=1, free_bytes=None, step_seconds=1.0, device="CPU")
        monkeypatch.setattr("zoo.build.forecast.forecast", lambda *args: forecast)
        monkeypatch.setattr("zoo.build.train.train", train)
        with pytest.raises(Stopped):
            zoo("train", *words)
        return runs[0]

    return begin


def test_set_finds_config_fields_and_settings(drawn, begun):
    run = begun("vqvae", "--data", drawn, "--preset", "tiny", "--out", "m", "--set", "codec.num_codes=64",
                "--set", "codec.learn_codebook=loss", "--set", "average_decay=5e-1", "--steps", 7)  # fmt: skip
    assert run.config["codec"]["num_codes"] == 64 and run.config["codec"]["learn_codebook"] == "loss"
    assert run.settings == {"steps": 7, "batch_size": 8, "learning_rate": 1e-2, "warmup_steps": 0, "seed": 0,
                            "average_decay": 0.5}  # fmt: skip
    assert run.config["codec"]["hidden_channels"] == 16


def test_set_finds_fields_that_the_preset_leaves_out(drawn, begun):
    run = begun("judge", "--data", drawn, "--preset", "base", "--out", "m", "--set", "widths=[8,24]",
                "--set", "mirror=true")  # fmt: skip
    assert run.config["widths"] == [8, 24] or run.config["widths"] == (8, 24)
    assert run.settings["mirror"] is True and "widths" not in run.settings


def test_max_time_plans_the_steps_unless_they_are_given(drawn, begun):
    words = ("vqvae", "--data", drawn, "--preset", "tiny", "--out", "m")  # a step takes 1 s here
    assert begun(*words, "--max-time", "10s").settings["steps"] == 8
    assert begun(*words, "--max-time", "10s", "--steps", 50).settings["steps"] == 50
    assert begun(*words, "--max-time", "10s", "--set", "steps=50").settings["steps"] == 50
    assert begun(*words, "--max-time", "9h").settings["steps"] == begun(*words).settings["steps"]


def test_presets_are_not_changed_by_a_command(drawn, begun):
    from zoo_vqvae.plugin import PRESETS

    before = json.dumps(PRESETS["tiny"].config)
    begun("vqvae", "--data", drawn, "--preset", "tiny", "--out", "m", "--set", "codec.num_codes=64")
    assert json.dumps(PRESETS["tiny"].config) == before


def stopped_training(drawn: Path) -> list[object]:
    """A training that Ctrl-C stopped in its first steps; gives its command."""
    command = ["train", "vqvae", "--data", drawn, "--preset", "tiny", "--out", "m"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("zoo.build.train._signals", lambda: _Pressed())
        said = zoo(*command)
    assert said.code == 130 and said.err.splitlines()[-1] == (
        "Error: stopped after step 1 of 20; continue with the same command and --resume, or: zoo train --resume --out m"
    )
    return command


class _Pressed:
    """In the place of the signal handlers: Ctrl-C was pressed."""

    def __enter__(self):
        return lambda: True

    def __exit__(self, *error):
        pass


def test_a_checkpoint_in_the_way_is_not_overwritten(drawn, here):
    command = stopped_training(drawn)
    before = (here / "m.training/checkpoint.safetensors").read_bytes()
    assert line(zoo(*command), 2) == (
        "m.training contains a checkpoint: continue it with --resume, or start again with another --checkpoints"
    )
    assert (here / "m.training/checkpoint.safetensors").read_bytes() == before


@pytest.mark.parametrize(
    "words, text",
    [
        (["--steps", 40], "started with settings.steps 20, not 40"),
        (["--set", "codec.num_codes=4"], "started with config.codec.num_codes 8, not 4"),
        (["--seed", 5], "started with settings.seed 0, not 5"),
        (["--license", "MIT"], "started with license 'Apache-2.0', not 'MIT'"),
        (["--limit", 50], "started with data_sha256 '"),
    ],
)
def test_another_command_does_not_resume(drawn, words, text):
    command = stopped_training(drawn)
    said = line(zoo(*command, *words, "--resume"), 2)
    assert text in said and said.endswith("--resume needs the same command; to start again, use another --checkpoints")


def test_another_family_does_not_resume(drawn):
    command = stopped_training(drawn)
    command[1] = "judge"
    assert "started with" in line(zoo(*command, "--resume"), 2)


# --- What it says -----------------------------------------------------------------------------------------------------


class _Exported(Exception):
    pass


@pytest.fixture
def unexported(monkeypatch):
    """Ends a training where its bundle would be made."""

    def bundle_of(*args):
        raise _Exported

    monkeypatch.setattr("zoo.build.bundling.bundle_of", bundle_of)


def said_by(*words: object) -> Outcome:
    """What a training says until its bundle would be made."""
    result = CliRunner().invoke(main, [str(word) for word in ("train", *words)])
    assert isinstance(result.exception, _Exported), result.exception
    return Outcome(result.exit_code, result.stdout, result.stderr, result.stdout_bytes)


def test_a_summary_comes_before_the_first_step_and_progress_after_it(coloured, unexported):
    (coloured / "cat" / "Thumbs.db").write_bytes(b"x")
    lines = said_by("vqvae", "--data", coloured, "--preset", "tiny", "--hold-out", 2, "--steps", 12,
                    "--batch-size", 4, "--image-size", "16x12", "--out", "m").err.splitlines()  # fmt: skip
    rows = dict(line.split(maxsplit=1) for line in lines)
    assert rows["model"].startswith("vqvae, preset tiny: 10,487 parameters, ") and "GFLOP a step" in rows["model"]
    assert "6 pictures in 2 classes (cat, dog)" in rows["data"] and "Thumbs.db" in rows["data"]
    assert rows["changed"] == "6 cropped at the centre and scaled to 16x12"
    assert rows["pictures"] == "4 of 16x12, RGB" and rows["split"] == "all but 2 held out; 2 held out to measure on"
    assert sorted(rows["classes"].replace(",", "").split()[::2]) == ["cat", "dog"]
    assert rows["steps"] == "12 with 4 pictures: 12 times the data"
    assert rows["device"].startswith("CPU, ") and rows["device"].endswith("threads, float32")
    assert rows["memory"].startswith("about ") and rows["time"].endswith("s a step")
    assert rows["writes"] == "m (the bundle), m.training (checkpoint, log, sheets)"
    last = next(line for line in lines if line.startswith("step 12 of 12: loss "))
    assert all(part in last for part in ("held out loss ", "pictures/s", " left"))
    assert lines.index(last) > lines.index("writes    " + rows["writes"])


def test_json_gives_events(coloured, unexported):
    told = said_by("ddpm", "--data", coloured, "--preset", "tiny", "--steps", 10, "--json", "--out", "m")
    events = [json.loads(line) for line in told.out.splitlines()]
    assert [event["event"] for event in events] == ["start", "step", "look"] and told.err == ""
    start, step, look = events
    assert (start["pictures"], start["width"], start["height"], start["channels"]) == (6, 24, 20, 3)
    assert start["classes"] == {"cat": 3, "dog": 3} and start["config"]["network"]["num_classes"] == 2
    assert start["flops_per_step"] > 0 and start["memory_bytes"] > 0 and start["folder"] == "m.training"
    assert step["step"] == step["steps"] == 10 and step["losses"]["loss"] > 0 and step["pictures_per_second"] > 0
    assert Path(look["sheet"]).exists()


def test_resume_needs_no_other_words(coloured, here, unexported):
    command = ["vqvae", "--data", coloured, "--preset", "tiny", "--set", "codec.num_codes=4", "--out", "m"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("zoo.build.train._signals", lambda: _Pressed())
        assert zoo("train", *command).err.splitlines()[-1].endswith("or: zoo train --resume --out m")
    for words in (["--resume"], ["--resume", "--out", "m"], ["--resume", "--checkpoints", "m.training"]):
        (told,) = (line for line in said_by(*words, "--json").out.splitlines() if '"start"' in line)
        start = json.loads(told)
        assert start["config"]["codec"]["num_codes"] == 4 and start["bundle"] == "m"
        assert start["done"] == (1 if words == ["--resume"] else 20)
    more = said_by("--resume", "--checkpoints", "m.training", "--name", "m", "--out", "m-2", "--json").out
    assert json.loads(more.splitlines()[0])["bundle"] == "m-2", "a training goes on next to its bundle"


@pytest.mark.parametrize("family", ["judge", "ddpm"])
def test_every_family_resumes_with_the_steps_that_were_planned(coloured, here, unexported, family):
    """Whatever types a family's config has, and although another number of steps would fit now."""
    command = [family, "--data", coloured, "--preset", "tiny", "--max-time", "20s", "--out", "m"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("zoo.build.train._signals", lambda: _Pressed())
        zoo("train", *command)
    steps = planned_steps(Path("m.training"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("zoo.build.forecast.PLANNED_SHARE", 1e-6)
        assert json.loads(said_by(*command, "--resume", "--json").out.splitlines()[0])["steps"] == steps


def planned_steps(folder: Path) -> int:
    """The steps of the training in a folder."""
    from zoo.build.checkpoint import load

    return load(folder).run["settings"]["steps"]


def test_resume_must_know_which_training(here):
    assert "this folder has no *.training; name the training with --out MODEL" in line(zoo("train", "--resume"), 2)
    assert line(zoo("train", "--resume", "--out", "m"), 3) == "no checkpoint at m.training"


@pytest.mark.parametrize(("text", "seconds"), [("90", 90), ("90s", 90), ("30m", 1800), ("1.5h", 5400)])
def test_times(text, seconds):
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["", "m", "-3s", "0", "3 days", "nan"])
def test_times_that_are_none(text):
    with pytest.raises(click.BadParameter, match="is not a time: give 90s, 30m or 1.5h"):
        seconds_of(text)


# --- The configuration comes from the data ----------------------------------------------------------------------------


@pytest.fixture
def coloured(here) -> Path:
    """Six pictures of 24x20 in colour, in the folders `cat` and `dog`."""
    rng = np.random.default_rng(0)
    for number in range(6):
        path = here / "pets" / ("cat", "dog")[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (20, 24, 3), dtype=np.uint8)).save(path)
    return here / "pets"


@pytest.mark.parametrize("family", ["ddpm", "dit"])
def test_size_channels_and_classes_are_the_data_s(coloured, begun, family):
    network = (run := begun(family, "--data", coloured, "--out", "m")).config["network"]
    assert (network["image_size"], network["image_width"], network["image_channels"]) == (20, 24, 3)
    assert network["num_classes"] == 2 and run.classes == ["cat", "dog"]
    assert run.settings["batch_size"] == 6 and run.settings["steps"] > 1_000, "`small`, but for the few pictures"


@pytest.mark.parametrize("family", ["vqvae", "vqgan", "klvae"])
def test_a_codec_has_the_data_s_channels(coloured, begun, family):
    assert begun(family, "--data", coloured, "--out", "m").config["codec"]["image_channels"] == 3
    assert begun(family, "--data", coloured, "--out", "m", "--channels", 1).config["codec"]["image_channels"] == 1


def test_a_judge_has_the_data_s_classes(coloured, begun):
    config = begun("judge", "--data", coloured, "--preset", "tiny", "--out", "m").config
    assert (config["image_channels"], config["num_classes"]) == (3, 2)


def test_what_set_gives_wins_over_the_data(coloured, begun):
    words = ["ddpm", "--data", coloured, "--out", "m", "--image-size", "30x20"]
    assert "give --image-size 32x20 to crop and scale them" in line(zoo("train", *words), 2)
    network = begun(*words, "--set", "network.widths=[16]", "--set", "network.attention_levels=[]",
                    "--set", "network.head_size=0").config["network"]  # fmt: skip
    assert (network["image_size"], network["image_width"]) == (20, 30), "with one level, multiples of 2 fit"


@pytest.mark.parametrize(
    "family, words, text",
    [
        ("ddpm", ["--preset", "fashion"],
         "the preset 'fashion' is for grey pictures of 28x28, and pets has colour pictures of 24x20:"
         " give --channels 1 --image-size 28x28 to change the pictures, or --preset small to keep them as they are"),
        ("vqvae", ["--preset", "mnist"],
         "the preset 'mnist' is for grey pictures, and pets has colour pictures of 24x20:"
         " give --channels 1 to change the pictures, or --preset small to keep them as they are"),
        ("ddpm", ["--preset", "fashion", "--channels", "1", "--image-size", "28"],
         "the preset 'fashion' is for 10 classes, and pets has 2 classes (cat, dog): give --preset small"),
        ("vqvae", ["--from", "vqvae-mnist:1"],
         "vqvae-mnist:1 is for grey pictures, and pets has colour pictures of 24x20: give --channels 1"),
        ("ddpm", ["--image-size", "21"],
         "the pictures are 21x21; the sides must be multiples of 4 for this ddpm: give --image-size 20x20"),
        ("dit", ["--image-size", "27x21"], "must be multiples of 4 for this dit: give --image-size 28x20"),
        ("vqvae", ["--image-size", "20by24"], "the image size '20by24' must look like 48x40 (width x height), or 32"),
        ("vqvae", ["--hold-out", "6"], "--hold-out is 6, but there are only 6 pictures"),
    ],
)  # fmt: skip
def test_data_that_does_not_fit_is_refused_with_what_to_type(coloured, family, words, text):
    assert text in line(zoo("train", family, "--data", coloured, "--out", "m", *words), 2)


def test_transparent_parts_are_not_dropped_in_silence(coloured, begun):
    Image.new("RGBA", (24, 20), (200, 0, 0, 100)).save(coloured / "cat" / "0.png")
    said = line(zoo("train", "vqvae", "--data", coloured, "--out", "m"), 2)
    assert said.endswith("pets has 1 picture with transparent parts: give --on-white to put them on white")
    assert begun("vqvae", "--data", coloured, "--out", "m", "--on-white").config["codec"]["image_channels"] == 3


def test_a_judge_needs_two_classes(here):
    (here / "pets").mkdir()
    Image.new("L", (20, 20)).save(here / "pets" / "0.png")
    said = line(zoo("train", "judge", "--data", "pets", "--out", "m"), 2)
    assert "needs labels of two classes or more, and the data has 0: give a folder with one subfolder per class" in said


def test_a_prior_draws_the_data_s_grid_and_classes(here, begun):
    rng = np.random.default_rng(0)
    np.savez(here / "d.npz", images=rng.integers(0, 256, (8, 20, 24), dtype=np.uint8), labels=np.arange(8) % 3)
    run = begun("vqvae", "--stage", "prior", "--from", "vqvae-mnist:1", "--data", "d.npz", "--out", "m",
                "--classes", "a,b,c")  # fmt: skip
    prior = run.config["prior"]
    assert (prior["rows"], prior["columns"], prior["num_classes"]) == (5, 6, 3) and run.classes == ["a", "b", "c"]
    assert run.config["codec"]["hidden_channels"] == 128, "the parent's codec"


def test_a_plugin_that_ignores_the_data_is_refused_other_shapes(coloured, begun, monkeypatch):
    """A family of an older contract, whose config never sees what the pictures are like."""
    from zoo_vqvae import plugin

    monkeypatch.setattr(plugin, "fitted_codec", lambda config, data: dict(config))
    said = line(zoo("train", "vqvae", "--data", coloured, "--preset", "mnist", "--out", "m"), 2)
    assert (
        "is for grey pictures, and pets has colour pictures of 24x20: give --channels 1 to change the pictures" in said
    )
    assert begun("vqvae", "--data", coloured, "--preset", "photo", "--out", "m").config["codec"]["image_channels"] == 3
