"""Config and training settings of judges. Does not import torch."""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from zoo.settings import TrainingSettings

Width = Annotated[int, Meta(ge=8, le=1024, multiple_of=8)]


class JudgeConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Config of the family `judge`: a small residual classifier."""

    image_channels: Literal[1, 3] = 1  # grey or RGB
    num_classes: Annotated[int, Meta(ge=2, le=10_000)] = 10
    widths: Annotated[tuple[Width, ...], Meta(min_length=1, max_length=6)] = (16, 32, 64, 112)


class JudgeSettings(TrainingSettings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings for the training of a judge."""

    warmup_steps: Annotated[int, Meta(ge=0)] = 200  # of the learning rate
    weight_decay: Annotated[float, Meta(ge=0)] = 0.02
    average_decay: Annotated[float, Meta(ge=0, lt=1)] = 0.998  # of the weights' moving average, which is published
    shift: Annotated[int, Meta(ge=0, le=64)] = 2  # most pixels by which a picture is moved, in each direction
    mirror: bool = False  # mirrors half of the pictures left to right
    label_smoothing: Annotated[float, Meta(ge=0, lt=1)] = 0.05
