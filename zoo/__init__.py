"""A registry of generative models that run without PyTorch, one ONNX graph per task.

    import zoo

    model = zoo.load("vqvae-fashion")
    again = model.reconstruct(image=pictures)["reconstruction"]  # uint8 [batch, height, width, channels]

Importing this package is fast: numpy and ONNX Runtime are imported by the first call.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .errors import ZooError
    from .run.model import Model, load

__all__ = ["Model", "ZooError", "__version__", "load"]
__version__ = "0.1.0"

_HOME = {"Model": "run.model", "ZooError": "errors", "load": "run.model"}


def __getattr__(name: str) -> Any:
    """Public names are imported when they are used (PEP 562)."""
    if name in _HOME:
        return getattr(import_module(f".{_HOME[name]}", __name__), name)
    raise AttributeError(f"module 'zoo' has no attribute '{name}'")


def __dir__() -> list[str]:
    return __all__
