"""A few images of each class, drawn at random several times: what the few-shot tasks share (Singh et al. 2023, section 4.4).

The draws are the same for every run and every such task, so that two of them are compared on the same images, and nested over the
number of shots.
"""

import math
from collections.abc import Callable

import numpy as np
from pydantic import Field, field_validator

from mimcore.definition import Definition
from mimcore.errors import UserError
from mimcore.evaluation.task import Context, Metric, Value, seed_number

#: Images of a class that may be asked for; the first of these that a study has is its headline.
SHOTS = (10, 5, 1, 2, 4, 8, 16)


class ShotsOptions(Definition):
    """Options that say which images are drawn."""

    #: Images of each class (Singh et al. 2023, table 4).
    shots: tuple[int, ...] = (1, 5, 10)
    #: Draws of the images (5: ibid., section 4.4).
    draws: int = Field(5, ge=2)

    @field_validator("shots")
    @classmethod
    def _offered(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if not value or not set(value) <= set(SHOTS) or len(set(value)) < len(value):
            raise ValueError(f"each must be one of {', '.join(map(str, sorted(SHOTS)))}, named once")
        return value


def metrics(of: str = "") -> dict[str, Metric]:
    """An accuracy for each number of shots, ``top1_<shots>``; ``of`` ends its label."""
    return {f"top1_{shots}": Metric(f"Top-1 accuracy from {shots} images of each class{of}") for shots in SHOTS}


def draw(labels: np.ndarray, shots: int, number: int) -> np.ndarray:
    """Choose images at random, the same number of each class; a class that has fewer gives all that it has.

    Args:
        labels: int64 ``(N,)``.
        shots: images of a class.
        number: of the draw; of one number, the images of fewer shots are among those of more.

    Returns:
        Positions, ascending, int64.
    """
    order = np.random.default_rng(seed_number("fewshot", str(number))).permutation(len(labels))
    chosen = [order[labels[order] == label][:shots] for label in np.unique(labels)]
    return np.sort(np.concatenate(chosen))


def over_draws(
    options: ShotsOptions,
    labels: np.ndarray,
    measure: Callable[[np.ndarray, int, int], float],
    context: Context,
    source: str,
) -> dict[str, Value]:
    """Mean over the draws, and its standard error, for each number of shots.

    Args:
        options: shots and draws.
        labels: of the training images, int64 ``(N,)``.
        measure: from the positions of a draw, its shots and its number to an accuracy.
        context: where, and progress.
        source: dotted path of the definition that says how many training images there are.

    Raises:
        UserError: no class has as many training images as the least number of shots.
    """
    most, least = int(np.bincount(labels).max()), min(options.shots)
    if most < least:
        raise UserError(
            f"{context.where}.shots: {least} images of each class are asked for, and no class has more than {most}; "
            f"raise train_images of {source}."
        )
    found: dict[str, Value] = {}
    for shots in options.shots:
        shares = []
        for number in range(options.draws):
            shares.append(measure(draw(labels, shots, number), shots, number))
            context.progress("draws", len(found) * options.draws + len(shares), len(options.shots) * options.draws)
        error = float(np.std(shares, ddof=1)) / math.sqrt(options.draws)
        found[f"top1_{shots}"] = Value(float(np.mean(shares)), error)
    return found
