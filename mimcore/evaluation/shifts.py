"""Accuracy on shifted pools, and how far it lies below that on the clean one.

A shifted pool may have some of the classes alone, as ImageNet-A and -R have 200 of ImageNet's 1,000. Then answers are limited to the
classes that it has, there and on the clean test images of these classes, which it is compared with (Hendrycks et al. 2021, 'The
Many Faces of Robustness', section 3, and 'Natural Adversarial Examples', section 3).
"""

import math
from collections.abc import Callable, Iterable

import numpy as np
import torch
from torch import Tensor

from mimcore.evaluation.corruptions import BATCH
from mimcore.evaluation.features import ahead
from mimcore.evaluation.task import Context, Data, Metric, Value, accuracy, labels_of


def shift_metrics(pools: Iterable[str]) -> dict[str, Metric]:
    """``top1_<pool>`` and ``gap_<pool>`` of each shifted pool."""
    found = {}
    for pool in pools:
        found[f"top1_{pool}"] = Metric(f"Top-1 accuracy on {pool}")
        found[f"gap_{pool}"] = Metric(f"Top-1 accuracy lost on {pool}", higher_is_better=False, floor=None)
    return found


def limited(scores: Tensor, classes: Tensor) -> Tensor:
    """The class of the greatest score among ``classes``, int64 ``(B,)``, of ``(B, C)``."""
    return classes[scores[:, classes].argmax(dim=1)]


class Answers:
    """Answers on the clean test images, limited to the classes of each shifted pool; told the scores a batch at a time, in order."""

    def __init__(self, data: Data) -> None:
        self.classes = {pool: torch.tensor(shifted.classes) for pool, shifted in data.shifted.items()}
        self._found: dict[str, list[Tensor]] = {pool: [] for pool in self.classes}

    def add(self, scores: Tensor) -> None:
        """Take in the scores of the next images, ``(B, C)``."""
        for pool, classes in self.classes.items():
            self._found[pool].append(limited(scores, classes.to(scores.device)).cpu())

    def correct(self, pool: str, truth: Tensor) -> Tensor:
        """Which clean test images of the pool's classes are right, bool ``(n,)``; ``truth`` is of all, ``(N,)``."""
        among = torch.isin(truth, self.classes[pool])
        return torch.cat(self._found[pool])[among] == truth[among]


def shift_values(
    scores: Callable[[Tensor], Tensor], answers: Answers, data: Data, context: Context
) -> dict[str, Value]:
    """Accuracy on each shifted pool, and that on clean test images of its classes less it.

    The standard error of a gap is that of two independent sets of images.

    Args:
        scores: from uint8 ``(B, 3, H, W)`` on the device to ``(B, C)``.
        answers: on all clean test images.
        data: the shifted pools among it.
        context: device, workers and progress.
    """
    found = {}
    for pool, shifted in data.shifted.items():
        truth, classes = labels_of(shifted.images), answers.classes[pool].to(context.device)
        batches = np.split(np.arange(len(truth)), range(BATCH, len(truth), BATCH))
        given: list[Tensor] = []
        for pixels in ahead(shifted.images.get, batches, context.workers):
            given.append(limited(scores(torch.from_numpy(pixels).to(context.device)), classes).cpu())
            context.progress(pool, sum(map(len, given)), len(truth))
        top1 = accuracy(torch.cat(given) == truth)
        clean = accuracy(answers.correct(pool, labels_of(data.test)))
        found[f"top1_{pool}"] = top1
        found[f"gap_{pool}"] = Value(
            clean.value - top1.value, math.hypot(clean.standard_error or 0.0, top1.standard_error or 0.0)
        )
    return found
