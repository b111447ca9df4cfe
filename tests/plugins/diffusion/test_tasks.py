"""The exported graphs compared with torch: every task, sampler, step count, batch, label and guidance."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from zoo_diffusion.config import UNetConfig, read_config
from zoo_diffusion.ports import PLAN_COLUMNS

import zoo
from zoo import plugins
from zoo.build.export import export_bundle
from zoo.build.random import normal
from zoo.formats.manifest import Training
from zoo.graph.check import check
from zoo.hookspecs import ConfigRequest, TaskModuleRequest, TasksRequest
from zoo.run.comparison import compare
from zoo.run.replay import replay

from .models import NETWORK, build, config_of, randomized

CLASSES = ("cat", "dog", "bird")


class Made:
    """A bundle with random weights, and the same tasks in torch."""

    def __init__(self, folder: Path, network: type[nn.Module] | None = None, **diffusion):
        """`network` takes the place of the U-Net."""
        self.loaded = plugins.load("ddpm")
        self.config = config_of(NETWORK | {"image_channels": 3, "num_classes": 3}, diffusion)
        self.module = (
            randomized(network(read_config("ddpm", self.config).network)) if network else build(self.config, CLASSES)
        )
        self.manifest = export_bundle(
            out=folder,
            name="random",
            version=1,
            family="ddpm",
            loaded=self.loaded,
            config=self.config,
            module=self.module,
            classes=CLASSES,
            summary="Random weights",
            license="Apache-2.0",
            training=Training(),
        )
        self.model = zoo.load(str(folder))
        self.modules: dict[str, nn.Module] = {}

    def torch(self, task: str, **ports: np.ndarray) -> dict[str, np.ndarray]:
        """The task as torch computes it; ports as the graph takes them, all of them."""
        if task not in self.modules:
            request = TaskModuleRequest(family="ddpm", config=self.config, task=task, module=self.module)
            self.modules[task] = self.loaded.call("build_task", request).eval()
        inputs = self.manifest.tasks[task].inputs
        with torch.no_grad():
            results = self.modules[task](*(torch.as_tensor(ports[name]) for name in inputs))
        results = results if isinstance(results, tuple) else (results,)
        return {name: r.numpy() for name, r in zip(self.manifest.tasks[task].outputs, results, strict=True)}

    def same(self, task: str, **ports: np.ndarray) -> None:
        """The graph gives torch's numbers, by the manifest's tolerance."""
        expected, actual = self.torch(task, **ports), self.model.run(task, **ports)
        for name, port in self.manifest.tasks[task].outputs.items():
            compared = compare(port, expected[name], actual[name], self.manifest.tolerances["float32/cpu"])
            assert compared.verdict != "differs", f"{task}: {name}: {compared.text}"


class OneLayer(nn.Module):
    """A network that takes what a U-Net takes, and is traced in a tenth of the time."""

    trace_once = True

    def __init__(self, c: UNetConfig):
        super().__init__()
        self.config = c
        self.conv = nn.Conv2d(c.image_channels, c.image_channels, 3, padding=1)
        self.label = nn.Embedding(c.num_classes + 1, c.image_channels)

    def forward(self, x: torch.Tensor, t: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        known = self.label(torch.where(label < 0, self.config.num_classes, label)) * (t / 1000)[:, None]
        return self.conv(x) + known[:, :, None, None]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return Made(tmp_path_factory.mktemp("diffusion") / "random")


def ports(batch: int, *, steps: int = 3, guidance: float = 1.5, seed: int = 7) -> dict[str, np.ndarray]:
    return {
        "seed": np.arange(seed, seed + batch),
        "steps": np.asarray(steps),
        "label": np.arange(batch) % 4 - 1,
        "guidance": np.full(batch, guidance, np.float32),
    }


pytestmark = pytest.mark.slow  # the export of all tasks takes a minute


def test_every_task_is_there_and_fit_to_be_shipped(made: Made):
    tasks = list(made.manifest.tasks)
    assert tasks[:4] == ["generate", "generate_begin", "generate_step", "generate_end"]
    assert tasks[4:] == ["inpaint", "upscale2", "upscale4", "denoise", "colorize", "variations"]
    assert check(made.model.folder, made.manifest) == []
    assert {r.verdict for r in replay(made.model.folder, made.manifest, "cpu")} <= {"identical", "within"}
    assert made.manifest.config["diffusion"]["sampler"] == "dpm++2m"
    assert "DPM-Solver++(2M)" in made.manifest.tasks["generate"].inputs["steps"].summary


@pytest.mark.parametrize("steps", [1, 2, 10, 50])
@pytest.mark.parametrize("batch", [1, 7])
def test_steps_and_batches(made: Made, steps: int, batch: int):
    made.same("generate", **ports(batch, steps=steps))


@pytest.mark.parametrize("guidance", [0.0, 1.0, 4.0])
def test_every_label_and_none_at_every_guidance(made: Made, guidance: float):
    made.same("generate", **ports(4, guidance=guidance))  # labels -1, 0, 1, 2


def test_guidance_0_takes_no_notice_of_the_label_and_labels_matter_else(made: Made):
    def drawn(label: int, guidance: float) -> np.ndarray:
        return made.model.generate(seed=[3], steps=5, label=label, guidance=guidance)["image"].astype(int)

    assert np.abs(drawn(0, 0.0) - drawn(2, 0.0)).max() <= 1
    assert np.abs(drawn(0, 0.0) - drawn(-1, 1.0)).max() <= 1  # unconditional, both ways
    assert np.abs(drawn(0, 1.0) - drawn(2, 1.0)).max() > 3


def test_a_picture_does_not_depend_on_its_batch(made: Made):
    whole = made.model.generate(**ports(7, steps=10))["image"]
    for i in range(7):
        alone = {name: value[i : i + 1] if value.ndim else value for name, value in ports(7, steps=10).items()}
        port = made.manifest.tasks["generate"].outputs["image"]
        one = made.model.generate(**alone)["image"]
        assert compare(port, whole[i : i + 1], one, made.manifest.tolerances["float32/cpu"]).verdict != "differs"
    assert len({picture.tobytes() for picture in whole}) == 7


def test_a_host_that_keeps_the_loop_gets_the_same_picture(made: Made):
    given = ports(3, steps=6)
    begun = made.model.run("generate_begin", seed=given["seed"], steps=given["steps"])
    assert begun["plan"].shape == (1000, PLAN_COLUMNS) and not begun["plan"][6:].any()
    assert np.array_equal(begun["x"], normal(torch.as_tensor(given["seed"]), (3, 8, 8)).numpy())
    x, previous_x0 = begun["x"], begun["previous_x0"]
    for row in begun["plan"][:6]:
        condition = {"label": given["label"], "guidance": given["guidance"]}
        stepped = made.model.run("generate_step", x=x, previous_x0=previous_x0, row=row, **condition)
        x, previous_x0 = stepped["next_x"], stepped["x0"]
    ended = made.model.run("generate_end", x=x)["image"]
    port = made.manifest.tasks["generate"].outputs["image"]
    whole = made.model.generate(**given)["image"]
    assert compare(port, whole, ended, made.manifest.tolerances["float32/cpu"]).verdict != "differs"


def test_the_drift_by_step_stays_rounding(made: Made):
    """The curve of a 50-step walk in floats, torch against the graph, both from their own x: it must not grow."""
    given = ports(2, steps=50)
    begun = made.model.run("generate_begin", seed=given["seed"], steps=given["steps"])
    condition = {"label": given["label"], "guidance": given["guidance"]}
    ours = theirs = (begun["x"], begun["previous_x0"])
    curve = []
    for row in begun["plan"][:50]:
        step = made.model.run("generate_step", x=ours[0], previous_x0=ours[1], row=row, **condition)
        ours = step["next_x"], step["x0"]
        step = made.torch("generate_step", x=theirs[0], previous_x0=theirs[1], row=row, **condition)
        theirs = step["next_x"], step["x0"]
        curve.append(float(np.abs(ours[0] - theirs[0]).max() / np.abs(theirs[0]).max()))
    assert max(curve) < 1e-4, curve
    assert [d.count for d in made.manifest.export.drift["generate"]] == [1, 2, 5, 10, 20, 50]


# --- Tasks that start from a picture ----------------------------------------------------------------------------------


def picture(batch: int = 2, height: int = 8, width: int = 8, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (batch, height, width, channels), dtype=np.uint8)


def test_what_is_not_masked_stays(made: Made):
    image, mask = picture(), np.zeros((2, 8, 8, 1), np.uint8)
    mask[:, 2:5, 3:6] = 255
    made.same("inpaint", image=image, mask=mask, **ports(2))
    result = made.model.inpaint(image=image, mask=mask, **ports(2))["inpainted"]
    kept = np.broadcast_to(mask < 128, image.shape)
    assert np.abs(result.astype(int) - image)[kept].max() <= 1
    assert np.abs(result.astype(int) - image)[~kept].max() > 10


@pytest.mark.parametrize("factor", [2, 4])
def test_an_upscaled_picture_shrinks_to_the_given_one(made: Made, factor: int):
    small = picture(height=8 // factor, width=8 // factor) // 2 + 64  # away from black and white, where pixels clamp
    made.same(f"upscale{factor}", image=small, **ports(2))
    result = made.model.run(f"upscale{factor}", image=small, **ports(2))["upscaled"].astype(float)
    shrunk = result.reshape(2, 8 // factor, factor, 8 // factor, factor, 3).mean(axis=(2, 4))
    clamped = (result == 0) | (result == 255)
    free = ~clamped.reshape(2, 8 // factor, factor, 8 // factor, factor, 3).any(axis=(2, 4))
    assert free.any() and np.abs(shrunk - small)[free].max() <= 1


def test_a_coloured_picture_has_the_given_greys(made: Made):
    grey = picture(channels=1) // 2 + 64
    made.same("colorize", image=grey, **ports(2))
    result = made.model.colorize(image=grey, **ports(2))["colorized"].astype(float)
    free = ((result > 0) & (result < 255)).all(axis=-1)
    assert free.any() and np.abs(result.mean(axis=-1) - grey[..., 0])[free].max() <= 1


@pytest.mark.parametrize("sigma", [0.0, 25.0, 255.0])
def test_denoising(made: Made, sigma: float):
    image = picture()
    given = {"image": image, "sigma": np.full(2, sigma, np.float32)} | ports(2, steps=10)
    made.same("denoise", **given)
    result = made.model.denoise(**given)["denoised"]
    if sigma == 0:  # no noise: nothing to take out
        assert np.abs(result.astype(int) - image).max() <= 1
    else:
        assert np.abs(result.astype(int) - image).max() > 10


@pytest.mark.parametrize("strength", [0.0, 0.4, 1.0])
def test_variations(made: Made, strength: float):
    image = picture()
    given = {"image": image, "strength": np.array([strength, 0.7], np.float32)} | ports(2, steps=5)
    made.same("variations", **given)
    result = made.model.variations(**given)["variation"].astype(int)
    assert (np.abs(result[0] - image[0]).max() <= 1) == (strength == 0)


# --- Other samplers ---------------------------------------------------------------------------------------------------


def test_a_sampler_that_adds_noise_has_a_seed_in_its_step(tmp_path: Path):
    """DDIM and DDPM, whose exports test_layouts_bundles.py compares with diffusers, and what lies between."""

    def tasks(**sampler) -> dict:
        config = config_of(NETWORK | {"image_channels": 3, "num_classes": 3}, {"tasks": ("generate",)} | sampler)
        return plugins.load("ddpm").call("list_tasks", TasksRequest(family="ddpm", config=config)).tasks

    for sampler, noisy in (({"sampler": "ddim"}, False), ({"sampler": "ddpm"}, True)):
        assert ("seed" in tasks(**sampler)["generate_step"].inputs) == noisy
        assert list(tasks(**sampler)) == ["generate", "generate_begin", "generate_step", "generate_end"]
    made = Made(tmp_path / "other", OneLayer, tasks=("generate",), sampler="ddim", eta=0.7)
    assert list(made.manifest.tasks) == ["generate", "generate_begin", "generate_step", "generate_end"]
    assert "seed" in made.manifest.tasks["generate_step"].inputs
    made.same("generate", **ports(3, steps=10))


def test_tasks_and_ports_follow_the_config():
    def tasks(network: dict, **diffusion) -> dict:
        config = plugins.load("ddpm").call(
            "validate_config",
            ConfigRequest(family="ddpm", config={"network": NETWORK | network, "diffusion": diffusion}),
        )
        return plugins.load("ddpm").call("list_tasks", TasksRequest(family="ddpm", config=config)).tasks

    grey = tasks({"image_channels": 1})
    assert "colorize" not in grey and "label" not in grey["generate"].inputs
    always = tasks({"image_channels": 3, "num_classes": 3, "null_label": False})["generate"].inputs
    assert "guidance" not in always and always["label"].minimum == 0 and always["label"].default is None
    latents = tasks({"image_channels": 4})
    assert list(latents) == ["generate", "generate_begin", "generate_step"]
    assert latents["generate"].outputs["latents"].shape == ("batch", 4, 8, 8)


SAMPLED = {
    "euler": {"sampler": "euler", "spacing": "linspace"},
    "ancestral, Karras": {"sampler": "euler_ancestral", "karras": True, "spacing": "leading", "steps_offset": 1},
    "SDE, Karras": {"sampler": "dpm++2m_sde", "karras": True},
    "lcm": {"sampler": "lcm"},
    "heun": {"sampler": "heun"},
    "plms": {"sampler": "plms", "spacing": "leading"},
    "unipc": {"sampler": "unipc"},
    "flow": {"sampler": "euler", "prediction": "flow", "shift": 3.0, "spacing": "linspace"},
    "guidance": {"guidance_rescale": 0.7, "guidance_from": 0.2, "guidance_to": 5.0},
}


@pytest.mark.parametrize("case", SAMPLED)
def test_every_sampler_is_exported(tmp_path: Path, case: str):
    made = Made(tmp_path / "random", OneLayer, tasks=("generate",), **SAMPLED[case])
    assert check(made.model.folder, made.manifest) == []
    for steps in (1, 7):
        made.same("generate", **ports(2, steps=steps, guidance=3.0))
