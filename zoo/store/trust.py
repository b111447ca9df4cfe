"""Which models run in the process that asked, and which in a worker process.

Those of the default registry (`zoo.store.default`: whatever distribution brings one, it has the digest that zoo lists),
those of registries that were added with `zoo registry add --in-process`, and those
that this user's own `train`, `build` or `import` wrote run in this process. Every other one is a stranger's: its graphs
can crash ONNX Runtime, never end, or take all memory.

made/<digest of model.yaml>     a model that was made here; empty
"""

import os
import re
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from ..errors import StoreError, UsageError
from ..system.places import DEFAULT, home
from ..text import safe_text, warn

if TYPE_CHECKING:
    from ..formats.registry import Registry


def runs_apart(isolated: bool | None, trusted: Callable[[], bool]) -> bool:
    """Whether a model runs in a worker process.

    Args:
        isolated: what the caller asked for; None: what `ZOO_ISOLATE` says (1: always, 0: never), else whether the model
            is a stranger's.
        trusted: called only if nobody has decided.

    Raises:
        UsageError: ZOO_ISOLATE is something else.
    """
    if isolated is not None:
        return isolated
    chosen = os.environ.get("ZOO_ISOLATE", "")
    if chosen not in ("", "0", "1"):
        raise UsageError(f"ZOO_ISOLATE is '{safe_text(chosen)}'; it must be 1 (always) or 0 (never)")
    return chosen == "1" if chosen else not trusted()


def is_trusted(registry: "Registry") -> bool:
    """Whether a registry's models run in this process: it is the default one, or its user marked it."""
    if registry.name == DEFAULT:
        return True
    from .catalogue import in_process

    return in_process(registry.name, registry.url)


def was_made_here(digest: str) -> bool:
    """Whether `remember` was called with this digest."""
    with suppress(OSError, StoreError):  # there may be no home folder, or none that can be read
        return bool(re.fullmatch("[0-9a-f]{64}", digest)) and (home() / "made" / digest).is_file()
    return False


def remember(digest: str) -> None:
    """Records a bundle that was made on this machine. Where the store cannot be written, says so in one line: the
    bundle then runs in a worker process, like a stranger's."""
    try:
        folder = home() / "made"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / digest).touch()
    except (OSError, StoreError) as e:
        warn("the store cannot be written, so this model will run in a worker process: %s", safe_text(e))
