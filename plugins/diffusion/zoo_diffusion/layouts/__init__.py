"""Reads public checkpoints in their projects' layouts into our configs and weights: one file per layout.

A layout is recognised by its tensors' names and by the class that its config names, which must be one that the layout's
file knows: other classes have the same tensors. The config also gives what shapes do not show: heads, sizes, schedules.
Pitfalls are described where they are handled.
"""

from zoo.errors import InvalidFileError
from zoo.hookspecs import Imported, ImportRequest
from zoo.text import one_line, safe_text

from .adm import adm, is_adm
from .dit import dit, is_dit
from .dit_diffusers import diffusers_dit, is_diffusers_dit
from .unet2d import is_unet2d, unet2d


def read(request: ImportRequest) -> Imported | None:
    """The checkpoint as config and weights of the family, or None if it has none of the family's layouts.

    Raises:
        InvalidFileError: a known layout with tensors that are missing, unexpected or of the wrong shape (all are
        named),
            or with a config that does not belong to it or that the family does not support.
    """
    try:
        return _read(request)
    except KeyError as e:
        what = f"its config has no '{safe_text(e.args[0])}'"
    except (TypeError, ValueError, ArithmeticError, AttributeError, IndexError) as e:
        what = f"its config does not belong to these weights ({one_line(e)})"
    raise InvalidFileError(f"{safe_text(request.path)}: {what}")


def _read(request: ImportRequest) -> Imported | None:
    tensors, config = request.tensors, request.config
    if request.family == "dit":
        if is_dit(tensors):
            return dit(tensors, config, request.layout)
        return diffusers_dit(tensors, config, request.path) if is_diffusers_dit(tensors) else None
    if is_adm(tensors):
        return adm(tensors, config)
    return unet2d(tensors, config, request.path) if is_unet2d(tensors) else None
