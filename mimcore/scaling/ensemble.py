"""Refits of a law to studies that might have come out instead: thousands, as one batch."""

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import special

from mimcore.scaling.law import ScalingLaw, Variables
from mimcore.scaling.observations import Observations
from mimcore.scaling.solve import solve
from mimcore.scaling.table import Array

#: No deviate moves a point by more than this on the log scale; beyond it every law is lost anyway.
LIMIT = 2.0
#: Cells that scatter about the law no more than their seeds explain, by an F test with a p-value above this, are taken to follow it:
#: a difference of variances that can only be positive would else be too large on average (Bancroft 1964, for this test's level).
POOLED = 0.25


def redraw(
    law: ScalingLaw,
    rows: Observations,
    variables: Variables,
    log_y: Array,
    parameters: Array,
    delta: float,
    resample: Literal["residuals", "runs"],
    count: int,
    seed: int,
) -> Array:
    """Return ``(count, P)`` refitted parameters in the scaled units of ``variables``; each starts from ``parameters``.

    ``runs`` draws cells with replacement, and rows within each (the bootstrap of pairs in two stages; Davison & Hinkley
    1997, section 3.8). ``residuals`` keeps the points and draws the noise (see ``noise``).
    """
    rng = np.random.default_rng(seed)
    cell = rows.cells(law)
    starts = np.repeat(parameters[None], count, axis=0)
    if resample == "runs":
        return solve(law, variables, log_y, starts, delta=delta, weights=_weights(cell, count, rng)).parameters
    value, slope = law.slopes(parameters[None], variables)
    fitted = np.log(value[0])
    # The noise is judged by least squares, whose residuals' variance is known for n - P degrees of freedom; a robust fit's is larger.
    squares = solve(law, variables, log_y, parameters[None], delta=np.inf).parameters
    residuals = log_y - np.log(law.predict(squares, variables)[0])
    drawn = fitted + noise(residuals, slope[:, 0].T, cell, count, rng)
    return solve(law, variables, drawn, starts, delta=delta).parameters


def noise(residuals: Array, slopes: Array, cell: NDArray[np.int64], count: int, rng: np.random.Generator) -> Array:
    """Draw ``(count, N)`` deviations of log y from the law, in two levels.

    Rows of one cell scatter about the cell's mean (seeds), and the means scatter about the law by more than their seeds
    explain (the law is not exact). Both variances come from the analysis of variance; each replicate draws them from
    their own sampling distribution (scaled inverse chi-squared), so that intervals widen as Student's t does where there
    are few runs.

    Args:
        residuals: of log y, float64 ``(N,)``.
        slopes: of log law along the parameters, float64 ``(N, P)``.
        cell: of each row, int64 ``(N,)``.
        count: R.
        rng: source of the draws.
    """
    cells = int(cell.max()) + 1
    runs = np.bincount(cell).astype(np.float64)
    rank = int(np.linalg.matrix_rank(slopes / np.maximum(np.linalg.norm(slopes, axis=0), 1e-300), tol=1e-6))
    freedom_seeds, freedom_cells = len(residuals) - cells, cells - rank
    means = np.bincount(cell, residuals) / runs
    within = float(np.sum((residuals - means[cell]) ** 2)) / max(freedom_seeds, 1)
    between = float(np.sum(runs * means**2)) / freedom_cells if freedom_cells > 0 else within
    misfit = max(0.0, between - within) / float(np.mean(runs)) if freedom_seeds else between
    if (
        freedom_seeds
        and freedom_cells > 0
        and special.fdtrc(freedom_cells, freedom_seeds, between / max(within, 1e-300)) > POOLED
    ):
        freedom_pooled = freedom_seeds + freedom_cells
        within, misfit = (within * freedom_seeds + between * freedom_cells) / freedom_pooled, 0.0
        freedom_seeds = freedom_pooled
    drawn = np.zeros((count, len(residuals)))
    if freedom_seeds:
        drawn += _deviates(within, freedom_seeds, count, len(residuals), rng)
    if freedom_cells > 0 and misfit > 0:
        drawn += _deviates(misfit, freedom_cells, count, cells, rng)[:, cell]
    return np.clip(drawn, -LIMIT, LIMIT)


def _deviates(variance: float, freedom: int, count: int, points: int, rng: np.random.Generator) -> Array:
    spread = np.sqrt(variance * freedom / np.maximum(rng.chisquare(freedom, size=(count, 1)), 1e-12))
    return np.asarray(spread * rng.standard_normal((count, points)))


def _weights(cell: NDArray[np.int64], count: int, rng: np.random.Generator) -> Array:
    """How often each row is drawn, ``(count, N)``."""
    cells = int(cell.max()) + 1
    chosen = rng.multinomial(cells, np.full(cells, 1 / cells), size=count)
    weights = np.zeros((count, len(cell)))
    for number in range(cells):
        members = np.flatnonzero(cell == number)
        weights[:, members] = rng.multinomial(chosen[:, number] * len(members), np.full(len(members), 1 / len(members)))
    return weights
