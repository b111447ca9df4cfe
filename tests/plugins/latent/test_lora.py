"""LoRA files, as kohya's scripts and diffusers write them: our weights are those that diffusers fuses."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from zoo_latent.lora import merged
from zoo_latent.plugin import import_checkpoint

from zoo.build import foreign
from zoo.errors import InvalidFileError
from zoo.hookspecs import Extra, ImportRequest

from .test_pipelines import _made

pytestmark = pytest.mark.slow  # makes a pipeline of diffusers first

RANK = 3
ATTENTION = "down_blocks.0.attentions.0.transformer_blocks.0.attn2"
UNET = {  # layer: shape of its weight
    f"{ATTENTION}.to_q": (32, 32),
    f"{ATTENTION}.to_out.0": (32, 32),
    "down_blocks.0.attentions.0.proj_in": (32, 32, 1, 1),
    "down_blocks.0.resnets.0.conv1": (32, 32, 3, 3),
    "down_blocks.0.resnets.0.time_emb_proj": (32, 128),
}
TEXT = {"encoder.layers.1.self_attn.q_proj": (32, 32), "encoder.layers.0.mlp.fc1": (37, 32)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lora") / "pipeline"
    _made(folder)
    return folder


def halves(layers):
    generator = torch.Generator().manual_seed(1)
    for name, (outputs, *rest) in layers.items():
        down = torch.randn(RANK, *rest, generator=generator)
        up = torch.randn(outputs, RANK, *(1 for _ in rest[1:]), generator=generator)
        yield name, down, up


def kohya():
    found = {}
    for prefix, layers in (("lora_unet_", UNET), ("lora_te_text_model_", TEXT)):
        for name, down, up in halves(layers):
            key = prefix + name.replace(".", "_")
            found |= {f"{key}.lora_down.weight": down, f"{key}.lora_up.weight": up}
            found[f"{key}.alpha"] = torch.tensor(2.0)
    return found


def peft():
    found = {}
    for prefix, layers in (("unet.", UNET), ("text_encoder.text_model.", TEXT)):
        for name, down, up in halves(layers):
            found |= {f"{prefix}{name}.lora_A.weight": down, f"{prefix}{name}.lora_B.weight": up}
    return found


def old():
    """diffusers' names of 2023."""
    found = {}
    for name, down, up in halves(dict(list(UNET.items())[:2])):
        key = "unet." + name.removesuffix(".0").replace(".attn2.", ".attn2.processor.") + "_lora"
        found |= {f"{key}.down.weight": down, f"{key}.up.weight": up}
    name, down, up = next(halves(TEXT))
    key = f"text_encoder.text_model.{name}.lora_linear_layer"
    return found | {f"{key}.down.weight": down, f"{key}.up.weight": up}


def extra(file: Path, tensors, weight=0.8):
    save_file(tensors, file)
    found = foreign.read(file)
    return Extra(path=found.path, tensors=found.tensors, config=None, weight=weight)


@pytest.mark.parametrize("written", [kohya, peft, old])
def test_merged_weights_are_those_that_diffusers_fuses(folder, tmp_path, written):
    from diffusers import StableDiffusionPipeline

    file = tmp_path / "style.safetensors"
    lora = extra(file, written())
    before = foreign.read(folder).tensors
    ours = merged(before, lora)
    pipeline = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
    pipeline.load_lora_weights(tmp_path, weight_name=file.name)
    pipeline.fuse_lora(lora_scale=0.8)
    pipeline.unload_lora_weights()
    changed = 0
    for part in ("unet", "text_encoder"):
        for name, theirs in getattr(pipeline, part).state_dict().items():
            if written is kohya and name.endswith(".q_proj.weight") and part == "text_encoder":
                # diffusers 0.42 renames these to what transformers 5 drops with a warning: the formula instead.
                [(_, down, up)] = [layer for layer in halves(TEXT) if f"{layer[0]}.weight" in name] or [(0, None, None)]
                theirs = theirs if down is None else theirs + 0.8 * 2 / RANK * up @ down
            torch.testing.assert_close(ours[f"{part}.{name}"].float(), theirs, atol=1e-5, rtol=1e-5)
            changed += not torch.equal(theirs, before[f"{part}.{name}"])
    assert changed == sum(key.endswith(("up.weight", "lora_B.weight")) for key in lora.tensors)


def test_two_loras_are_added(folder, tmp_path):
    tensors = foreign.read(folder).tensors
    one, other = extra(tmp_path / "a.safetensors", kohya(), 0.5), extra(tmp_path / "b.safetensors", peft(), -0.25)
    name = f"unet.{ATTENTION}.to_q.weight"
    _, down, up = next(halves(UNET))
    expected = tensors[name] + (0.5 * 2 / RANK - 0.25) * up @ down
    torch.testing.assert_close(merged(merged(tensors, one), other)[name], expected)


def test_alpha_of_peft_is_in_the_metadata(folder, tmp_path):
    tensors = foreign.read(folder).tensors
    file = tmp_path / "a.safetensors"
    metadata = {"lora_adapter_metadata": '{"unet.r": 3, "unet.lora_alpha": 6, "unet.alpha_pattern": {"to_q": 12}}'}
    save_file(peft(), file, metadata)
    found = foreign.read(file)
    ours = merged(tensors, Extra(path=file, tensors=found.tensors, config=None))
    for (name, down, up), factor in zip(halves(UNET), (4, 2), strict=False):
        torch.testing.assert_close(ours[f"unet.{name}.weight"], tensors[f"unet.{name}.weight"] + factor * up @ down)


def test_a_pipeline_is_imported_with_a_lora(folder, tmp_path):
    found = foreign.read(folder)
    request = {"family": "latent", "path": found.path, "tensors": found.tensors, "config": found.config}
    plain = import_checkpoint(ImportRequest(**request))
    lora = extra(tmp_path / "a.safetensors", kohya())
    other = import_checkpoint(ImportRequest(**request, extras={"lora": (lora,)}))
    name = "denoiser.down.0.attentions.0.blocks.0.attend_text.q.weight"
    _, down, up = next(halves(UNET))
    torch.testing.assert_close(other.state_dict[name], plain.state_dict[name] + 0.8 * 2 / RANK * up @ down)


@pytest.mark.parametrize(
    ("key", "shape", "message"),
    [
        ("lora_unet_nowhere.lora_up.weight", (4, 3), "lora_unet_nowhere.lora_up.weight: it is not a layer of this"),
        ("unet.conv_in.hada_w1_a", (4, 3), "unet.conv_in.hada_w1_a: this kind of adapter is not supported"),
        ("unet.conv_in.lora_A.weight", (3, 4, 3, 3), "unet.conv_in.lora_A.weight: the layer's other half is missing"),
        (f"unet.{ATTENTION}.to_q.lora_A.weight", (3, 48), r"to_q.lora_A.weight is \[3, 48\], with 32 outputs; the la"),
        (f"unet.{ATTENTION}.to_q.lora_B.weight", (32, 5), r"to_q.lora_B.weight is \[32, 5\]; it must be \[outputs, 3"),
    ],
)
def test_a_lora_that_does_not_fit_is_one_line(folder, tmp_path, key, shape, message):
    lora = extra(tmp_path / "a.safetensors", peft() | {key: torch.ones(shape)})
    with pytest.raises(InvalidFileError, match=message) as caught:
        merged(foreign.read(folder).tensors, lora)
    assert "\n" not in str(caught.value)
