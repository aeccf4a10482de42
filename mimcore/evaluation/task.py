"""What a task is given and what it returns."""

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, Generic, Literal, Protocol, TypeVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from mimcore.data.loader import Encoded
from mimcore.definition import Definition
from mimcore.errors import UserError

Precision = Literal["float32", "bfloat16"]

#: ``mean`` over the patches (MAE's global pooling, He et al. 2022, appendix A.1) or the class token (``cls``).
Pooling = Literal["mean", "cls"]

#: What a task wants to know of every image of its pool.
Needs = Literal["labels", "boxes", "masks", "clips", "tags", "captions"]


class NotApplicable(Exception):  # noqa: N818
    """A task has nothing to say of a subject, such as zero-shot of a run without a text tower; in one sentence. No error."""


@dataclass(frozen=True)
class Metric:
    """What a number means, for laws and plots.

    Attributes:
        label: for axes, such as ``Top-1 accuracy``.
        higher_is_better: the direction of progress.
        unit: ``fraction`` (0 to 1) or ``nats``.
        floor: value that no model goes below, or that of guessing where it is known beforehand; None if unknown.
        ceiling: value that no model exceeds; None if unbounded.
    """

    label: str
    higher_is_better: bool = True
    unit: str = "fraction"
    floor: float | None = 0.0
    ceiling: float | None = 1.0


def metrics_of(task: ModuleType, options: Mapping[str, Any]) -> dict[str, Metric]:
    """What a task measures: its ``METRICS`` and, where it has ``more_metrics``, those that its options add."""
    more = getattr(task, "more_metrics", None)
    return {**task.METRICS, **(more(options) if more else {})}


@dataclass(frozen=True)
class Value:
    """A measured number with the standard error that comes from the finite test set; None where unknown."""

    value: float
    standard_error: float | None = None


class Rows(Protocol):
    """What is known of some images."""

    @property
    def rows(self) -> Any:
        """Rows of the index, a ``pyarrow.Table``."""


class Images(Encoded, Protocol):
    """The images of one split of a pool, as ``mimcore.data`` offers them; safe to call from several threads."""

    @property
    def rows(self) -> Any:
        """Rows of the index, a ``pyarrow.Table``."""

    def __len__(self) -> int: ...

    def get(self, positions: np.ndarray) -> np.ndarray:
        """Decode to uint8 ``(B, C, H, W)``."""

    def raw(self, position: int) -> np.ndarray:
        """Decode to uint8 ``(3, H, W)``, at the original size."""


R = TypeVar("R", bound=Rows, covariant=True)


@dataclass(frozen=True)
class Parts(Generic[R]):
    """What is trained and tested on, in whatever form.

    Attributes:
        train: part of the pool's ``train`` split.
        test: part of the pool's ``val`` split.
        classes: names of the values of ``label``, where the pool knows them.
        box_classes: names of the values of ``box_labels``, where the pool knows them.
    """

    train: R
    test: R
    classes: list[str] | None = None
    box_classes: list[str] | None = None


@dataclass(frozen=True)
class ShiftedImages:
    """Images of another pool, to test on.

    Attributes:
        images: ``label`` is the number that the task's own pool gives a class.
        classes: the numbers of the classes that the other pool has, ascending.
    """

    images: Images
    classes: list[int]


@dataclass(frozen=True)
class Data(Parts[Images]):
    """The images that a task trains and tests on.

    Attributes:
        shifted: images of the other pools that the task names, by their names.
    """

    shifted: Mapping[str, ShiftedImages] = field(default_factory=dict)


def _silent(what: str, done: int, total: int) -> None:
    """Report nothing."""


@dataclass(frozen=True)
class Context:
    """Where and how a task runs.

    Attributes:
        device: where the tensors live.
        seed: of every random number that the task draws.
        folder: for pictures; it exists.
        where: dotted path of the task's options, for error messages.
        workers: threads that decode images ahead; 0 decodes in the calling thread.
        cache_mib: memory for decoded images, MiB.
        progress: called with what is being done, images done and images in all.
        run: folder of the run whose encoder it is, for what lies beside the encoder; None of an untrained model and of pixels.
    """

    device: torch.device
    seed: int
    folder: Path
    where: str = "tasks"
    workers: int = 1
    cache_mib: int = 1024
    progress: Callable[[str, int, int], None] = field(default=_silent)
    run: Path | None = None


class TaskConfig(Definition):
    """Options of every task."""

    #: Name of the pool whose ``train`` split is trained on and whose ``val`` split is tested on.
    pool: str
    #: Images to train on, a random part of the split that is the same for every run; all if not given.
    train_images: int | None = Field(None, ge=1)
    #: Images to test on, likewise.
    test_images: int | None = Field(None, ge=1)


def seed_number(*parts: str) -> int:
    """Map a text such as ``("s0", "linear")`` to a seed in [0, 2^63), the same on every machine."""
    return int.from_bytes(hashlib.sha256("\0".join(parts).encode()).digest()[:8], "big") >> 1


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed torch's and numpy's global generators inside the block, and put them back afterwards.

    Initial weights, drop path and timm's mixup draw from the global generators.
    """
    numpy_state = np.random.get_state()  # noqa: NPY002
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002
        try:
            yield
        finally:
            np.random.set_state(numpy_state)  # noqa: NPY002


def labels_of(images: Rows) -> Tensor:
    """Classes of all images, int64 ``(N,)``."""
    return torch.tensor(images.rows["label"].to_numpy(), dtype=torch.int64)


def class_count(data: Parts[Rows], where: str) -> int:
    """Count the classes: the pool's names, or one more than the largest label where it names none.

    Raises:
        UserError: a label is negative or has no name.
    """
    both = torch.cat([labels_of(data.train), labels_of(data.test)])
    low, high = int(both.min()), int(both.max())
    count = len(data.classes) if data.classes else high + 1
    if low < 0 or high >= count:
        wrong = low if low < 0 else high
        raise UserError(f"{where}: label {wrong} is outside 0 to {count - 1}; mend the labels of the pool.")
    return count


def accuracy(correct: Tensor) -> Value:
    """Share of correct answers with its binomial standard error, from bool ``(N,)``."""
    share = float(correct.double().mean())
    return Value(share, math.sqrt(share * (1 - share) / len(correct)))
