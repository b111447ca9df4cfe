"""A timm network for the perceptual loss, and its training if it has no weights."""

from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from zoo.errors import InvalidFileError, UsageError
from zoo.text import one_line, safe_text

from .config import CodecSettings

Images = Float[Tensor, "batch image_channels height width"]

TURNS = 4  # quarter turns that it learns to classify on unlabelled images


class Backbone(nn.Module):
    """A timm classifier: features at several depths, and logits to train it with.

    Weights come from a file or from timm, or `loss` trains them: to classify each image's label or, if there are none,
    the quarter turns by which it was rotated (Gidaris et al. 2018, https://arxiv.org/abs/1803.07728).
    """

    def __init__(self, settings: CodecSettings, image_channels: int, num_classes: int):
        super().__init__()
        import timm

        self.scale, self.num_classes = settings.perceptual_scale, num_classes
        self.trained_here = not settings.perceptual_weights
        name = settings.perceptual_backbone
        try:
            self.network = timm.create_model(
                name,
                pretrained=settings.perceptual_weights == "timm",
                in_chans=image_channels,
                num_classes=num_classes or TURNS,
            )
        except Exception as e:
            raise UsageError(f"perceptual_backbone: timm cannot create '{safe_text(name)}': {one_line(e)}") from None
        if not hasattr(self.network, "forward_intermediates"):
            raise UsageError(f"perceptual_backbone: timm does not give features of '{safe_text(name)}'")
        if settings.perceptual_weights not in ("", "timm"):
            self._load(Path(settings.perceptual_weights))
        if not self.trained_here:
            self.freeze()

    def _load(self, path: Path) -> None:
        try:
            self.network.load_state_dict(load_file(path), strict=False)
        except (OSError, SafetensorError, RuntimeError) as e:
            raise InvalidFileError(f"perceptual_weights: {safe_text(path)} does not fit: {one_line(e)}") from None

    @property
    def origin(self) -> str:
        """What a backbone without weights is trained on."""
        return "labels of the training data" if self.num_classes else "rotations of the training data"

    def freeze(self) -> None:
        self.eval().requires_grad_(False)

    def forward(self, x: Images) -> list[Tensor]:
        """Images -1 .. 1 to one feature map [batch, channels, height, width] per depth."""
        features = cast(Any, self.network).forward_intermediates  # timm's own networks have it, not every Module
        return features(self._enlarged(x), intermediates_only=True)

    def loss(self, x: Images, labels: Int64[Tensor, " batch"], generator: torch.Generator) -> Float[Tensor, ""]:
        """Cross-entropy of the classification that trains the backbone."""
        if not self.num_classes:
            labels = torch.randint(TURNS, (len(x),), generator=generator).to(x.device)
            x = torch.stack([torch.rot90(picture, int(k), (1, 2)) for picture, k in zip(x, labels)])
        return F.cross_entropy(self.network(self._enlarged(x)), labels)

    def _enlarged(self, x: Images) -> Float[Tensor, "batch image_channels {self.scale}*height {self.scale}*width"]:
        if self.scale == 1:
            return x
        return F.interpolate(x, scale_factor=float(self.scale), mode="bilinear", align_corners=False)
