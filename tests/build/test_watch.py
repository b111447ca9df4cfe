"""Looks at a training: when, sheets and held-out figures that change nothing, the loss curve; the forecast."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from zoo_diffusion import plugin as diffusion
from zoo_judge import plugin as judge
from zoo_vqvae import plugin as vqvae

from tests.trainers import Loaded, drawings, run_of
from zoo.build.forecast import Forecast, forecast, planned
from zoo.build.log import LOG
from zoo.build.train import Progress, train
from zoo.build.watch import draw_curve, is_due
from zoo.errors import UsageError

DATA, HELD_OUT = drawings(40), drawings(12, seed=1)
PLUGINS = {"vqvae": vqvae, "judge": judge, "ddpm": diffusion}


def run(family, **settings):
    over = {"ddpm": {"network": {"image_size": 16, "num_classes": 2}}}.get(family)
    return run_of(PLUGINS[family], family, over, **{"steps": 3} | settings)


def trained(folder, family, a_run=None, **options):
    return train(Loaded(PLUGINS[family]), a_run or run(family), DATA, folder, **options)


def test_looks_come_at_growing_intervals():
    assert [step for step in range(1, 1001) if is_due(step, 1000)] == [25, 50, 100, 200, 400, 800, 1000]


@pytest.mark.parametrize(
    ("family", "size", "names"),
    [("vqvae", (142, 70), {"reconstruction", "psnr"}), ("ddpm", (142, 34), {"loss"}), ("judge", None, {"accuracy"})],
)
def test_a_look_shows_pictures_and_held_out_figures_and_changes_nothing(tmp_path, family, size, names):
    seen: list[Progress] = []
    watched = trained(tmp_path / "a", family, watched=True, held_out=HELD_OUT, on_step=seen.append)
    plain = trained(tmp_path / "b", family)
    for name, tensor in plain.module.state_dict().items():
        assert torch.equal(watched.module.state_dict()[name], tensor), name
    assert [progress.step for progress in seen if progress.look] == [3]
    look = seen[-1].look
    assert names <= set(look.held_out) and all(np.isfinite(value) for value in look.held_out.values())
    if size is None:
        assert look.sheet is None
    else:
        assert look.sheet == tmp_path / "a" / "sheet-000003.png"
        with Image.open(look.sheet) as sheet:
            assert sheet.size == size  # rows of eight, of 16x16 with gaps of two
    last = json.loads((tmp_path / "a" / LOG).read_text().splitlines()[-1])
    assert {f"held_out_{name}" for name in names} <= set(last)


def test_the_curve_is_of_the_minimised_loss(tmp_path):
    assert draw_curve(tmp_path) is None
    lines = [{"step": step, "loss": 1 / step, "other": 9.0} for step in range(10, 200, 10)]
    lines[-1]["held_out_loss"] = 0.01
    (tmp_path / LOG).write_text("".join(json.dumps(line) + "\n" for line in lines))
    with Image.open(draw_curve(tmp_path)) as curve:
        pixels = np.asarray(curve.convert("RGB"))
    for colour in ((0x1F, 0x77, 0xB4), (0xD6, 0x27, 0x28)):
        assert (pixels == colour).all(-1).sum() > 20


def test_pictures_reach_tensorboard(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    trained(tmp_path / "run", "vqvae", watched=True, tensorboard=tmp_path / "events")
    events = EventAccumulator(str(tmp_path / "events")).Reload()
    assert [image.step for image in events.Images("sheet")] == [3]


def test_the_time_ends_a_training_with_what_it_reached(tmp_path):
    ended = trained(tmp_path, "vqvae", run("vqvae", steps=20), max_seconds=1e-9)
    assert ended.record.steps == 1 and ended.record.images_seen == 8
    assert ended.module is not None and (tmp_path / "checkpoint.safetensors").exists()
    assert trained(tmp_path, "vqvae", run("vqvae", steps=20), resume=True).record.steps == 20


def test_augmentation_changes_what_is_learned_and_repeats(tmp_path):
    a_run = replace(run("vqvae"), augment={"mirror": True, "shift": 2, "crop": 1.0})
    modules = [trained(tmp_path / name, "vqvae", a_run).module for name in "ab"]
    plain = trained(tmp_path / "c", "vqvae").module
    weights = [torch.cat([p.flatten() for p in module.parameters()]) for module in (*modules, plain)]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


@pytest.mark.parametrize("family", ["judge", "ddpm"])
def test_a_batch_in_parts_has_the_same_gradient(tmp_path, family):
    """Without chance in the loss, parts only differ by rounding; a denoiser's noise is drawn for each part."""
    settings = {"shift": 0, "steps": 1} if family == "judge" else {"steps": 1}
    whole = trained(tmp_path / "a", family, run(family, **settings)).module
    parts = trained(tmp_path / "b", family, run(family, accumulate=4, **settings)).module
    differences = [float((p - q).abs().max()) for p, q in zip(whole.parameters(), parts.parameters(), strict=True)]
    if family == "judge":  # Adam's first step is the gradient's sign times the rate: rounding matters only near 0
        flat = [torch.cat([p.flatten() for p in module.parameters()]) for module in (whole, parts)]
        assert float((flat[0] == flat[1]).float().mean()) > 0.9
    assert max(differences) < 1e-1


def test_a_trainer_that_cannot_accumulate_is_refused(tmp_path, monkeypatch):
    from zoo_judge.training import JudgeTrainer

    monkeypatch.setattr(JudgeTrainer, "accumulates", False)
    with pytest.raises(UsageError, match="the family judge cannot compute a batch in parts: leave out --accumulate"):
        trained(tmp_path, "judge", run("judge", accumulate=2))


def test_the_forecast_counts_operations_memory_and_time(monkeypatch):
    one = forecast(Loaded(judge), run("judge", batch_size=8), DATA)
    two = forecast(Loaded(judge), run("judge", batch_size=16), DATA)
    assert one.parameters == sum(p.numel() for p in judge.build_module(_build(run("judge"))).parameters())
    assert two.flops == 2 * one.flops > 0
    weights = 5 * 4 * one.parameters
    assert two.memory_bytes - weights == pytest.approx(2 * (one.memory_bytes - weights), rel=1e-3)
    assert one.step_seconds > 0 and one.device.startswith("CPU")
    monkeypatch.setattr("zoo.build.forecast.free_memory", lambda device: one.memory_bytes - weights // 2)
    with pytest.raises(UsageError, match="needs about .* and .* are free: give --accumulate N.* --batch-size than 16"):
        forecast(Loaded(judge), run("judge", batch_size=16), DATA)
    monkeypatch.undo()
    parts = forecast(Loaded(judge), run("judge", batch_size=16, accumulate=2), DATA)
    assert (parts.flops, parts.memory_bytes) == (two.flops, one.memory_bytes), "the memory of half a batch"


@pytest.mark.parametrize(
    ("seconds", "given", "fixed", "planned_for"),
    [
        (1e6, (), 0, {"steps": 5_000, "batch_size": 64}),  # all of them fit, and nothing else changes
        (4_000, (), 0, {"steps": 3_400, "batch_size": 64, "warmup_steps": 136, "discriminator_start": 1_700}),
        # 850 of 64 or 1,700 of 32 are few
        (1_000, (), 0, {"steps": 3_400, "batch_size": 16, "warmup_steps": 136, "discriminator_start": 1_700}),
        # No batch is smaller than this.
        (100, (), 0, {"steps": 340, "batch_size": 16, "warmup_steps": 13, "discriminator_start": 170}),
        (100, (), 10, {"steps": 7, "batch_size": 64, "warmup_steps": 0, "discriminator_start": 3}),  # gives no more
        (100, {"batch_size", "warmup_steps"}, 0, {"steps": 85, "batch_size": 64, "discriminator_start": 42}),
        (0.1, {"batch_size"}, 0, {"steps": 1, "batch_size": 64, "warmup_steps": 0, "discriminator_start": 0}),
    ],
)
def test_as_many_steps_are_planned_as_fit(monkeypatch, seconds, given, fixed, planned_for):
    """Of a trainer whose step takes a second for 64 pictures, and some seconds for any number."""

    def measured(loaded, run, data):
        counts = {"warmup_steps": 200, "discriminator_start": 2_500}
        return Forecast(1, 1, 1, None, run.settings["batch_size"] / 64 + fixed, "CPU", counts)

    monkeypatch.setattr("zoo.build.forecast.forecast", measured)
    asked = run("judge", steps=5_000, batch_size=64)
    plan = planned(Loaded(judge), asked, DATA, measured(None, asked, None), seconds, given)
    assert plan.settings == asked.settings | planned_for


def test_a_forecast_knows_what_counts_steps():
    assert forecast(Loaded(judge), run("judge", warmup_steps=7), DATA).counts == {"warmup_steps": 7}


def _build(a_run):
    from zoo.hookspecs import BuildRequest

    return BuildRequest(family=a_run.family, config=a_run.config, classes=tuple(a_run.classes))
