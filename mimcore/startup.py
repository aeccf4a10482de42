"""What a process of mimcore does before it loads torch."""

import atexit
import gc
import logging
import os
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder

#: Read by OpenMP when torch is loaded: wait less than it would by default. docs/performance.md has what this gives.
OPENMP = {"GOMP_SPINCOUNT": "10000"}


#: New objects between two looks for garbage that refers to itself; by default 700, and loading torch makes a million that stay.
NEW_OBJECTS = 10_000


def prepare() -> None:
    """Tell OpenMP how long to wait, leave Triton out where there is no GPU, and look for garbage less; only for a process that is ours."""
    for name, value in OPENMP.items():
        os.environ.setdefault(name, value)
    sys.meta_path.insert(0, WithoutTriton())
    gc.set_threshold(NEW_OBJECTS)
    atexit.register(gc.freeze)  # the memory is given back whole: going through all that torch leaves takes 0.9 s
    logging.getLogger("torch.utils.flop_counter").setLevel(
        logging.ERROR
    )  # it warns of the kernels of Triton that it cannot count


class WithoutTriton(MetaPathFinder):
    """Says that Triton is not installed, where no GPU could run it: torch loads it for itself, which takes 90 MiB."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: object = None) -> None:
        """Find nothing.

        Raises:
            ModuleNotFoundError: the module is Triton, and torch, which is loaded, sees no GPU.
        """
        accelerator = sys.modules.get("torch.accelerator")
        if name == "triton" and accelerator is not None and not accelerator.is_available():
            raise ModuleNotFoundError("Triton is left out: this machine has no GPU.", name=name)
