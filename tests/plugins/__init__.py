"""The shapes that the plugins' signatures state are checked while their tests run, and only there.

Here and not in a conftest.py: other tests import modules of this package, and the hook must come before the plugins do.
"""

from pathlib import Path
from typing import Any

import torch
from beartype import BeartypeConf, beartype
from jaxtyping import config, install_import_hook

PLUGINS = Path(__file__).parents[2] / "plugins"

MODULES = [
    f"{file.parent.name}.{file.stem}"
    for file in sorted(PLUGINS.glob("*/zoo_*/*.py"))
    if "from jaxtyping import" in file.read_text(encoding="utf-8")
]
"""Those with shapes. In others, such as readers of foreign files, a check would hide what happens without it."""

check = beartype(conf=BeartypeConf(is_pep484_tower=True))  # a whole number may stand for a float, as in Python itself
install_import_hook(MODULES, f"{__name__}.check")


def _unchecked(export: Any) -> Any:
    """torch's exporter traces the plugins' code, and would trace the checks, and keep what they compare as guards."""

    def exported(*args: Any, **kwargs: Any) -> Any:
        before, config.jaxtyping_disable = config.jaxtyping_disable, True
        try:
            return export(*args, **kwargs)
        finally:
            config.jaxtyping_disable = before

    return exported


torch.export.export = _unchecked(torch.export.export)
