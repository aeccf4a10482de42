"""Whether two ways of doing a thing come to the same, within a stated margin."""

from typing import NamedTuple

import numpy as np
from scipy import special

from mimcore.errors import UserError
from mimcore.scaling.table import Array


class Equivalence(NamedTuple):
    """``difference`` of means (first minus second) with the interval of 1 - 2 alpha, ``p_value``, and whether it is ``equivalent``."""

    difference: float
    low: float
    high: float
    p_value: float
    equivalent: bool


def tost(first: Array, second: Array, margin: float, *, paired: bool = False, alpha: float = 0.05) -> Equivalence:
    """Two one-sided tests (Schuirmann 1987), by Student's t for pairs, by Welch's for independent runs.

    The larger of the two p-values is that of 'they differ by the margin or more'; refusing it at ``alpha`` is the same as the interval of
    1 - 2 alpha lying within the margin. Not to refuse it is no proof of a difference.

    Args:
        first: float64 ``(N,)``, such as a strategy's scores over seeds.
        second: float64 ``(M,)``; of the same seeds in the same order if paired.
        margin: the difference that would matter, positive, in the metric's unit; to be stated before looking.
        paired: whether rows of both belong together.
        alpha: level of each test.

    Raises:
        UserError: fewer than two runs of each, pairs of unequal number, or a margin that is not positive.
    """
    if margin <= 0:
        raise UserError(
            f"the margin of an equivalence test is {margin:g}; state the difference that would matter, above 0."
        )
    if min(len(first), len(second)) < 2 or (paired and len(first) != len(second)):
        raise UserError(
            f"an equivalence test of {len(first)} and {len(second)} runs is impossible; give two or more of each (as many, if paired)."
        )
    if paired:
        differences = first - second
        freedom = float(len(differences) - 1)
        error = float(np.std(differences, ddof=1) / len(differences) ** 0.5)
    else:
        parts = [np.var(values, ddof=1) / len(values) for values in (first, second)]
        error = float(np.sqrt(sum(parts)))
        below = sum(part**2 / (len(values) - 1) for part, values in zip(parts, (first, second), strict=True))
        freedom = float(sum(parts) ** 2 / below) if below > 0 else float(len(first) + len(second) - 2)
    difference = float(first.mean() - second.mean())
    half = float(special.stdtrit(freedom, 1 - alpha)) * error
    nearest = margin - abs(difference)
    p_value = float(special.stdtr(freedom, -nearest / error)) if error > 0 else float(nearest <= 0)
    return Equivalence(difference, difference - half, difference + half, p_value, p_value < alpha)
