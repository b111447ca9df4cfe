"""Single files of Stable Diffusion: the same model as the folder of the same weights, whose pixels are diffusers'."""

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from zoo_latent.plugin import import_checkpoint
from zoo_latent.single_file import clip_vocabulary

from zoo.build import foreign
from zoo.errors import InvalidFileError, UsageError
from zoo.hookspecs import ImportRequest

from .clip_files import ASSETS
from .test_pipelines import _made

pytestmark = pytest.mark.slow  # makes a pipeline of diffusers first

RESIDUAL = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
ENDS = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}


def unet_name(name, each=2, levels=2):
    """The original name of a tensor of diffusers' U-Net; `each`: blocks of a level, and one."""
    layer, _, part = name.rpartition(".")
    if layer in ENDS:
        return f"{ENDS[layer]}.{part}"
    side, *rest = layer.split(".")
    number = 0
    if side != "mid_block":
        number, rest = int(rest[0]), rest[1:]
    kind, j, inner = rest[0], int(rest[1]), ".".join(rest[2:])
    inner = RESIDUAL[inner] if kind == "resnets" else inner
    if side == "mid_block":
        return f"middle_block.{1 if kind == 'attentions' else 2 * j}.{inner}.{part}"
    if kind == "downsamplers":
        return f"input_blocks.{each * (number + 1)}.0.op.{part}"
    if kind == "upsamplers":
        return f"output_blocks.{each * number + each - 1}.{1 if number == 0 else 2}.conv.{part}"
    first = f"input_blocks.{1 + each * number + j}" if side == "down_blocks" else f"output_blocks.{each * number + j}"
    return f"{first}.{int(kind == 'attentions')}.{inner}.{part}"


def vae_name(name, levels=2):
    name = re.sub(r"up_blocks\.(\d)", lambda found: f"up.{levels - 1 - int(found[1])}", name)
    name = re.sub(r"mid_block\.resnets\.(\d)", lambda found: f"mid.block_{int(found[1]) + 1}", name)
    for theirs, original in {
        "down_blocks.": "down.",
        ".resnets.": ".block.",
        "downsamplers.0": "downsample",
        "upsamplers.0": "upsample",
        "conv_shortcut": "nin_shortcut",
        "conv_norm_out": "norm_out",
        "mid_block.attentions.0.group_norm": "mid.attn_1.norm",
        "mid_block.attentions.0.to_q": "mid.attn_1.q",
        "mid_block.attentions.0.to_k": "mid.attn_1.k",
        "mid_block.attentions.0.to_v": "mid.attn_1.v",
        "mid_block.attentions.0.to_out.0": "mid.attn_1.proj_out",
    }.items():
        name = name.replace(theirs, original)
    return name


def open_clip(text, blocks):
    """transformers' encoder as open_clip's, with one block more, which is not used."""
    found = {"text_projection": torch.ones(2, 2), "logit_scale": torch.ones(())}
    for name, tensor in text.items():
        name = re.sub(r"\A(text_model\.)?(encoder\.layers\.)?", lambda f: "transformer.resblocks." * bool(f[2]), name)
        for theirs, original in {
            "embeddings.token_embedding": "token_embedding",
            "embeddings.position_embedding.weight": "positional_embedding",
            "final_layer_norm": "ln_final",
            "layer_norm": "ln_",
            "self_attn.out_proj": "attn.out_proj",
            "mlp.fc1": "mlp.c_fc",
            "mlp.fc2": "mlp.c_proj",
        }.items():
            name = name.replace(theirs, original)
        if third := re.fullmatch(r"(.+)\.self_attn\.([qkv])_proj\.(.+)", name):
            name = f"{third[1]}.attn.in_proj_{third[3]}"
            found.setdefault(name, {})[third[2]] = tensor
        elif "position_ids" not in name:
            found[name] = tensor
    found = {n: torch.cat([t[k] for k in "qkv"]) if isinstance(t, dict) else t for n, t in found.items()}
    last = f"transformer.resblocks.{blocks - 1}."
    return found | {n.replace(last, f"transformer.resblocks.{blocks}."): t for n, t in found.items() if last in n}


class Made:
    """A folder, and the tensors of the same model as in one file."""

    def __init__(self, folder: Path, second: bool):
        from transformers import CLIPTextConfig, CLIPTextModel

        widths = (64, 128) if second else (32, 64)
        sizes = {"block_out_channels": widths, "cross_attention_dim": 64}
        own = {"use_linear_projection": True, "attention_head_dim": [1, 2]} if second else {"attention_head_dim": 8}
        self.pipeline = _made(folder, **sizes, **own)
        numbers = json.loads(ASSETS["vocab.json"])
        config = CLIPTextConfig(
            vocab_size=len(numbers),
            max_position_embeddings=16,
            hidden_size=64,
            intermediate_size=80,
            num_hidden_layers=2,
            num_attention_heads=1,
            hidden_act="gelu" if second else "quick_gelu",
        )
        text = CLIPTextModel(config)
        text.save_pretrained(folder / "text_encoder")
        for file, changes in {
            "vae/config.json": {"scaling_factor": 0.18215},
            "scheduler/scheduler_config.json": {"prediction_type": "v_prediction" if second else "epsilon"},
        }.items():
            fields = json.loads((folder / file).read_text())
            (folder / file).write_text(json.dumps(fields | changes))
        if second:
            said = json.loads((folder / "tokenizer/tokenizer_config.json").read_text())
            (folder / "tokenizer/tokenizer_config.json").write_text(json.dumps(said | {"pad_token": "!"}))
        self.folder = folder
        unet, vae = self.pipeline.unet.state_dict(), self.pipeline.vae.state_dict()
        tensors = {f"model.diffusion_model.{unet_name(name)}": t for name, t in unet.items()}
        tensors |= {
            f"first_stage_model.{vae_name(name)}": t[:, :, None, None] if "attentions" in name and t.ndim == 2 else t
            for name, t in vae.items()
        }
        words = {n.removeprefix("text_model."): t for n, t in text.state_dict().items()}
        if second:
            tensors |= {f"cond_stage_model.model.{n}": t for n, t in open_clip(words, 2).items()}
        else:
            tensors |= {f"cond_stage_model.transformer.text_model.{n}": t for n, t in words.items()}
        betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
        self.tensors = {n: t.clone().contiguous() for n, t in tensors.items()} | {
            "alphas_cumprod": (1 - betas).cumprod(0)
        }


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    return Made(tmp_path_factory.mktemp("single") / "first", second=False)


@pytest.fixture(scope="module")
def second(tmp_path_factory):
    return Made(tmp_path_factory.mktemp("single") / "second", second=True)


def _import(path, **options):
    found = foreign.read(path)
    request = {"family": "latent", "path": found.path, "tensors": found.tensors, "config": found.config}
    return import_checkpoint(ImportRequest(**request, options=options))


def _single(made, file, changes=None, **options):
    tensors = {name: t for name, t in (made.tensors | (changes or {})).items() if t is not None}
    save_file(tensors, file)
    return _import(file, **({"tokenizer": str(made.folder / "tokenizer")} | options))


@pytest.mark.parametrize(("which", "options"), [("first", {}), ("second", {"prediction": "v"})])
def test_single_file_and_folder_are_the_same_model(request, tmp_path, which, options):
    made = request.getfixturevalue(which)
    folder, single = _import(made.folder), _single(made, tmp_path / "model.safetensors", **options)
    assert single.assets == folder.assets
    side = {name: dict(single.config["network"]).pop(name) for name in ("image_size", "image_width")}
    assert side == {"image_size": 96 if which == "second" else 64, "image_width": 0}
    assert single.config == {**folder.config, "network": {**folder.config["network"], **side}}
    assert single.state_dict.keys() == folder.state_dict.keys()
    for name, tensor in folder.state_dict.items():
        assert torch.equal(single.state_dict[name], tensor), name


@pytest.mark.parametrize("which", ["first", "second"])
def test_the_original_layout_of_these_tests_is_what_diffusers_reads(request, which):
    from diffusers.loaders import single_file_utils as theirs

    made = request.getfixturevalue(which)
    unet = theirs.convert_ldm_unet_checkpoint(made.tensors, dict(made.pipeline.unet.config))
    vae = theirs.convert_ldm_vae_checkpoint(made.tensors, dict(made.pipeline.vae.config))
    for part, found in (("unet", unet), ("vae", vae)):
        own = getattr(made.pipeline, part).state_dict()
        assert found.keys() == own.keys()
        assert all(torch.equal(found[name].reshape(own[name].shape), own[name]) for name in own)


def test_version_2_does_not_say_what_it_predicts(second, tmp_path):
    with pytest.raises(UsageError, match=r"does not say what it predicts: give --prediction v \(768 pixels\)"):
        _single(second, tmp_path / "model.safetensors")
    assert (
        _single(second, tmp_path / "a.safetensors", {"v_pred": torch.ones(1)}).config["diffusion"]["prediction"] == "v"
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"conditioner.embedders.0.a": torch.ones(1)}, "is Stable Diffusion XL's refiner in one file; only"),
        ({"model.diffusion_model.joint_blocks.0.a": torch.ones(1)}, "is Stable Diffusion 3 in one file; only"),
        ({"alphas_cumprod": torch.ones(1000) / 2}, "its alphas_cumprod is not Stable Diffusion's schedule"),
        ({"model.diffusion_model.out.2.weight": None}, "model.diffusion_model.out.2.weight is missing"),
        ({"model.diffusion_model.extra.weight": torch.ones(1)}, r"extra.weight \[1\] is unexpected"),
        ({"model.diffusion_model.out.0.weight": torch.ones(3)}, r"conv_norm_out.weight is \[3\], not \[32\]"),
    ],
)
def test_what_does_not_fit_is_one_line(first, tmp_path, changes, message):
    with pytest.raises(InvalidFileError, match=message) as caught:
        _single(first, tmp_path / "model.safetensors", changes)
    assert "\n" not in str(caught.value)


def test_missing_parts_are_named(first, tmp_path):
    for prefix, message in {
        "first_stage_model.": r"\*; give --vae",
        "cond_stage_model.": r"no cond_stage_model.\*",
    }.items():
        without = {name: None for name in first.tensors if name.startswith(prefix)}
        with pytest.raises(InvalidFileError, match=message):
            _single(first, tmp_path / f"{prefix}safetensors", without)


def test_tokenizer_without_merges(first, tmp_path):
    with pytest.raises(UsageError, match=r"--tokenizer .*: it has no vocab.json\Z"):
        _single(first, tmp_path / "model.safetensors", tokenizer=str(tmp_path))


def test_vocabulary_of_open_clip_is_that_of_its_tokenizer():
    import gzip

    import open_clip

    packed = Path(open_clip.__file__).parent / "bpe_simple_vocab_16e6.txt.gz"
    numbers = json.loads(clip_vocabulary(gzip.decompress(packed.read_bytes()).decode())["vocab.json"])
    theirs = open_clip.tokenizer.SimpleTokenizer().encoder
    renamed = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}
    assert numbers == {renamed.get(token, token): number for token, number in theirs.items()}
