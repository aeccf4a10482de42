"""mimcore: scaling studies of masked image modeling, from images to curves, laws and forecasts."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mimcore.api import LoadedRun, evaluate, load, pretrain

__version__ = "0.1.0"
__all__ = ["LoadedRun", "evaluate", "load", "pretrain"]


def __getattr__(name: str) -> Any:
    """Import the Python API when it is first asked for: ``import mimcore`` loads no torch."""
    if name in __all__:
        return getattr(import_module("mimcore.api"), name)
    raise AttributeError(f"module 'mimcore' has no attribute '{name}'")
