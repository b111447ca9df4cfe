"""Config and training settings of judges. Does not import torch."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from zoo.errors import UsageError
from zoo.settings import TrainingSettings, read

Width = Annotated[int, Meta(ge=8, le=1024, multiple_of=8)]


class LabelConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A label that the data have under a name of its own."""

    name: Annotated[str, Meta(pattern=r"^[a-z][a-z0-9_]*$")]  # of the data's array, and of the port
    classes: Annotated[tuple[Annotated[str, Meta(max_length=100)], ...], Meta(min_length=2)]


class JudgeConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Config of the family `judge`: a small residual classifier."""

    image_channels: Literal[1, 3] = 1  # grey or RGB
    num_classes: Annotated[int, Meta(ge=2, le=10_000)] = 10  # of all labels together
    labels: tuple[LabelConfig, ...] = ()  # those with names; empty: the data's only label
    patch_size: Literal[1, 2, 4] = 1  # pixels on a side that the first layer takes as channels of one position
    widths: Annotated[tuple[Width, ...], Meta(min_length=1, max_length=6)] = (16, 32, 64, 112)

    @property
    def sizes(self) -> dict[str, int]:
        """Number of classes of each label, by name."""
        return {label.name: len(label.classes) for label in self.labels} or {"label": self.num_classes}


def read_config(config: Mapping[str, Any]) -> JudgeConfig:
    """The complete config of a judge.

    Raises:
        UsageError: a field is wrong, or does not fit another one.
    """
    c = read(JudgeConfig, config, "judge config")
    if not c.labels:
        return c
    taken = {"image"} | {f"{name}_probabilities" for name in c.sizes}  # the other ports
    if len(c.sizes) < len(c.labels) or taken & c.sizes.keys():
        names = ", ".join(label.name for label in c.labels)
        raise UsageError(
            f"judge config: the names in labels are {names}; they must differ, and none may be 'image' or another one's"
            " with '_probabilities'"
        )
    number = sum(c.sizes.values())
    if config.get("num_classes", number) != number:
        raise UsageError(f"judge config: num_classes is {c.num_classes}; the labels have {number} classes together")
    return msgspec.structs.replace(c, num_classes=number)


class JudgeSettings(TrainingSettings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings for the training of a judge."""

    warmup_steps: Annotated[int, Meta(ge=0)] = 200  # of the learning rate
    weight_decay: Annotated[float, Meta(ge=0)] = 0.02
    average_decay: Annotated[float, Meta(ge=0, lt=1)] = 0.998  # of the weights' moving average, which is published
    shift: Annotated[int, Meta(ge=0, le=64)] = 2  # most pixels by which a picture is moved, in each direction
    mirror: bool = False  # mirrors half of the pictures left to right
    colour: Annotated[float, Meta(ge=0, le=1)] = 0.0  # most by which a channel's darkness changes, as a share of it
    precision: Literal["float32", "bfloat16"] = "float32"  # of the network's products while it trains
    label_smoothing: Annotated[float, Meta(ge=0, lt=1)] = 0.05
