"""Training of a denoiser: the loss by hand, labels left out, averages, a resumed run that is the same run, learning."""

import io

import pytest
import torch
from torch import Tensor, nn
from zoo_diffusion import plugin, sampling
from zoo_diffusion.config import DiffusionConfig
from zoo_diffusion.pixels import to_float
from zoo_diffusion.training import denoising_loss, drawn

from tests.trainers import Loaded, batch_of, drawings, generator
from zoo.errors import UsageError
from zoo.hookspecs import Batch, BuildRequest, ConfigRequest, TrainRequest

from . import recorded

NETWORK = {"image_size": 16, "image_channels": 1, "num_classes": 2}


def trainer(family: str = "ddpm", network: dict | None = None, diffusion: dict | None = None, **settings):
    presets = plugin.DIT_PRESETS if family == "dit" else plugin.DDPM_PRESETS
    tiny = presets["tiny"]
    patch = {"patch_size": 4} if family == "dit" else {}
    config = dict(tiny.config) | {
        "network": tiny.config["network"] | NETWORK | patch | (network or {}),
        "diffusion": tiny.config["diffusion"] | (diffusion or {}),
    }
    config = dict(Loaded(plugin).call("validate_config", ConfigRequest(family=family, config=config)))
    torch.manual_seed(0)
    module = plugin.build_module(BuildRequest(family=family, config=config))
    return plugin.build_trainer(
        TrainRequest(
            family=family,
            config=config,
            settings={"seed": 0} | dict(tiny.training) | settings,
            module=module.train(),
            device=torch.device("cpu"),
            distribute=lambda module: module,
        )
    )


class Recording(nn.Module):
    """A network that says `answer`, and keeps what it was asked."""

    def __init__(self, answer: Tensor | float = 0.0):
        super().__init__()
        self.answer, self.asked = answer, []

    def forward(self, x: Tensor, t: Tensor, label: Tensor) -> Tensor:
        self.asked.append((x, t, label))
        return self.answer + torch.zeros_like(x)


@pytest.mark.parametrize("prediction", ["epsilon", "x0", "v"])
def test_the_loss_is_the_equation(prediction):
    """Ho et al. 2020, equation 14, on two pictures of one pixel, by hand; likewise for the other targets."""
    c = DiffusionConfig(prediction=prediction, num_timesteps=10, timestep_scale=0.5)
    abar = sampling.alphas_bar(sampling.betas(c)).float()
    x0, eps, t = torch.tensor([0.5, -1.0]), torch.tensor([2.0, 0.25]), torch.tensor([3, 9])
    network, shape = Recording(0.1), (2, 1, 1, 1)
    loss = denoising_loss(network, c, abar, x0.view(shape), t, eps.view(shape), torch.tensor([1, -1]))
    terms = []
    for i in (0, 1):
        a = float(torch.prod(1 - sampling.betas(c)[: int(t[i]) + 1]))
        x, noise = float(x0[i]), float(eps[i])
        assert float(network.asked[0][0][i]) == pytest.approx(a**0.5 * x + (1 - a) ** 0.5 * noise, rel=1e-5)
        wanted = {"epsilon": noise, "x0": x, "v": a**0.5 * noise - (1 - a) ** 0.5 * x}[prediction]
        terms.append((wanted - 0.1) ** 2)
    assert float(loss) == pytest.approx(sum(terms) / 2, rel=1e-5)
    assert network.asked[0][1].tolist() == [1.5, 4.5] and network.asked[0][2].tolist() == [1, -1]


@pytest.mark.shared
@pytest.mark.parametrize("case", ["linear_fixed_full", "cosine_fixed_full", "predict_xstart_ddim10"])
def test_the_loss_is_openais(shared_data, case):
    folder = shared_data / "parity/openai/gaussian_diffusion_toy"
    case_io, told = recorded.io(folder), recorded.config(folder)["cases"][case]
    # The loss is taken at places of the kept timesteps; the network is fed those of the whole process.
    kept = case_io[f"{case}/timestep_map"].long()
    beta = case_io[f"{case}/betas"]
    c = DiffusionConfig(prediction="x0" if told.get("predict_xstart") else "epsilon", num_timesteps=len(beta))

    class Toy(nn.Module):
        def forward(self, x: Tensor, t: Tensor, label: Tensor) -> Tensor:
            return recorded.openai_toy(x, kept[t.long()].float())[0]

    abar = sampling.alphas_bar(beta).float()
    for i in range(2):
        one = slice(i, i + 1)
        t, eps = case_io[f"{case}/train_t"][one], case_io[f"{case}/train_noise"][one]
        loss = denoising_loss(Toy(), c, abar, case_io["x_0"][one], t, eps, torch.tensor([-1]))
        torch.testing.assert_close(loss, case_io[f"{case}/train_mse"][i].float(), rtol=1e-5, atol=1e-6)


def asked_in(training, batch, steps: int = 1) -> Recording:
    """What a U-Net is asked in some steps, without running it."""

    class Asked(Recording):
        def forward(self, x: Tensor, t: Tensor, label: Tensor) -> Tensor:
            self.asked.append((x, t, label))
            return 0 * training.module.time_in.weight.sum() + torch.zeros_like(x)

    training.network = Asked()
    for step in range(steps):
        training.step(batch, step, generator(step))
    return training.network


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_the_share_of_pictures_without_their_label(share):
    asked = asked_in(trainer(label_dropout=share), batch_of(drawings(256)), 4).asked
    labels = torch.cat([label for _, _, label in asked])
    assert float((labels < 0).float().mean()) == pytest.approx(share, abs=0.06)  # 1,024 pictures: 4 deviations
    kept = labels >= 0
    assert torch.equal(labels[kept], torch.from_numpy(drawings(256).labels).repeat(4)[kept])


def test_without_a_null_label_no_label_is_left_out():
    asked = asked_in(trainer(network={"null_label": False}, label_dropout=0.5), batch_of(drawings(64))).asked
    assert asked[0][2].min() >= 0


def test_every_batch_sees_all_noise_levels_equally():
    asked = asked_in(trainer(), batch_of(drawings(10)), 3).asked
    for _, t, _ in asked:
        assert torch.equal((t / 100).long(), torch.arange(10))


def test_mirrored_pictures():
    """Half of them, left to right, and nothing else: at timestep 0 of many, x is almost the picture."""
    images = torch.full((16, 16, 16, 1), 0, dtype=torch.uint8)
    images[:, :, :8] = 255
    data = Batch(images=images, labels=torch.zeros(16, dtype=torch.int64))
    x = asked_in(trainer(mirror=True, diffusion={"num_timesteps": 4000}), data, 40).asked
    near = torch.cat([pictures[t < 400] for pictures, t, _ in x])
    picture = to_float(data.images[:1])
    plain = (near - picture).abs().mean((1, 2, 3)) < (near - picture.flip(3)).abs().mean((1, 2, 3))
    assert len(near) > 30 and 0.2 < float(plain.float().mean()) < 0.8


@pytest.mark.parametrize("family", ["ddpm", "dit"])
def test_a_few_steps_lower_the_loss(family):
    data = batch_of(drawings(32))
    training = trainer(family, steps=40, warmup_steps=5, learning_rate=3e-3)
    losses = [float(training.step(data, step, generator(step))["loss"]) for step in range(40)]
    assert sum(losses[-5:]) < 0.85 * sum(losses[:5])


@pytest.mark.parametrize("family", ["ddpm", "dit"])
def test_a_resumed_run_is_the_same_run_to_the_bit(family):
    data = batch_of(drawings(16))
    whole = trainer(family)
    for step in range(6):
        if step == 3:
            saved = through_a_file(whole.state_dict())
        whole.step(data, step, generator(step))
    resumed = trainer(family)
    resumed.step(data, 0, generator(99))  # what it has done by itself is forgotten
    resumed.load_state_dict(saved)
    for step in range(3, 6):
        resumed.step(data, step, generator(step))
    for name in ("module", "average"):
        theirs = whole.state_dict()[name]
        assert all(torch.equal(tensor, theirs[key]) for key, tensor in resumed.state_dict()[name].items())


def through_a_file(state: dict) -> dict:
    file = io.BytesIO()
    torch.save(state, file)
    return torch.load(io.BytesIO(file.getvalue()), weights_only=True)


def test_what_is_published_is_the_moving_average():
    training, data = trainer(average_decay=0.5, warmup_steps=0), batch_of(drawings(16))
    expected = training.module.time_in.weight.detach().clone()
    for step in range(4):
        training.step(data, step, generator(step))
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * training.module.time_in.weight.detach()
    published = training.trained_module()
    torch.testing.assert_close(published.time_in.weight, expected)
    assert not torch.equal(published.time_in.weight, training.module.time_in.weight)
    assert not published.training


# --- One line ---------------------------------------------------------------------------------------------------------


def test_a_label_beyond_the_classes():
    batch = batch_of(drawings(8))
    batch.labels[3] = 2
    with pytest.raises(UsageError, match="a label is 2, but num_classes is 2: give --set network.num_classes=…"):
        trainer().step(batch, 0, generator())


def test_pictures_without_labels_for_a_network_that_needs_them():
    batch = batch_of(drawings(8))
    batch.labels[:] = -1
    with pytest.raises(UsageError, match="some pictures have no label, but the network has no null label"):
        trainer(network={"null_label": False}).step(batch, 0, generator())
    trainer().step(batch, 0, generator())
    trainer(network={"num_classes": 0}).step(batch, 0, generator())


def test_a_learned_variance_is_not_trained():
    with pytest.raises(UsageError, match="a learned variance can be imported, not trained"):
        trainer(diffusion={"variance": "learned"})


def test_a_setting_that_does_not_exist():
    with pytest.raises(UsageError, match="there is no 'label_dropuot'; did you mean 'label_dropout'"):
        trainer(label_dropuot=0.1)


def test_a_rectified_flow_learns_the_way_from_image_to_noise():
    """Liu et al. 2022, equation 1: at x_t = (1 - t) x_0 + t eps the target is eps - x_0; the network sees T t."""
    x0, eps = torch.randn(2, 2, 3, 4, 4)
    t, seen = torch.tensor([0.25, 1.0]), []

    def network(x, time, label):
        seen.append((x, time))
        return eps - x0 + 2.0

    c = DiffusionConfig(prediction="flow", clip=False)
    loss = denoising_loss(network, c, torch.empty(0), x0, t, eps, torch.tensor([-1, -1]))
    assert float(loss) == pytest.approx(4.0, rel=1e-5)
    torch.testing.assert_close(seen[0][0][0], 0.75 * x0[0] + 0.25 * eps[0])
    torch.testing.assert_close(seen[0][0][1], eps[1])
    assert seen[0][1].tolist() == [250.0, 1000.0]


@pytest.mark.parametrize("times", ["uniform", "logit_normal"])
@pytest.mark.parametrize("prediction", ["flow", "v"])
def test_times_have_their_distribution(times, prediction):
    """Esser et al. 2024: log(t / (1 - t)) is standard normal; each N-th of the distribution has one."""
    c = DiffusionConfig(prediction=prediction, clip=False)
    t, eps = drawn(torch.zeros(1000, 1, 4, 4), c, times, torch.Generator().manual_seed(0))
    assert eps.shape == (1000, 1, 4, 4)
    t = t.double() / (1 if prediction == "flow" else 1000)
    shares = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    expected = torch.sigmoid(torch.special.ndtri(shares)) if times == "logit_normal" else shares
    torch.testing.assert_close(torch.quantile(t, shares), expected, rtol=0, atol=5e-3)
    assert float(t.min()) >= 0 and float(t.max()) <= 1
