"""A small vocabulary in CLIP's files, made up here."""

from zoo_latent.text import PAD, VOCABULARY, learnt

ASSETS = learnt(["a red cat", "a blue cat", "a red dog in the rain", "the dog", "don't"], 560)
"""As CLIP's files, but for a token for padding, which CLIP does not have."""

__all__ = ["ASSETS", "PAD", "VOCABULARY"]
