"""The denoiser: its transformer blocks are those of diffusers, and what is padding has no effect."""

import pytest
import torch
from zoo_latent.config import DenoiserConfig
from zoo_latent.denoiser import Transformer
from zoo_latent.text import Condition

from .models import made, plain


def test_a_transformer_computes_what_diffusers_does():
    from diffusers.models.transformers.transformer_2d import Transformer2DModel

    torch.manual_seed(0)
    theirs = Transformer2DModel(
        num_attention_heads=4, attention_head_dim=8, in_channels=32, norm_num_groups=8, cross_attention_dim=12,
        num_layers=2,
    ).eval()  # fmt: skip
    config = DenoiserConfig(widths=(32,), norm_groups=8, heads=4, context_width=12, transformer_depth=2)
    ours = Transformer(config, 32, 2).eval()
    names = {
        "norm1": "norm_self", "norm2": "norm_text", "norm3": "norm_feed",
        "attn1": "attend_self", "attn2": "attend_text", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj",
        "ff.net.2": "feed.proj", "transformer_blocks": "blocks",
    }  # fmt: skip
    state = {}
    for name, tensor in theirs.state_dict().items():
        for before, after in names.items():
            name = name.replace(before, after)
        if "ff.net.0.proj" in name:  # value and gate are one layer there
            for part, half in zip(("value", "gate"), tensor.chunk(2)):
                state[name.replace("ff.net.0.proj", f"feed.{part}")] = half
        else:
            state[name] = tensor.squeeze(-1).squeeze(-1) if name.startswith("proj_") and tensor.ndim == 4 else tensor
    ours.load_state_dict(state)
    x, context = torch.randn(2, 32, 4, 6), torch.randn(2, 5, 12)
    (expected,) = theirs(x, encoder_hidden_states=context, return_dict=False)
    torch.testing.assert_close(ours(x, Condition(context)), expected, rtol=1e-5, atol=1e-5)


def test_padding_of_the_text_is_not_looked_at():
    parts, _ = made(plain())
    x, t, label = torch.randn(2, 4, 8, 8), torch.tensor([10.0, 500.0]), torch.tensor([0, -1])
    context, there = torch.randn(2, 8, 16), torch.arange(8)[None] < torch.tensor([[3], [8]])
    condition = Condition(context, there, torch.randn(2, 16), label)
    expected = parts.denoiser(x, t, *condition)
    changed = context.clone()
    changed[0, 3:] += 100
    torch.testing.assert_close(parts.denoiser(x, t, *condition._replace(context=changed)), expected)
    changed[0, 2] += 1
    assert not torch.allclose(parts.denoiser(x, t, *condition._replace(context=changed))[0], expected[0])


@pytest.mark.parametrize("field", ["context", "pooled", "label"])
def test_everything_that_says_what_to_draw_has_an_effect(field):
    parts, _ = made(plain())
    x, t = torch.randn(1, 4, 8, 8), torch.tensor([100.0])
    values = {"context": torch.randn(1, 8, 16), "pooled": torch.randn(1, 16), "label": torch.tensor([0])}
    others = {"context": torch.randn(1, 8, 16), "pooled": torch.randn(1, 16), "label": torch.tensor([2])}
    there = torch.ones(1, 8, dtype=torch.bool)
    before = parts.denoiser(x, t, *Condition(there=there, **values))
    after = parts.denoiser(x, t, *Condition(there=there, **(values | {field: others[field]})))
    assert not torch.allclose(before, after, atol=1e-6)


def test_scaled_latents_have_the_measured_mean_and_deviation():
    parts, _ = made(plain())
    parts.denoiser.mean.copy_(torch.tensor([1.0, 2.0, 3.0, 4.0]))
    parts.denoiser.deviation.copy_(torch.tensor([0.5, 1.0, 2.0, 4.0]))
    z = torch.randn(2, 4, 8, 8)
    torch.testing.assert_close(parts.denoiser.scaled(z)[:, 3], (z[:, 3] - 4) / 4)
    torch.testing.assert_close(parts.denoiser.unscaled(parts.denoiser.scaled(z)), z)
