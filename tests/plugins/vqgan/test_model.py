import pytest
import torch
from zoo_vqgan import plugin
from zoo_vqgan.config import CodecConfig, CodecSettings, KLConfig
from zoo_vqgan.model import VQGAN, KLAutoencoder
from zoo_vqvae.config import PriorSettings
from zoo_vqvae.tasks import Decode, Encode, Reconstruct

from zoo.errors import UsageError
from zoo.hookspecs import BuildRequest, ConfigRequest, TaskModuleRequest, TasksRequest
from zoo.settings import read

from .graphs import assert_graphs_are_torchs

SMALL = {"image_channels": 1, "widths": (8, 8, 16), "blocks": 1, "latent_channels": 8, "code_size": 4, "norm_groups": 4}


def codec(**fields: object) -> VQGAN:
    torch.manual_seed(0)
    return VQGAN(CodecConfig(**SMALL | {"num_codes": 16} | fields)).eval()


def validate(family: str = "vqgan", **fields: object) -> dict:
    return plugin.validate_config(ConfigRequest(family=family, config={"codec": fields}))


# --- Networks ---------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_codes_rebuilt_from_indices_are_the_quantised_output():
    model = codec()
    x = torch.rand(2, 1, 16, 24) * 2 - 1
    reconstruction, quantized = model(x)
    rebuilt = model.quantizer.decode(quantized.indices)
    torch.testing.assert_close(rebuilt, quantized.z_q)
    torch.testing.assert_close(model.decoder(rebuilt.permute(0, 3, 1, 2)), reconstruction)


@torch.no_grad()
@pytest.mark.parametrize("height, width", [(8, 8), (13, 57), (32, 30)])
def test_pictures_of_any_size_come_back_in_their_size(height, width):
    model = codec()
    image = torch.randint(0, 256, (2, height, width, 1), dtype=torch.uint8)
    tokens, size = Encode(model)(image)
    assert tokens.shape == (2, -(-height // 4), -(-width // 4)) and size.tolist() == [height, width]
    decoded = Decode(model)(tokens, size)
    assert decoded.shape == image.shape and torch.equal(decoded, Reconstruct(model)(image))


@pytest.mark.slow
@pytest.mark.parametrize("fields", [{}, {"norm": "place", "middle_attention": False}], ids=["attended", "local"])
def test_the_graphs_give_torchs_numbers_at_any_size(tmp_path, fields):
    assert_graphs_are_torchs(codec(**{"widths": (8, 8, 16, 16)} | fields), tmp_path)


@torch.no_grad()
def test_normalised_latents_have_length_one():
    z = codec(normalize_latents=True).encoder(torch.rand(2, 1, 16, 16))
    torch.testing.assert_close(z.norm(dim=1), torch.ones(2, 4, 4))


@torch.no_grad()
def test_a_condition_reaches_encoder_and_decoder():
    model = codec(condition_classes=3)
    x, z = torch.rand(1, 1, 16, 16), torch.rand(1, 4, 4, 4)
    none, two = torch.tensor([-1]), torch.tensor([2])
    for network, value in ((model.encoder, x), (model.decoder, z)):
        assert not torch.allclose(network(value, none), network(value, two))


@torch.no_grad()
def test_an_unconditional_codec_takes_no_notice_of_a_label():
    model = codec()
    x = torch.rand(1, 1, 16, 16)
    assert torch.equal(model.encoder(x), model.encoder(x, torch.tensor([2])))


def test_gaussian_latents_are_drawn_around_their_mean():
    torch.manual_seed(0)
    model = KLAutoencoder(KLConfig(**SMALL))
    with torch.no_grad():
        model.encoder.to_code.bias[4:] = -100  # a log-variance that is clamped to -30
    x = torch.rand(2, 1, 16, 16)
    reconstruction, (mean, log_variance) = model(x, generator=torch.Generator().manual_seed(0))
    assert log_variance.min() == log_variance.max() == -30
    torch.testing.assert_close(reconstruction, model.decoder(mean), rtol=1e-3, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("task", ["encode", "decode"])
def test_nothing_beyond_the_context_counts(task):
    """A change at one end of a strip leaves alone all that is further off than `context`, and reaches near it."""
    fields = SMALL | {"norm": "place", "middle_attention": False}
    model = codec(**fields)
    pixels = 400
    encoder, decoder = model.config.context
    a = torch.rand(1, 1, 8, pixels) if task == "encode" else torch.rand(1, 4, 2, pixels // 4)
    b = a.clone()
    b[..., 0] += 1
    network, step, context = (model.encoder, 1, encoder) if task == "encode" else (model.decoder, 4, decoder)
    changed = (network(a) != network(b)).any(dim=1).any(dim=1)[0]
    furthest = int(changed.nonzero().max()) * (4 if task == "encode" else 1)
    assert context * 0.6 - 4 < furthest <= context + step - 1
    assert codec().config.context is None, "a norm over the whole picture sees the whole picture"


# --- The plugin -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family, presets", [("vqgan", plugin.VQGAN_PRESETS), ("klvae", plugin.KLVAE_PRESETS)])
def test_every_preset_has_valid_settings(family, presets):
    for name, preset in presets.items():
        config = plugin.validate_config(ConfigRequest(family=family, config=preset.config))
        assert plugin.validate_config(ConfigRequest(family=family, config=config)) == config
        read(PriorSettings if "prior" in config else CodecSettings, preset.training, name)


@pytest.mark.parametrize(
    "family, codec, line",
    [
        ("vqgan", {"widths": [8, 12]}, "codec.widths is [8, 12]; each must be a multiple of norm_groups, 32"),
        ("vqgan", {"attention_levels": [5]}, "codec.attention_levels is [5]; there are 5 levels, from 0"),
        ("vqgan", {"widths": []}, "codec.widths is []; it must be a list of 1 to 8 values"),
        ("vqgan", {"num_codes": 1}, "codec.num_codes is 1; it must be a whole number from 2 to 262144"),
        ("klvae", {"num_codes": 8}, "there is no 'codec.num_codes'; did you mean 'norm_groups'?"),
        (
            "klvae",
            {"condition_classes": 3},
            "codec.condition_classes is 3; klvae does not support conditions; it must be 0",
        ),
        (
            "klvae",
            {"latent_convolutions": False, "code_size": 8},
            "codec.code_size is 8; without latent_convolutions it must be 4 too",
        ),
    ],
)
def test_a_wrong_config_is_one_line(family, codec, line):
    with pytest.raises(UsageError) as error:
        validate(family, **codec)
    assert str(error.value).startswith(f"{family} config: {line.split('; did')[0]}")


def test_a_prior_over_a_conditional_codec_is_refused():
    config = {"codec": SMALL | {"condition_classes": 3}, "prior": {}}
    with pytest.raises(UsageError, match="a codec with condition_classes cannot have a prior"):
        plugin.validate_config(ConfigRequest(family="vqgan", config=config))


def test_attention_bounds_the_picture_and_rules_out_tiles():
    def reconstruct(**fields):
        config = validate(**SMALL | fields)
        return plugin.list_tasks(TasksRequest(family="vqgan", config=config)).tasks["reconstruct"]

    attended, local = reconstruct(), reconstruct(middle_attention=False, norm="place")
    assert attended.inputs["image"].maximum_pixels < local.inputs["image"].maximum_pixels
    assert attended.tile is None and local.tile.multiple == 4


@torch.no_grad()
def test_a_conditional_codecs_tasks_take_the_label():
    config = validate(**SMALL | {"condition_classes": 3, "num_codes": 16})
    tasks = plugin.list_tasks(TasksRequest(family="vqgan", config=config, classes=("a", "b", "c"))).tasks
    torch.manual_seed(0)
    module = plugin.build_module(BuildRequest(family="vqgan", config=config)).eval()
    image, label = torch.randint(0, 256, (2, 12, 9, 1), dtype=torch.uint8), torch.tensor([-1, 2])
    built = {
        name: plugin.build_task(TaskModuleRequest(family="vqgan", config=config, task=name, module=module))
        for name in tasks
    }
    tokens, size = built["encode"](image, label)
    assert torch.equal(built["decode"](tokens, size, label), built["reconstruct"](image, label))
    assert all(task.inputs["label"].classes == ("a", "b", "c") for task in tasks.values())
