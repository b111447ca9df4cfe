"""Public checkpoints in the layouts that their projects use, as our configs and weights: a file a layout.

A layout is known by its tensors' names; the config beside it says what shapes can't: heads, sizes, schedules. Traps
that these files provide for are named where they are.
"""

from zoo.errors import InvalidFileError
from zoo.hookspecs import Imported, ImportRequest
from zoo.text import safe_text

from .adm import adm, is_adm
from .dit import dit, is_dit
from .dit_diffusers import diffusers_dit, is_diffusers_dit
from .scheduler import read_scheduler
from .unet2d import is_unet2d, unet2d


def read(request: ImportRequest) -> Imported | None:
    """The checkpoint as the family's, or None where it has none of its layouts.

    Raises:
        InvalidFileError: a layout that is known, with tensors missing, left over or of wrong shapes (all are named), or
            a config beside it that is not one of it, or that the family cannot hold.
    """
    try:
        return _read(request)
    except KeyError as e:
        what = f"the config beside it has no '{safe_text(e.args[0])}'"
    except (TypeError, ValueError, ArithmeticError, AttributeError, IndexError) as e:
        what = f"the config beside it can't be that of these weights ({safe_text(e)[:200]})"
    raise InvalidFileError(f"{safe_text(request.path)}: {what}")


def _read(request: ImportRequest) -> Imported | None:
    tensors, config = request.tensors, request.config
    if request.family == "dit":
        if is_dit(tensors):
            return dit(tensors, config)
        return diffusers_dit(tensors, config, read_scheduler(request.path)) if is_diffusers_dit(tensors) else None
    if is_adm(tensors):
        return adm(tensors, config)
    return unet2d(tensors, config, read_scheduler(request.path)) if is_unet2d(tensors) else None
