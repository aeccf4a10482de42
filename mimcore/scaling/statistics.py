"""Small-sample statistics: Student's intervals over seeds, and rank correlation."""

from dataclasses import dataclass

import numpy as np
from scipy import special

from mimcore.scaling.table import Array


@dataclass(frozen=True)
class Interval:
    """An estimate and its confidence interval; ``low`` and ``high`` are None where there is none."""

    estimate: float
    low: float | None
    high: float | None
    count: int

    def json(self) -> dict[str, float | int | None]:
        """Return the interval as it stands in ``fit.json``."""
        return {
            "estimate": tidy(self.estimate),
            "low": tidy(self.low),
            "high": tidy(self.high),
            "count": self.count,
        }


def student(values: Array, confidence: float) -> Interval:
    """Mean of ``values`` with Student's t interval (Student 1908); one value has no interval.

    Args:
        values: float64 ``(K,)``, one per seed.
        confidence: coverage, such as 0.95.
    """
    count = len(values)
    mean = float(np.mean(values))
    if count < 2:
        return Interval(mean, None, None, count)
    half = student_quantile(count - 1, confidence) * float(np.std(values, ddof=1)) / count**0.5
    return Interval(mean, mean - half, mean + half, count)


def student_quantile(degrees: int, confidence: float) -> float:
    """How many standard errors a two-sided interval of Student's t reaches."""
    return float(special.stdtrit(degrees, 0.5 + confidence / 2))


def spearman(x: Array, y: Array, weights: Array | None = None) -> Array:
    """Spearman's rank correlation (Spearman 1904), ties at their mean rank.

    Args:
        x: float64 ``(N,)``.
        y: float64 ``(N,)``.
        weights: how often each observation counts, whole numbers as float64 ``(R, N)``; once each if not given.

    Returns:
        float64 ``(R,)``; NaN where x or y does not vary.
    """
    counts = np.ones((1, len(x))) if weights is None else weights
    ranks_x, ranks_y = _ranks(x, counts), _ranks(y, counts)
    total = counts.sum(axis=1, keepdims=True)
    dx = ranks_x - (counts * ranks_x).sum(axis=1, keepdims=True) / total
    dy = ranks_y - (counts * ranks_y).sum(axis=1, keepdims=True) / total
    norm = np.sqrt((counts * dx * dx).sum(axis=1) * (counts * dy * dy).sum(axis=1))
    covariance = (counts * dx * dy).sum(axis=1)
    return np.asarray(np.divide(covariance, norm, out=np.full_like(norm, np.nan), where=norm > 0))


def tidy(value: float | None) -> float | None:
    """Keep eight significant digits: what a change in the order of a sum cannot reach."""
    return None if value is None or not np.isfinite(value) else float(f"{value:.8g}")


def _ranks(values: Array, counts: Array) -> Array:
    """Mean ranks ``(R, N)`` of ``values`` where each stands ``counts`` times."""
    below = (values[:, None] > values[None, :]).astype(np.float64)
    equal = (values[:, None] == values[None, :]).astype(np.float64)
    return np.asarray(counts @ below.T + (counts @ equal.T + 1) / 2)
