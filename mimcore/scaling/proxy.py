"""Whether a validation loss can stand in for a task: correlations, over all runs and parts of them, with intervals."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special

from mimcore.scaling.statistics import Interval, spearman
from mimcore.scaling.table import Array

#: Between the quartiles of a normal distribution, in standard deviations: a few redrawn tables in perfect order have no finite z.
QUARTILES = 1.349


def pearson(x: Array, y: Array, weights: Array | None = None) -> Array:
    """Pearson's correlation, each observation counted as often as ``weights`` ``(R, N)`` say; float64 ``(R,)``, NaN without variation."""
    counts = np.ones((1, len(x))) if weights is None else weights
    total = counts.sum(axis=1, keepdims=True)
    dx = x - counts @ x[:, None] / total
    dy = y - counts @ y[:, None] / total
    norm = np.sqrt((counts * dx * dx).sum(axis=1) * (counts * dy * dy).sum(axis=1))
    covariance = (counts * dx * dy).sum(axis=1)
    return np.asarray(np.divide(covariance, norm, out=np.full_like(norm, np.nan), where=norm > 0))


def proxy(
    loss: Array,
    task: Array,
    clusters: Sequence[str],
    parts: Mapping[str, NDArray[np.bool_]],
    *,
    confidence: float,
    bootstrap: int,
    seed: int,
) -> dict[str, dict[str, Any]]:
    """Correlate a loss with a task over parts of a table.

    Intervals are of a bootstrap that draws whole clusters (Davison & Hinkley 1997, section 3.8), on Fisher's z scale about the
    estimate with Student's quantile, since percentiles are too narrow for a few clusters.

    Args:
        loss: float64 ``(N,)``.
        task: float64 ``(N,)``.
        clusters: runs that are no independent evidence share a name, such as the lengths of one model on one set of images.
        parts: name to the runs meant, bool ``(N,)``.
        confidence: coverage, such as 0.9.
        bootstrap: replicates.
        seed: seed of the draws.

    Returns:
        for each part ``pearson`` and ``spearman``: ``estimate``, ``low``, ``high``, ``count``; without ends where there are fewer
        than 4 clusters.
    """
    found = {}
    for name, kept in parts.items():
        x, y = loss[kept], task[kept]
        groups, member = np.unique(np.array(clusters)[kept], return_inverse=True)
        rng = np.random.default_rng(seed)
        drawn = rng.multinomial(len(groups), np.full(len(groups), 1 / max(len(groups), 1)), size=bootstrap)
        weights = drawn[:, member].astype(np.float64)
        found[name] = {
            key: _interval(statistic(x, y), statistic(x, y, weights), len(groups), len(x), confidence).json()
            for key, statistic in (("pearson", pearson), ("spearman", spearman))
        }
    return found


def _interval(estimate: Array, replicates: Array, clusters: int, count: int, confidence: float) -> Interval:
    value = float(estimate[0])
    z = np.arctanh(np.clip(replicates[np.isfinite(replicates)], -1 + 1e-9, 1 - 1e-9))
    if clusters < 4 or len(z) < 20 or not np.isfinite(value):
        return Interval(value, None, None, count)
    half = (
        float(special.stdtrit(clusters - 2, 0.5 + confidence / 2))
        * float(np.subtract(*np.quantile(z, [0.75, 0.25])))
        / QUARTILES
    )
    centre = float(np.arctanh(np.clip(value, -1 + 1e-9, 1 - 1e-9)))
    return Interval(value, float(np.tanh(centre - half)), float(np.tanh(centre + half)), count)
