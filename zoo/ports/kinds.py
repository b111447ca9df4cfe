"""The kinds of port that this version of zoo knows. A new kind is a file next to this one and a line here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ..errors import InvalidFileError
from ..hookspecs import Port, Task
from ..text import did_you_mean, safe_text
from .audio import Audio
from .count import Count
from .image import Image
from .kind import Form, Kind
from .label import Label
from .map import Map
from .mask import Mask
from .scalar import Scalar
from .seed import Seed
from .size import Size
from .tensor import Tensor
from .text import Text
from .tokens import Tokens, sizes_of
from .video import Video

KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Image(),
        Mask(),
        Tokens(),
        Size(),
        Label(),
        Seed(),
        Count(),
        Scalar(),
        Tensor(),
        Map(),
        Text(),
        Audio(),
        Video(),
    )
}
"""By name, in the order of docs/bundle.md."""


def kind_of(port: Port) -> Kind:
    """The kind of a port.

    Raises:
        InvalidFileError: this version of zoo does not know it.
    """
    if port.kind not in KINDS:
        raise InvalidFileError(problem(port))
    return KINDS[port.kind]


def problem(port: Port) -> str:
    """What is wrong with a declared port: an unknown kind, or not its kind's dtype or shape. Empty if nothing is."""
    if port.kind not in KINDS:
        near = did_you_mean(port.kind, KINDS)
        return f"there is no kind '{safe_text(port.kind)}'{near or ';'} the kinds are {', '.join(KINDS)}"
    return KINDS[port.kind].problem(port)


def tile_problem(task: Task) -> str:
    """Why a task that has a tile cannot run in tiles, for ports that have no problem. Empty if it can, or has none.

    Tiles are cut out of what it takes and joined to what it gives; only the sizes of pictures are known without them.
    """
    if task.tile is None:
        return ""
    covering = {
        name: port for name, port in (task.inputs | task.outputs).items() if kind_of(port).pixels_a_step(task.tile)
    }
    if not covering.keys() & task.inputs.keys():
        return "takes no pictures or tokens"
    if others := task.outputs.keys() - covering.keys() - {*sizes_of(task.outputs)}:
        return f"gives '{min(others)}', which does not cover a picture"
    if fixed := [name for name, port in covering.items() if not all(isinstance(d, str) for d in port.shape[1:3])]:
        return f"'{fixed[0]}' has a fixed size"
    return ""


def drawn(ports: Mapping[str, Port]) -> list[str]:
    """The names of the ports for which hosts draw a value if none is given: seeds."""
    return [name for name, port in ports.items() if kind_of(port).drawn]


def forms() -> Iterable[Form]:
    """All forms in which outputs become files."""
    return dict.fromkeys(kind.form for kind in KINDS.values())
