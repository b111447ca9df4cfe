"""The stage `distil`: the sampler of a student, the teacher's paths in their folder, and what is learnt from them."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from zoo_diffusion import plugin
from zoo_diffusion.config import DiffusionConfig, UNetConfig
from zoo_diffusion.distil import BLOCK, HUBER, DistilTrainer, draw, labels_of, pseudo_huber
from zoo_diffusion.sampling import Generate, Sampler

from tests.trainers import batch_of, drawings, generator
from zoo.errors import InvalidFileError, UsageError
from zoo.hookspecs import BuildRequest, ConfigRequest, TasksRequest, TrainRequest

NETWORK = {"image_size": 16, "image_channels": 1, "num_classes": 2}
FEW = DiffusionConfig(schedule="cosine", prediction="x0", sampler="consistency", num_timesteps=100, clip=False)


class Halved(nn.Module):
    """A network whose x_0 is half of what it gets."""

    config = UNetConfig(image_size=4, image_channels=1)

    def forward(self, x, t, label):
        return x / 2


def test_a_student_puts_fresh_noise_on_what_it_takes_for_the_end():
    """Song et al. 2023, algorithm 1, by hand: x <- alpha f(x) + sigma z at the second place, then f once more."""
    sampler = Sampler(Halved(), FEW)
    seed = torch.tensor([3, 4])
    x, z = sampler.noise(seed, 0), sampler.noise(seed, 1)
    second = sampler.point(torch.tensor([60]))  # 0.6 of 100 timesteps, counted from 1
    between = second.alpha.float() * (x / 2) + second.sigma.float() * z
    plan = sampler.plan(torch.tensor(2))
    assert plan.shape == (4, 10) and plan[:, 0].tolist() == [99, 59, 0, 0]
    step = lambda i, row, x, previous_x0: sampler.step(i, row, x, previous_x0, seed, None, None)  # noqa: E731
    assert torch.allclose(sampler.loop(x, torch.tensor(1), step), x / 2, atol=1e-6)
    assert torch.allclose(sampler.loop(x, torch.tensor(2), step), between / 2, atol=1e-5)
    one, two = (Generate(Halved(), FEW)(seed, torch.tensor(steps)) for steps in (1, 2))
    assert one.dtype == torch.uint8 and not torch.equal(one, two)


@pytest.mark.parametrize(
    "places, line",
    [
        ([[1.0], [0.6]], "diffusion.places[1] is [0.6]; it must have 2 numbers that fall"),
        ([[1.0], [0.6, 1.0]], "diffusion.places[1] is [0.6, 1.0]; it must have 2 numbers that fall"),
        ([[1.5]], "diffusion.places.0.0 is 1.5; it must be a number above 0 to 1"),
    ],
)
def test_places_that_cannot_be_are_refused(places, line):
    with pytest.raises(UsageError, match="ddpm config: ") as e:
        plugin.validate_config(ConfigRequest(family="ddpm", config={"diffusion": {"places": places}}))
    assert line in str(e.value)


def config_of(**diffusion) -> dict:
    tiny = plugin.DDPM_PRESETS["tiny"].config
    config = {"network": tiny["network"] | NETWORK, "diffusion": tiny["diffusion"] | diffusion}
    return dict(plugin.validate_config(ConfigRequest(family="ddpm", config=config, stage="distil")))


def test_the_ports_of_a_student():
    """No guidance, which is that of its teacher, and as many steps as it has places."""
    few = config_of(sampler="consistency", default_steps=2)
    tasks = plugin.list_tasks(TasksRequest(family="ddpm", config=few)).tasks
    assert [*tasks["generate"].inputs] == ["seed", "steps", "label"] and tasks["generate"].inputs["steps"].maximum == 4
    assert "seed" in tasks["generate_step"].inputs and tasks["generate_begin"].outputs["plan"].shape == (4, 10)


class Teacher:
    """A teacher without a network: in each of its steps, a picture halves and gets its label added."""

    digest, reference = "0" * 64, "teacher:1"
    manifest = SimpleNamespace(
        tasks={
            "generate_begin": SimpleNamespace(inputs={}),
            "generate_step": SimpleNamespace(
                inputs=dict.fromkeys(["x", "previous_x0", "row", "label", "guidance"], SimpleNamespace(default=1.5))
            ),
        }
    )

    def __init__(self):
        self.calls, self.guidance = 0, set()

    def run(self, task, **ports):
        self.calls += 1
        if task == "generate_begin":
            x = np.stack([np.random.default_rng(seed).normal(size=(1, 16, 16)) for seed in ports["seed"]])
            plan = np.zeros((100, 10), np.float32)
            plan[: ports["steps"]] = np.arange(ports["steps"])[:, None] + 1
            return {"x": x.astype(np.float32), "previous_x0": np.zeros_like(x, np.float32), "plan": plan}
        assert (ports["row"] == ports["row"][0]).all() and ports["row"][0] in (1, 2, 3)
        self.guidance |= set(ports["guidance"].tolist())
        x = ports["x"] / 2 + ports["label"][:, None, None, None].astype(np.float32)
        return {"next_x": x, "x0": x}


def all_of(iterator, length):
    items = list(iterator)
    assert len(items) == length
    return iter(items)


def test_paths_are_drawn_once_and_found_again(tmp_path):
    teacher = Teacher()
    drawn = draw(teacher, tmp_path / "paths", BLOCK + 1, 3, 1.5, 7, 2, all_of)
    assert teacher.guidance == {1.5} and len(list((tmp_path / "paths").iterdir())) == 2
    at = drawn.take(torch.tensor([0, 5, BLOCK]), torch.tensor([0, 2, 1]))
    assert at.label.tolist() == [0, 1, 0] and at.row.t.tolist() == [1, 3, 2]
    start = np.random.default_rng(7 + 5).normal(size=(1, 16, 16))
    third, end = (start / 2 + 1) / 2 + 1, ((start / 2 + 1) / 2 + 1) / 2 + 1
    assert np.allclose(at.x[1], third, atol=2e-3) and np.allclose(at.end[1], end, atol=2e-3)

    calls = teacher.calls
    again = draw(teacher, tmp_path / "paths", BLOCK + 1, 3, 1.5, 7, 2, all_of)
    assert teacher.calls == calls + 1, "only the plan was asked for"
    assert torch.equal(again.take(torch.tensor([5]), torch.tensor([2])).x, at.x[1:2])


def test_a_drawing_that_was_ended_goes_on(tmp_path):
    def ends(iterator, length):
        for number, item in enumerate(iterator):
            if number == 5:
                raise KeyboardInterrupt
            yield item

    with pytest.raises(KeyboardInterrupt):
        draw(Teacher(), tmp_path, 2 * BLOCK, 3, 1.0, 0, 2, ends)
    assert [path.name for path in tmp_path.iterdir()] == ["000000.npy"], "whole files only"
    missing = []
    draw(Teacher(), tmp_path, 2 * BLOCK, 3, 1.0, 0, 2, lambda it, length: missing.append(length) or it)
    assert missing == [4]


@pytest.mark.parametrize("left", [0, 50, 1000])
def test_a_damaged_file_of_paths_is_named(tmp_path, left):
    draw(Teacher(), tmp_path, 1, 3, 1.0, 0, 2, all_of)
    file = tmp_path / "000000.npy"
    file.write_bytes(file.read_bytes()[:left])
    with pytest.raises(InvalidFileError, match=r"000000\.npy is damaged; delete it, and its paths are drawn again"):
        draw(Teacher(), tmp_path, 1, 3, 1.0, 0, 2, all_of)


def test_without_classes_nothing_is_asked_for():
    assert labels_of(np.arange(4), 0).tolist() == [-1] * 4 and labels_of(np.arange(4), 3).tolist() == [0, 1, 2, 0]


def test_the_loss_by_hand():
    a, b = torch.zeros(2, 1, 2, 2), torch.zeros(2, 1, 2, 2)
    a[1] = 3.0
    c = HUBER * 2
    assert pseudo_huber(a, b).item() == pytest.approx(((36 + c * c) ** 0.5 - c) / 2, rel=1e-6)


def student(parent: str = "teacher:1@sha256:0", teacher=None, **settings) -> DistilTrainer:
    config = config_of(**({"sampler": "consistency", "default_steps": 2} | settings.pop("diffusion", {})))
    torch.manual_seed(0)
    module = plugin.build_module(BuildRequest(family="ddpm", config=config))
    chosen = dict(plugin.DDPM_PRESETS["tiny-distil"].training) | {"seed": 0, "warmup_steps": 0} | settings
    return plugin.build_trainer(
        TrainRequest(
            family="ddpm",
            config=config,
            settings=chosen,
            module=module.train(),
            device=torch.device("cpu"),
            distribute=lambda module: module,
            stage="distil",
            parent=parent,
            open_parent=lambda: teacher or Teacher(),
        )
    )


@pytest.mark.slow
def test_a_student_learns_the_ends_of_the_paths(tmp_path):
    trainer = student(steps=60, learning_rate=5e-3, paths=32)
    batch = batch_of(drawings(16))
    assert trainer.losses(batch, generator())["loss"].isfinite(), "a step can be timed before the paths are there"
    trainer.prepare(tmp_path, lambda iterator, length: iterator)
    before = trainer.validate(batch, generator())["loss"]
    losses = [float(trainer.step(batch, step, generator(step))["loss"]) for step in range(60)]
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])
    assert trainer.validate(batch, generator())["loss"] < before
    assert trainer.note == "32 paths of 3 steps that teacher:1 drew"


@pytest.mark.parametrize(
    "change, line",
    [
        ({"parent": ""}, "a student needs a teacher: give --from MODEL"),
        ({"diffusion": {"sampler": "ddim"}}, "diffusion.sampler is ddim; a student draws with consistency"),
        ({"noise_share": 2}, "ddpm distillation: noise_share is 2; it must be a number from 0 to 1"),
    ],
)
def test_what_cannot_be_distilled_is_refused(change, line):
    with pytest.raises(UsageError) as e:
        student(**change)
    assert line in str(e.value)


@pytest.mark.parametrize("own", [["x"], ["x", "previous_x0", "row", "context"]])
def test_a_teacher_must_have_steps_that_need_no_more(tmp_path, own):
    teacher = Teacher()
    teacher.manifest = SimpleNamespace(
        tasks=teacher.manifest.tasks | {"generate_step": SimpleNamespace(inputs=dict.fromkeys(own))}
    )
    with pytest.raises(UsageError, match=r"teacher:1 cannot teach: (it has no tasks|its steps need context)"):
        student(teacher=teacher).prepare(tmp_path, lambda iterator, length: iterator)


def test_stages_and_samplers_that_do_not_fit():
    with pytest.raises(UsageError, match="there is no stage 'prior'; ddpm has distil"):
        plugin.validate_config(ConfigRequest(family="ddpm", config={}, stage="prior"))
    with pytest.raises(UsageError, match="variance is learned; with the sampler consistency it must be small"):
        config_of(sampler="consistency", variance="learned")
