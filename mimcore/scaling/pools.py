"""Runs on images of several pools: each pool but one has a level of its own in every law, if the runs can tell it."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mimcore.errors import UserError
from mimcore.scaling.covariate import Shifted, with_covariates
from mimcore.scaling.estimate import Fit, Options, fit_law
from mimcore.scaling.law import ScalingLaw
from mimcore.scaling.observations import Observations
from mimcore.scaling.table import POOL, Array, Run

#: What the name of a pool's indicator starts with.
PREFIX = "pool_"
#: A slope that the others make up to this part of its length is no slope of its own; rounding is far below it.
OWN_SLOPE = 1e-4
#: What takes all pools for one.
ALIKE = "set 'pools: alike' under 'fit' (for a table: leave 'pool' out of its mapping)"


def levels(pools: Sequence[str | None]) -> tuple[str, ...]:
    """The pools of some runs, the one whose level the law has first: that of most runs, of as many the first by name.

    Args:
        pools: of each run; None or empty where it is not known, which is taken for the first.
    """
    counts = Counter(pool for pool in pools if pool)
    return tuple(sorted(counts, key=lambda pool: (-counts[pool], pool)))


def by_pool(runs: Sequence[Run]) -> dict[str | None, tuple[Run, ...]]:
    """Runs of each pool, that with the most first; all of them under None where one is known. Of an unknown pool: of the first."""
    pools = levels([run.pool for run in runs])
    if not pools[1:]:
        return {None: tuple(runs)}
    return {pool: tuple(run for run in runs if (run.pool or pools[0]) == pool) for pool in pools}


def levelled(rows: Observations) -> Observations:
    """Rows with an indicator of 0 and 1 for each pool but the first, by their column ``pool``; as they are where one pool is known."""
    pools = rows.columns.get(POOL)
    if pools is None:
        return rows
    indicators = {PREFIX + pool: np.asarray(pools == pool, dtype=np.float64) for pool in levels(pools.tolist())[1:]}
    return Observations({**rows.variables, **indicators}, rows.metric, rows.labels, rows.name, rows.link, rows.columns)


def shifted_in(rows: Observations) -> tuple[str, ...]:
    """The pools that have an indicator in rows that are levelled."""
    return tuple(name.removeprefix(PREFIX) for name in rows.variables if name.startswith(PREFIX))


def fit_levels(
    law: ScalingLaw,
    rows: Observations,
    options: Mapping[str, Any] | Options | None = None,
    covariates: Sequence[str] = (),
) -> Fit:
    """Fit a law with a shift for each pool that has an indicator in the rows.

    Args:
        law: without shifts.
        rows: see ``levelled``; without indicators this is ``fit_law``.
        options: see ``estimate.Options``.
        covariates: further variables of 0 and 1 that have a shift.

    Raises:
        UserError: rows that the law cannot be fitted to, or that cannot tell a pool's shift from the law itself.
    """
    pools = shifted_in(rows)
    shifted = with_covariates(law, list(dict.fromkeys((*covariates, *(PREFIX + pool for pool in pools)))))
    for pool in pools:
        inside = rows.variables[PREFIX + pool]
        if not inside.any() or inside.all():
            which = "no run" if not inside.any() else "no run but those"
            raise UserError(
                f"{which} of pool '{pool}' is among these {len(rows)}, so that its level cannot be told; hold out fewer runs, "
                f"or {ALIKE} if all pools are of one level."
            )
    fit = fit_law(shifted, rows, options)
    for pool in untold(fit):
        runs = int(rows.variables[PREFIX + pool].sum())
        raise UserError(
            f"the {runs} run{'s' if runs > 1 else ''} of pool '{pool}' cannot tell its level from what the law '{law.name}' says "
            "of scale: with the level free, the law would fit them whatever it were; make runs of that pool, or of the others, "
            f"on another number of images, or {ALIKE} if all pools are of one level."
        )
    return fit


def untold(fit: Fit) -> list[str]:
    """The pools whose shift the rows cannot tell: moving it is, at every row, the same as moving other parameters."""
    if not isinstance(fit.law, Shifted):
        return []
    slopes = fit.law.slopes(fit.parameters[None], fit.observations.variables)[1][:, 0].T
    slopes = slopes / np.maximum(np.linalg.norm(slopes, axis=0), 1e-300)
    own = len(fit.law.law.parameters)
    found = []
    for i, name in enumerate(fit.law.indicators):
        if not name.startswith(PREFIX):
            continue
        others = np.delete(slopes, own + i, axis=1)
        basis, values, _ = np.linalg.svd(others, full_matrices=False)
        basis = basis[:, values > 1e-6 * values[0]]
        left = slopes[:, own + i] - basis @ (basis.T @ slopes[:, own + i])
        if np.linalg.norm(left) < OWN_SLOPE:
            found.append(name.removeprefix(PREFIX))
    return found


def at_pool(fit: Fit, pool: str | None, count: int) -> dict[str, Array]:
    """Variables that say of ``count`` runs that they are of a pool, and of no covariate, for a law with shifts; none for one without."""
    names = [variable.name for variable in fit.law.variables if not variable.scales]
    return {name: np.full(count, float(pool is not None and name == PREFIX + pool)) for name in names}


def unshifted(fit: Fit) -> Observations:
    """The rows whose level is the law's own: of the first pool and of no covariate; all of them where none is."""
    rows = fit.observations
    off = np.all(
        [rows.variables[name] == 0 for name in at_pool(fit, None, 1)] or [np.ones(len(rows), dtype=bool)], axis=0
    )
    return rows.only(off) if off.any() else rows


def shifts(fit: Fit) -> dict[str, tuple[float, float, float]]:
    """How far the metric of each further pool lies above that of the first: value and ends of the interval (NaN without one).

    A metric of which more is better is taken by its error, so that what raises the error lowers it. A law of odds has no constant
    in the metric: it is the mean over the runs of that pool.
    """
    if fit.observations.link.floor is not None:
        return {pool: _mean_shift(fit, PREFIX + pool) for pool in shifted_in(fit.observations)}
    sign = 1.0 if fit.observations.link.ceiling is None else -1.0
    found = {}
    for name, (value, low, high) in fit.intervals().items():
        if name.startswith(f"shift_{PREFIX}"):
            ends = (low, high) if sign > 0 else (-high, -low)
            found[name.removeprefix(f"shift_{PREFIX}")] = (sign * value, *ends)
    return found


def _mean_shift(fit: Fit, name: str) -> tuple[float, float, float]:
    rows = fit.observations.only(fit.observations.variables[name] == 1)
    there, first = (fit.predict({**rows.variables, name: np.full(len(rows), at)}) for at in (1.0, 0.0))
    value = float(np.mean(there.mean - first.mean))
    if not len(there.ensemble):
        return value, np.nan, np.nan
    tail = 0.5 - fit.confidence / 2
    low, high = np.quantile(np.mean(there.ensemble - first.ensemble, axis=1), [tail, 1 - tail])
    return value, float(low), float(high)


def spread(rows: Observations, values: Array) -> NDArray[np.bool_]:
    """Rows ``(N,)`` whose pool has two of ``values`` ``(N,)`` or more: its largest can be held out, and its level still be told."""
    pools = rows.columns.get(POOL)
    if pools is None:
        return np.full(len(rows), np.ptp(values) > 0)
    first = levels(pools.tolist())[:1]
    own = np.array([pool or (first[0] if first else "") for pool in pools], dtype=object)
    return np.array([np.ptp(values[own == pool]) > 0 for pool in own], dtype=bool)
