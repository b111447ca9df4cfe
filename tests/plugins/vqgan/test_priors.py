"""Imported transformers against their networks, written here from their papers: same logits, same tokens."""

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn
from zoo_vqgan import plugin
from zoo_vqgan.config import CodecConfig
from zoo_vqgan.model import VQGAN
from zoo_vqvae.prior import SequentialDrawing
from zoo_vqvae.tasks import to_uint8

from zoo.build import foreign
from zoo.errors import InvalidFileError
from zoo.hookspecs import BuildRequest, ConfigRequest, Extra, Imported, ImportRequest

from ...cli.commands import zoo
from .test_layouts import taming
from .test_layouts_parity import recorded

K, CLASSES, SIDE, L = 24, 5, 4, 16
CODEC = CodecConfig(
    widths=(32, 32), blocks=1, latent_channels=4, code_size=3, num_codes=K, learn_codebook="loss", middle_attention=True
)
WIDTH, DEPTH, HEADS = 32, 3, 4

Tensors = dict[str, Tensor]
Logits = Callable[[Tensor, Tensor], Tensor]
"""Codes [batch, n] and classes [batch] to the logits of code n, [batch, K]."""


def random(shapes: Mapping[str, tuple[int, ...]]) -> Tensors:
    """Matrices of 0.3, biases of 0.1, and the norms' scales around 1."""
    g = torch.Generator().manual_seed(0)
    tensors = {
        name: torch.randn(shape, generator=g) * (0.3 if len(shape) > 1 else 0.1) for name, shape in shapes.items()
    }
    return {n: t + 1 if t.ndim == 1 and n.endswith("weight") else t for n, t in tensors.items()}


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """[batch, heads, places, size]: no place sees what is after it."""
    places = q.shape[2]
    later = torch.ones(places, places, dtype=torch.bool).triu(1)
    scores = (q @ k.transpose(2, 3) / math.sqrt(q.shape[3])).masked_fill(later, -math.inf)
    return (scores.softmax(3) @ v).transpose(1, 2).flatten(2)


def heads(x: Tensor) -> Tensor:
    return x.unflatten(2, (HEADS, -1)).transpose(1, 2)


# --- minGPT, section 3.2 of Esser et al. 2021 -------------------------------------------------------------------------


def mingpt() -> Tensors:
    shapes = {
        "tok_emb.weight": (K, WIDTH),
        "pos_emb": (1, L, WIDTH),
        "ln_f.weight": (WIDTH,),
        "ln_f.bias": (WIDTH,),
        "head.weight": (K, WIDTH),
    }
    for i in range(DEPTH):
        for name in ("attn.key", "attn.query", "attn.value", "attn.proj"):
            shapes |= {f"blocks.{i}.{name}.weight": (WIDTH, WIDTH), f"blocks.{i}.{name}.bias": (WIDTH,)}
        for name in ("ln1", "ln2"):
            shapes |= {f"blocks.{i}.{name}.weight": (WIDTH,), f"blocks.{i}.{name}.bias": (WIDTH,)}
        shapes |= {f"blocks.{i}.mlp.0.weight": (4 * WIDTH, WIDTH), f"blocks.{i}.mlp.0.bias": (4 * WIDTH,)}
        shapes |= {f"blocks.{i}.mlp.2.weight": (WIDTH, 4 * WIDTH), f"blocks.{i}.mlp.2.bias": (WIDTH,)}
    tensors = {f"transformer.{name}": tensor for name, tensor in random(shapes).items()}
    mask = {f"transformer.blocks.{i}.attn.mask": torch.ones(1, 1, L, L).tril() for i in range(DEPTH)}
    return tensors | mask


def net2net_logits(w: Mapping[str, Tensor]) -> Logits:
    """The class is the first code."""

    def linear(x: Tensor, name: str) -> Tensor:
        return x @ w[f"transformer.{name}.weight"].T + w.get(f"transformer.{name}.bias", 0)

    def norm(x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, (WIDTH,), w[f"transformer.{name}.weight"], w[f"transformer.{name}.bias"])

    def logits(codes: Tensor, label: Tensor) -> Tensor:
        read = torch.cat([label.unsqueeze(1), codes], dim=1)
        x = w["transformer.tok_emb.weight"][read] + w["transformer.pos_emb"][:, : read.shape[1]]
        for i in range(DEPTH):
            b = f"blocks.{i}"
            h = norm(x, f"{b}.ln1")
            q, k, v = (heads(linear(h, f"{b}.attn.{name}")) for name in ("query", "key", "value"))
            x = x + linear(attention(q, k, v), f"{b}.attn.proj")
            x = x + linear(F.gelu(linear(norm(x, f"{b}.ln2"), f"{b}.mlp.0")), f"{b}.mlp.2")
        return linear(norm(x, "ln_f"), "head")[:, -1]

    return logits


def net2net(**params: object) -> tuple[Tensors, dict]:
    torch.manual_seed(0)
    codec = {f"first_stage_model.{name}": tensor for name, tensor in taming(VQGAN(CODEC)).items()}
    config = {
        "cond_stage_config": {"target": "taming.modules.util.Labelator", "params": {"n_classes": CLASSES}},
        "transformer_config": {
            "target": "taming.modules.transformer.mingpt.GPT",
            "params": {"vocab_size": K, "block_size": L, "n_layer": DEPTH, "n_head": HEADS, "n_embd": WIDTH},
        },
        **params,
    }
    return codec | mingpt(), {"model": {"target": "…Net2NetTransformer", "params": config}}


# --- LlamaGen, section 2.2 of Sun et al. 2024 -------------------------------------------------------------------------

HIDDEN = 256


def llamagen() -> Tensors:
    shapes = {
        "cls_embedding.embedding_table.weight": (CLASSES + 1, WIDTH),
        "tok_embeddings.weight": (K, WIDTH),
        "norm.weight": (WIDTH,),
        "output.weight": (K, WIDTH),
    }
    for i in range(DEPTH):
        shapes |= {
            f"layers.{i}.attention.wqkv.weight": (3 * WIDTH, WIDTH),
            f"layers.{i}.attention.wo.weight": (WIDTH, WIDTH),
            f"layers.{i}.feed_forward.w1.weight": (HIDDEN, WIDTH),
            f"layers.{i}.feed_forward.w3.weight": (HIDDEN, WIDTH),
            f"layers.{i}.feed_forward.w2.weight": (WIDTH, HIDDEN),
            f"layers.{i}.attention_norm.weight": (WIDTH,),
            f"layers.{i}.ffn_norm.weight": (WIDTH,),
        }
    return random(shapes)


def turns(dtype: torch.dtype = torch.float32) -> Tensor:
    """Cosine and sine of each pair of a head, [1 + L, pairs, 2]; zeros for the class."""
    pairs = WIDTH // HEADS // 2
    angles = torch.zeros(L, pairs, dtype=dtype)
    for cell in range(L):
        for axis, coordinate in enumerate((cell // SIDE, cell % SIDE)):
            for j in range(pairs // 2):
                angles[cell, axis * pairs // 2 + j] = coordinate * 10000 ** (-2 * j / pairs)
    return torch.cat([torch.zeros(1, pairs, 2, dtype=dtype), torch.stack([angles.cos(), angles.sin()], dim=2)])


def llamagen_logits(w: Mapping[str, Tensor]) -> Logits:
    """Label -1 is none, which is the last row of the classes."""

    def linear(x: Tensor, name: str) -> Tensor:
        return x @ w[f"{name}.weight"].T

    def norm(x: Tensor, name: str) -> Tensor:
        return x / torch.sqrt(x.square().mean(-1, keepdim=True) + 1e-5) * w[f"{name}.weight"]

    def rotated(x: Tensor) -> Tensor:
        turn = torch.view_as_complex(turns(x.dtype)[: x.shape[2]].contiguous())
        return torch.view_as_real(torch.view_as_complex(x.unflatten(3, (-1, 2)).contiguous()) * turn).flatten(3)

    def logits(codes: Tensor, label: Tensor) -> Tensor:
        label = torch.where(label < 0, CLASSES, label)
        table = w["cls_embedding.embedding_table.weight"]
        x = torch.cat([table[label].unsqueeze(1), w["tok_embeddings.weight"][codes]], dim=1)
        for i in range(DEPTH):
            b = f"layers.{i}"
            q, k, v = map(heads, linear(norm(x, f"{b}.attention_norm"), f"{b}.attention.wqkv").split(WIDTH, dim=2))
            x = x + linear(attention(rotated(q), rotated(k), v), f"{b}.attention.wo")
            h = norm(x, f"{b}.ffn_norm")
            gated = F.silu(linear(h, f"{b}.feed_forward.w1")) * linear(h, f"{b}.feed_forward.w3")
            x = x + linear(gated, f"{b}.feed_forward.w2")
        return linear(norm(x, "norm"), "output")[:, -1]

    return logits


CONFIG = {"n_head": HEADS, "block_size": L}


def importing(
    tensors: Tensors,
    config: dict | None,
    prior: Tensors | None = None,
    said: dict | None = CONFIG,
    name: str = "gpt.pt",
) -> Imported:
    extras = {"prior": (Extra(path=Path(name), tensors=prior, config=said),)} if prior else {}
    return plugin.import_checkpoint(
        ImportRequest(family="vqgan", path=Path("last.ckpt"), tensors=tensors, config=config, extras=extras)
    )


def built(imported: Imported) -> nn.Module:
    config = plugin.validate_config(ConfigRequest(family="vqgan", config=imported.config))
    assert config == imported.config, "an importer's config is complete"
    module = plugin.build_module(BuildRequest(family="vqgan", config=config))
    module.load_state_dict(dict(imported.state_dict))
    return module.eval()


def codec() -> Tensors:
    torch.manual_seed(0)
    return taming(VQGAN(CODEC))


def from_net2net() -> tuple[Imported, Mapping[str, Tensor], Callable[[Mapping[str, Tensor]], Logits]]:
    tensors, config = net2net()
    return importing(tensors, config), tensors, net2net_logits


def from_llamagen() -> tuple[Imported, Mapping[str, Tensor], Callable[[Mapping[str, Tensor]], Logits]]:
    tensors = llamagen()
    return importing(codec(), None, tensors), tensors, llamagen_logits


BOTH = pytest.mark.parametrize("source", [from_net2net, from_llamagen])


def likeliest(logits: Logits, label: Tensor, guidance: float | None) -> Tensor:
    """All codes, each the likeliest after those before it, [batch, L]."""
    codes = torch.zeros(len(label), 0, dtype=torch.int64)
    for _ in range(L):
        one = logits(codes, label)
        if guidance:
            without = logits(codes, torch.full_like(label, -1))
            one = without + guidance * (one - without)
        codes = torch.cat([codes, one.argmax(dim=1, keepdim=True)], dim=1)
    return codes


@BOTH
@torch.no_grad()
def test_the_logits_are_those_of_the_original(source):
    """Within four times the original's own rounding error in float32, relative to the largest logit."""
    imported, tensors, network = source()
    prior = built(imported)["prior"]
    g = torch.Generator().manual_seed(1)
    codes, label = torch.randint(K, (3, L), generator=g), torch.tensor([0, 3, 4])

    def every(logits: Logits) -> Tensor:
        return torch.stack([logits(codes[:, :n], label) for n in range(L)], dim=1)

    exact = every(network({name: tensor.double() for name, tensor in tensors.items()}))
    error = (every(network(tensors)) - exact).abs().max()
    assert 0 < error < 1e-4 and exact.std() > 0.5
    assert (prior(codes, label) - exact).abs().max() <= 4 * error
    cache, one_by_one = prior.empty_cache(3), []
    for i in range(L):
        logits, cache = prior.next_logits(torch.tensor(i), codes[:, max(i - 1, 0)], label, cache)
        one_by_one.append(logits)
    assert (torch.stack(one_by_one, dim=1) - exact).abs().max() <= 4 * error


@BOTH
@pytest.mark.parametrize("guidance", [None, 4.0])
@torch.no_grad()
def test_the_likeliest_tokens_are_those_of_the_original(source, guidance):
    imported, tensors, network = source()
    prior, logits = built(imported)["prior"], network(tensors)
    if guidance and not prior.config.null_label:
        assert imported.config["prior"]["num_classes"] == CLASSES, "without a picture of no class nothing is guided"
        return
    label, ones = torch.arange(CLASSES), torch.ones(CLASSES)
    codes = likeliest(logits, label, guidance)
    drawn = SequentialDrawing(prior)(label, ones, ones, ones, label, None if guidance is None else guidance * ones)
    assert torch.equal(drawn, codes) and len(codes.unique(dim=0)) == CLASSES


def test_what_each_config_says():
    prior = from_net2net()[0].config["prior"]
    assert (prior["kind"], prior["block"], prior["null_label"]) == ("autoregressive", "gpt", False)
    assert (prior["rows"], prior["columns"], prior["num_classes"], prior["heads"]) == (SIDE, SIDE, CLASSES, HEADS)
    imported = from_llamagen()[0]
    prior = imported.config["prior"]
    assert (prior["block"], prior["null_label"], prior["num_classes"]) == ("llama", True, CLASSES)
    assert (prior["mlp_width"], prior["default_guidance"], prior["default_top_k"]) == (HIDDEN, 4.0, K)
    assert imported.layout == "CompVis/taming-transformers, GPT"
    assert imported.notes == ("--prior: used 25 of 25 tensors",)


def test_a_net2net_without_classes_starts_with_its_first_code():
    tensors, config = net2net(cond_stage_config="__is_unconditional__", sos_token=7)
    imported = importing(tensors, config)
    assert (imported.config["prior"]["num_classes"], imported.config["prior"]["null_label"]) == (0, True)
    assert torch.equal(imported.state_dict["prior.labels.weight"], tensors["transformer.tok_emb.weight"][7:8])


@torch.no_grad()
def test_a_net2net_with_more_positions_than_its_pictures_have():
    """As in taming's configs/custom_transformer.yaml: 512 positions, 256 tokens at the codec's resolution."""
    stage = {"target": "taming.models.vqgan.VQModel", "params": {"ddconfig": {"resolution": 2 * SIDE}}}
    tensors, config = net2net(unconditional=True, cond_stage_config={"target": "a.Dummy"}, first_stage_config=stage)
    tensors["transformer.pos_emb"] = torch.cat([tensors["transformer.pos_emb"], torch.ones(1, 9, WIDTH)], dim=1)
    config["model"]["params"]["transformer_config"]["params"]["block_size"] = L + 9
    for i in range(DEPTH):
        tensors[f"transformer.blocks.{i}.attn.mask"] = torch.ones(1, 1, L + 9, L + 9).tril()
    prior = built(importing(tensors, config))["prior"]
    codes = torch.arange(L).unsqueeze(0)
    first = net2net_logits(tensors)(codes[:, :5], torch.tensor([0]))
    torch.testing.assert_close(prior(codes, torch.tensor([-1]))[:, 5], first, rtol=1e-5, atol=1e-5)
    stage["params"]["ddconfig"]["resolution"] = 64
    assert "its transformer has 25 positions, but 32x32 tokens are a picture" in refused(tensors, config)


@pytest.mark.parametrize(
    ("params", "reason"),
    [
        (
            {"transformer_config": None},
            "the number of its heads is only in its config; put that next to it as config.y",
        ),
        ({"cond_stage_config": {"target": "a.VQModel"}}, "it draws from a condition, a.VQModel, not from a class"),
        (
            {"cond_stage_config": "__is_first_stage__"},
            "it draws from a condition, __is_first_stage__, not from a class",
        ),
        ({"permuter_config": {"target": "a.permuter.ZCurve"}}, "it draws tokens in another order, a.permuter.ZCurve"),
        ({"pkeep": 0.0}, "with pkeep 0 it draws all tokens at once"),
    ],
)
def test_another_net2net_gives_its_codec_and_says_why(params, reason):
    imported = importing(*net2net(**params))
    assert set(imported.config) == {"codec"} and imported.layout == "CompVis/taming-transformers"
    assert imported.notes[0].startswith(f"its transformer is left out: {reason}")
    assert "transformer.head.weight" in imported.unused


def refused(*args: object, **kwargs: object) -> str:
    with pytest.raises(InvalidFileError) as error:
        importing(*args, **kwargs)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_net2net_that_does_not_fit_is_refused_by_name():
    tensors, config = net2net()
    tensors["transformer.extra"] = torch.ones(2)
    tensors["transformer.head.weight"] = torch.ones(K, WIDTH + 1)
    del tensors["transformer.blocks.1.attn.key.bias"]
    said = refused(tensors, config)
    assert (
        "transformer.extra [2] is unexpected" in said and "transformer.blocks.1.attn.key.bias [32] is missing" in said
    )
    assert f"transformer.head.weight is [{K}, 33], not [{K}, 32]" in said
    tensors, config = net2net()
    tensors["transformer.blocks.0.attn.mask"][..., :3, :3] = 1
    assert "transformer.blocks.0.attn.mask is not a causal mask (n_unmasked)" in refused(tensors, config)
    tensors, config = net2net()
    tensors["transformer.pos_emb"] = torch.ones(1, 9, WIDTH)
    assert "its config says block_size 16, its tensors 9" in refused(tensors, config)
    del tensors["transformer.pos_emb"]
    assert f"transformer.pos_emb is missing, not [1, positions, {WIDTH}]" in refused(tensors, config)
    assert "a config does not belong to its transformer" in refused(*net2net(pkeep="all"))
    tensors, config = net2net()
    tensors["transformer.tok_emb.weight"] = torch.ones(K + 1, WIDTH)
    assert f"says vocab_size {K}, its tensors {K + 1}" in refused(tensors, config)
    tensors, config = net2net()
    assert refused(tensors, config, llamagen()) == "--prior: last.ckpt has a transformer of its own"


def test_a_llamagen_that_does_not_fit_is_refused_by_name():
    tensors = llamagen()
    tensors["layers.0.attention.bias"] = torch.ones(2)
    tensors["layers.1.feed_forward.w3.weight"] = torch.ones(HIDDEN, 7)
    del tensors["norm.weight"]
    said = refused(codec(), None, tensors)
    assert said.startswith("--prior gpt.pt: the checkpoint does not fit its config: ")
    assert "layers.0.attention.bias [2] is unexpected" in said and "norm.weight [32] is missing" in said
    assert f"layers.1.feed_forward.w3.weight is [{HIDDEN}, 7], not [{HIDDEN}, 32]" in said
    text = llamagen() | {"cls_embedding.cap_proj.fc1.weight": torch.ones(2, 2)}
    assert "it draws from texts (t2i), which needs T5" in refused(codec(), None, text)
    assert "not a class-conditional transformer of FoundationVision/LlamaGen" in refused(codec(), None, codec())
    wider = llamagen() | {"tok_embeddings.weight": torch.ones(K + 8, WIDTH)}
    assert f"it draws {K + 8} codes, but the codec has {K}" in refused(codec(), None, wider)
    assert "rope_base is 500; only 10000" in refused(codec(), None, llamagen(), CONFIG | {"rope_base": 500})
    assert "its config says n_layer 2, its tensors 3" in refused(codec(), None, llamagen(), CONFIG | {"n_layer": 2})
    assert "15 tokens are not the square" in refused(codec(), None, llamagen(), CONFIG | {"block_size": 15})
    assert "put a config.json with n_head" in refused(codec(), None, llamagen(), {"block_size": L})
    other = llamagen() | {"freqs_cis": turns().flip(0)}
    assert "its freqs_cis are not those of 4x4 tokens and base 10000" in refused(codec(), None, other)
    assert "a config does not belong" in refused(codec(), None, llamagen(), CONFIG | {"block_size": "many"})
    assert "nothing says how large its pictures are" in refused(codec(), None, llamagen(), {"n_head": HEADS})


def test_the_number_of_tokens_comes_from_the_table_or_the_name():
    imported = importing(codec(), None, llamagen() | {"freqs_cis": turns()}, None)
    assert (imported.config["prior"]["rows"], imported.config["prior"]["heads"]) == (SIDE, HEADS)
    named = importing(codec(), None, llamagen(), {"n_head": HEADS}, name="c2i_B_256.pt")
    assert named.config["prior"]["rows"] == 128  # factor 2
    assert named.notes[-1] == "c2i_B_256.pt: by its name, for pictures of 256x256 pixels, 128x128 tokens"


# --- The command ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@torch.no_grad()
def test_zoo_import_makes_bundles_that_draw(tmp_path, monkeypatch):
    monkeypatch.setenv("ZOO_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    tensors, config = net2net()
    for folder, parts, said in (("one", tensors, config), ("codec", codec(), None), ("gpt", llamagen(), CONFIG)):
        (tmp_path / folder).mkdir()
        save_file({name: tensor.contiguous() for name, tensor in parts.items()}, f"{folder}/model.safetensors")
        if said:
            (tmp_path / folder / "config.json").write_text(json.dumps(said))
    done = zoo("import", "vqgan", "one", "--tasks", "generate", "--license", "MIT", "--out", "a")
    assert done.code == 0, done.err
    done = zoo("import", "vqgan", "codec", "--prior", "gpt", "--tasks", "generate", "--license", "MIT", "--out", "b")
    assert done.code == 0, done.err
    assert "--prior: used 25 of 25 tensors" in done.err
    parts = built(importing(codec(), None))["codec"]
    for bundle, logits, guidance in (("a", net2net_logits(tensors), None), ("b", llamagen_logits(llamagen()), 2)):
        draw = ["run", f"./{bundle}", "generate", "--label", 3, "--seed", 1, "--out", f"{bundle}.png"]
        draw += ["--guidance", guidance] if guidance else []
        assert zoo(*draw, "--top-k", 8, "--top-p", 0.9).code == 0
        assert zoo(*draw, "--top-k", 1).code == 0
        codes = likeliest(logits, torch.tensor([3]), guidance).unflatten(1, (SIDE, SIDE))
        expected = to_uint8(parts.decoder(parts.quantizer.decode(codes).permute(0, 3, 1, 2)))[0]
        difference = np.asarray(Image.open(f"{bundle}.png")).astype(int) - expected.numpy()
        assert expected.shape == (8, 8, 3) and np.abs(difference).max() <= 1
    assert zoo("run", "./a", "generate", "--out", "x.png").err.startswith("Error: generate needs --label")


# --- Recorded cases ---------------------------------------------------------------------------------------------------


@pytest.mark.shared
@torch.no_grad()
def test_the_recorded_net2net(shared_data):
    folder = shared_data / "parity" / "taming" / "net2net_class_conditional"
    checkpoint, io = foreign.read(folder), recorded(folder)
    imported = importing(dict(checkpoint.tensors), checkpoint.config)
    parts = built(imported)
    assert all(name.endswith(".attn.mask") for name in imported.unused)
    torch.testing.assert_close(parts["prior"](io["target"], io["c"]), io["logits"], rtol=1e-5, atol=1e-5)
    ones = torch.ones(len(io["c"]))
    codes = SequentialDrawing(parts["prior"])(io["c"], ones, ones, ones, io["c"])
    assert torch.equal(codes, io["greedy_codes"])
    z_q = parts["codec"].quantizer.decode(codes.unflatten(1, (4, 4))).permute(0, 3, 1, 2)
    torch.testing.assert_close(parts["codec"].decoder(z_q), io["greedy_image"], rtol=1e-4, atol=1e-4)
