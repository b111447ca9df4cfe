"""A registry of generative models that run without PyTorch, one ONNX graph per task.

    import zoo

    zoo.models()
    model = zoo.load("vqvae-fashion")
    again = model.reconstruct(image="shoe.png")["reconstruction"]  # uint8 [batch, height, width, channels]

Importing this package is fast: numpy and ONNX Runtime are imported by the first call. It sets one environment variable,
which turns ONNX Runtime's telemetry off in this process and those that it starts.
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .errors import ZooError
    from .run.model import Model, load
    from .run.results import Outputs
    from .store.listing import models

__all__ = ["Model", "Outputs", "ZooError", "__version__", "load", "models"]
__version__ = "0.1.0"

# ONNX Runtime 1.30 and newer write a device id into the home folder and send usage data. It reads this variable once,
# when it is imported: its `disable_telemetry_events` comes too late for both. A value of the user's own stays.
os.environ["ORT_DISABLE_TELEMETRY"] = os.environ.get("ORT_DISABLE_TELEMETRY") or "1"

_HOME = {
    "Model": "run.model",
    "Outputs": "run.results",
    "ZooError": "errors",
    "load": "run.model",
    "models": "store.listing",
}


def __getattr__(name: str) -> Any:
    """Public names are imported when they are used (PEP 562)."""
    if name in _HOME:
        return getattr(import_module(f".{_HOME[name]}", __name__), name)
    raise AttributeError(f"module 'zoo' has no attribute '{name}'")


def __dir__() -> list[str]:
    return __all__
