"""CLIP's text encoder against transformers'."""

import json

import pytest
import torch
from zoo_latent.clip import Clip
from zoo_latent.config import ClipConfig, WordsConfig, read_config
from zoo_latent.layouts import text_weights
from zoo_latent.text import tokenizer

from zoo.build.keys import Keys
from zoo.errors import InvalidFileError

from .clip_files import ASSETS, PAD, VOCABULARY

TEXTS = ("a red cat in the rain", "Don't!", "")


def _bytes(texts, length=64):
    rows = [list(text.encode()) for text in texts]
    return torch.tensor([row + [0] * (length - len(row)) for row in rows], dtype=torch.uint8)


@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
@pytest.mark.parametrize("padding", ["", PAD])
def test_same_as_transformers(activation, padding):
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(0)
    size = len(json.loads(ASSETS[VOCABULARY]))
    c = ClipConfig(
        vocabulary=size, length=16, width=32, hidden=48, depth=2, heads=4, activation=activation, padding=padding
    )
    ours = Clip(c, ASSETS)
    theirs = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=size,
            max_position_embeddings=16,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            hidden_act=activation,
            bos_token_id=ours.tokenize.start,
            eos_token_id=ours.tokenize.end,
            pad_token_id=ours.tokenize.padding,
        )
    ).eval()
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    keys = Keys({f"text_encoder.{name}": tensor for name, tensor in theirs.state_dict().items()})
    text_weights(keys, c.depth)
    state, _ = keys.finish(torch.nn.ModuleDict({"text": _Weights(ours)}), unused=("*position_ids",))
    ours.load_state_dict({name.removeprefix("text."): tensor for name, tensor in state.items()}, strict=False)
    tokens = ours.tokenize(_bytes(TEXTS))
    with torch.no_grad():
        expected, found = theirs(input_ids=tokens), ours(_bytes(TEXTS))
    torch.testing.assert_close(found.context, expected.last_hidden_state, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(found.pooled, expected.pooler_output, atol=1e-5, rtol=1e-4)
    assert found.there.all()  # padding is looked at, as in the pipeline


class _Weights(torch.nn.Module):
    """An encoder without its tokenizer, whose tables are not among another project's tensors."""

    def __init__(self, clip):
        super().__init__()
        self.token, self.place, self.blocks, self.norm = clip.token, clip.place, clip.blocks, clip.norm


def test_a_vocabulary_without_merges_is_refused_in_one_line():
    with pytest.raises(InvalidFileError, match=r"^the model's text needs merges\.txt, which is not one of its files$"):
        tokenizer({VOCABULARY: ASSETS[VOCABULARY]}, 77, 600)


def test_a_vocabulary_larger_than_the_encoder_is_refused():
    with pytest.raises(InvalidFileError, match="and the encoder 514 tokens"):
        tokenizer(ASSETS, 77, 514)


def test_a_text_without_a_kind_is_one_of_words():
    """Configs that were written before there were two kinds."""
    codec = {"widths": [8, 8], "norm_groups": 4}
    network = {"widths": [32], "attention_levels": [], "image_size": 8}
    c, _ = read_config({"codec": codec, "text": {"width": 32}, "network": network})
    assert isinstance(c.text, WordsConfig)
    c, _ = read_config({"codec": codec, "text": {"kind": "clip", "width": 48}, "network": network})
    assert isinstance(c.text, ClipConfig)
    assert (c.network.context_width, c.network.pooled_width) == (48, 0)
