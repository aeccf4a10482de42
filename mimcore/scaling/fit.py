"""Fit a law to every scaling curve of a study, say how sure it is, and test what it would have forecast."""

import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from mimcore import artifacts, registry
from mimcore.definition import nearest, resolve
from mimcore.errors import UserError
from mimcore.scaling import diagnostics
from mimcore.scaling.bootstrap import Curve, along, replicate_fits
from mimcore.scaling.choose import choose
from mimcore.scaling.fit_options import Config
from mimcore.scaling.pools import levels
from mimcore.scaling.statistics import tidy
from mimcore.scaling.table import (
    Array,
    Measure,
    Run,
    Setting,
    headlines_of,
    read_results,
    runs_of,
    settings_of,
)

#: Points per factor of two at which the curve and its band are stored.
GRID_PER_OCTAVE = 4
#: An exponent whose interval spans more than this factor is called vague: those that the field tells apart differ by
#: less.
VAGUE = 5


@dataclass(frozen=True)
class Points:
    """The points of one scaling curve, in the order of size and seed; ``y`` falls as things get better."""

    setting: Setting
    measure: Measure
    n: Array
    value: Array
    y: Array
    #: The pool that they are of, where the runs of the setting are of several, and those that have no curve of their own.
    pool: str | None = None
    beside: tuple[str, ...] = ()

    @property
    def complement(self) -> bool:
        """Whether ``y`` is 1 - value."""
        return self.measure.higher_is_better

    def without(self, sizes: frozenset[int]) -> "Points":
        """Leave out the points of some sizes."""
        kept = ~np.isin(self.n, list(sizes))
        return replace(self, n=self.n[kept], value=self.value[kept], y=self.y[kept])

    def values(self, y: Array) -> Array:
        """Turn ``y`` back into the metric."""
        return 1 - y if self.complement else y


def fit(results: Path, options: Mapping[str, Any], output: Path) -> dict[str, Any]:
    """Fit every scaling curve of ``results.parquet``, choose among the laws, and write ``fit.json``.

    A curve is a setting (objective, model, schedule) and the headline of a task, or the validation loss, against
    unique images. A metric of which more is better must lie in [0, 1]; its error, 1 - value, is what is fitted. Curves
    (``fits``) and ``diagnostics`` are of the study's own runs; ``laws`` are of imported ones too (see ``choose``).

    Args:
        results: ``results.parquet``.
        options: see ``Config``.
        output: the folder to write.

    Returns:
        What ``fit.json`` holds.

    Raises:
        UserError: an unknown option or law, or results that are missing or broken.
    """
    config = resolve(Config, options, "fit")
    law = _curve_law(config.law)
    rows = read_results(results)
    _refuse_unknown(config, headlines_of(rows))
    several = len(levels([row.pool for row in rows])) > 1
    if config.pools == "alike":
        rows = [replace(row, pool=None) for row in rows]
    runs = runs_of(rows)
    diagnosed = diagnostics.diagnose(
        rows,
        confidence=config.confidence,
        margin=config.margin,
        bootstrap=config.bootstrap,
        seed=config.seed,
        claimed=config.claims,
    )
    fits = [
        _fit_curve(law, points, config, _of_pool(diagnostics.risen_sizes(diagnosed, setting), points.pool))
        for setting in settings_of(runs)
        for measure in headlines_of(rows)
        for points in _points(runs, setting, measure, len(law.parameters))
    ]
    risen = {
        setting: frozenset(diagnostics.risen_sizes(diagnosed, setting)) if config.exclude_risen else frozenset()
        for setting in settings_of(runs)
    }
    found = {
        "options": config.model_dump(mode="json", exclude={"claims", *_left_out(config, several)}),
        "law": {"name": law.name, "formula": law.formula, "parameters": [p.name for p in law.parameters]},
        "fits": fits,
        "laws": choose(
            runs_of(rows, imported=True),
            headlines_of(rows),
            risen,
            config,
        ),
        "diagnostics": diagnosed,
    }
    with artifacts.directory(output) as folder:
        artifacts.write_json(folder / "fit.json", found)
    return found


def _of_pool(sizes: Sequence[tuple[str | None, int]], pool: str | None) -> frozenset[int]:
    return frozenset(size for of, size in sizes if pool is None or of in (None, pool))


def _left_out(config: Config, several: bool) -> set[str]:
    """Options that change nothing here, and are not told of: of pools where there is one, and of scores where none is named."""
    unchanged = {name for name in ("outlook", "guess") if name not in config.model_fields_set}
    return unchanged if several else {*unchanged, "pools"}


def _refuse_unknown(config: Config, measures: Sequence[Measure]) -> None:
    known = {f"{measure.task}/{measure.metric}": measure for measure in measures}
    for option, names in (("outlook", config.outlook), ("guess", tuple(config.guess))):
        for name in names:
            if name not in known:
                raise UserError(
                    f"fit.{option}: no task of the results has the headline '{name}'; {nearest(name, known)}"
                )
            if option == "guess" and not known[name].higher_is_better:
                raise UserError(f"fit.guess: less of {name} is better, so that no guess limits it; take it out.")


def _curve_law(name: str) -> Curve:
    law = registry.load("law", name).Law()
    if not hasattr(law, "fit"):
        raise UserError(
            f"fit.law: '{name}' is no law of a single curve in unique images; use 'power' here, and 'mimcore fit TABLE --law "
            f"{name}' for a whole table."
        )
    found: Curve = law
    return found


def _points(runs: Sequence[Run], setting: Setting, measure: Measure, sizes: int) -> Iterator[Points]:
    """The points of a setting; of several pools those of the one with the most runs, then of each other that has enough ``sizes``."""
    key = (measure.task, measure.metric)
    chosen = [run for run in runs if run.setting == setting and key in run.values]
    pools: tuple[str | None, ...] = levels([run.pool for run in chosen]) or (None,)
    of = {pool: [run for run in chosen if (run.pool or pools[0]) == pool] for pool in pools}
    beside = tuple(str(pool) for pool in pools[1:] if len({run.unique_images for run in of[pool]}) < sizes)
    for pool, mine in of.items():
        if mine and pool not in beside:
            n = np.array([run.unique_images for run in mine], dtype=np.float64)
            value = np.array([run.values[key] for run in mine])
            y = 1 - value if measure.higher_is_better else value
            first = pool == pools[0]
            yield Points(setting, measure, n, value, y, pool if pools[1:] else None, beside if first else ())


def _fit_curve(law: Curve, points: Points, config: Config, risen: frozenset[int]) -> dict[str, Any]:
    entry: dict[str, Any] = {
        **points.setting._asdict(),
        **points.measure._asdict(),
        **({"pool": points.pool} if points.pool else {}),
        "quantity": f"1 - {points.measure.metric}" if points.complement else points.measure.metric,
        "points": _means(points),
        "left_out": [],
    }
    kept = points.without(risen)
    if config.exclude_risen and len(np.unique(kept.n)) >= len(law.parameters):
        points, entry["left_out"], risen = kept, sorted(risen), frozenset()
    reason = _reason_not_to_fit(law, points)
    if reason:
        return {**entry, "fitted": False, "note": f"not fitted: {reason}"}
    parameters = law.fit(points.n, points.y)
    about = (points.setting, points.measure, *((points.pool,) if points.pool else ()))
    rng = np.random.default_rng([config.seed, zlib.crc32(repr(about).encode())])
    replicates = replicate_fits(law, points.n, points.y, config.bootstrap, rng)
    largest = points.n.max()
    octaves = np.log2(largest / points.n.min()) + config.octaves
    grid = points.n.min() * 2 ** np.linspace(0, octaves, int(np.ceil(octaves * GRID_PER_OCTAVE)) + 1)
    ahead = largest * 2.0 ** np.arange(1, config.octaves + 1)
    return {
        **entry,
        "fitted": True,
        "note": _note(replicates, risen, entry["left_out"], points),
        "vague": _is_vague(law, replicates, config.confidence),
        "misfit": _misfit(law, parameters, points),
        "parameters": {
            name: dict(zip(("value", "low", "high"), interval, strict=True))
            for name, interval in zip(
                [p.name for p in law.parameters], _intervals(parameters, replicates, config.confidence), strict=True
            )
        },
        "curve": _curve(law, points, parameters, replicates, grid, config.confidence),
        "forecast": _curve(law, points, parameters, replicates, ahead, config.confidence),
        "check": _check(law, points),
    }


def _reason_not_to_fit(law: Curve, points: Points) -> str | None:
    needed, sizes = len(law.parameters), np.unique(points.n)
    name = f"{points.measure.task} {points.measure.metric}"
    if len(sizes) < needed:
        return f"{len(sizes)} subset size(s), and the law has {needed} parameters; add sizes to the study."
    if points.complement and (points.value.min() < 0 or points.value.max() > 1):
        return f"{name} leaves the range 0 to 1, so that 1 - {points.measure.metric} is no error rate."
    if points.y.min() <= 0:
        return f"{name} reaches a perfect score or is not positive, and the law is fitted to logarithms."
    if np.ptp(points.y) <= 1e-9 * points.y.max():
        return f"{name} is the same at every size."
    first, last = (float(points.y[points.n == size].mean()) for size in (sizes[0], sizes[-1]))
    ends = law.predict(law.fit(points.n, points.y), along(sizes[[0, -1]]))
    if last >= first or ends[1] >= ends[0]:
        return f"{name} does not get better with more images ({_number(points, first)} to {_number(points, last)})."
    return None


def _number(points: Points, y: float) -> str:
    return f"{1 - y if points.complement else y:.4g}"


def _note(replicates: Array | None, risen: frozenset[int], left_out: Sequence[int], points: Points) -> str | None:
    """What a reader of the law must know, in sentences; None if nothing."""
    found = []
    if left_out:
        found.append(f"fitted without {_sizes(left_out)} images, where the validation loss rose again")
    if risen:
        found.append(f"mixes two regimes: the validation loss rose again at {_sizes(sorted(risen))} images")
    if replicates is None:
        found.append("no intervals: one run per size and no more sizes than parameters leave no measure of noise")
    if points.beside:
        others = " and ".join(points.beside)
        found.append(
            f"of pool {points.pool} alone: the runs of {others} are of another level, and of too few sizes for a curve"
        )
    return "; ".join(found) + "." if found else None


def _sizes(sizes: Sequence[int]) -> str:
    return ", ".join(f"{size:,}" for size in sizes)


def _is_vague(law: Curve, replicates: Array | None, confidence: float) -> bool:
    """Whether the exponent is too uncertain to be quoted; the curve may still be sure."""
    if replicates is None:
        return True
    names = [p.name for p in law.parameters]
    low, high = _quantiles(replicates[:, names.index("exponent")], confidence)
    return bool(high > VAGUE * low)


def _misfit(law: Curve, parameters: Array, points: Points) -> float | None:
    """Root mean square over sizes of log(mean / law): how far the law is off, as a fraction of what it fits."""
    sizes = np.unique(points.n)
    means = np.array([points.y[points.n == size].mean() for size in sizes])
    return tidy(float(np.sqrt(np.mean(np.log(means / law.predict(parameters, along(sizes))) ** 2))))


def _means(points: Points) -> list[dict[str, Any]]:
    found = []
    for size in np.unique(points.n):
        here = points.value[points.n == size]
        spread = tidy(float(np.std(here, ddof=1))) if len(here) > 1 else None
        found.append({"unique_images": int(size), "mean": tidy(float(here.mean())), "sd": spread, "seeds": len(here)})
    return found


def _curve(
    law: Curve, points: Points, parameters: Array, replicates: Array | None, n: Array, confidence: float
) -> dict[str, list[Any]]:
    """The law in the metric's own terms at ``n``, with its band."""
    value = points.values(law.predict(parameters, along(n)))
    band = None if replicates is None else points.values(law.predict(replicates, along(n)))
    columns = list(zip(*_intervals(value, band, confidence), strict=True)) or [(), (), ()]
    names = ("value", "low", "high")
    return {
        "unique_images": [tidy(float(size)) for size in n],
        **{k: list(v) for k, v in zip(names, columns, strict=True)},
    }


def _intervals(values: Array, replicates: Array | None, confidence: float) -> list[tuple[Any, Any, Any]]:
    """Value, low and high for each of ``values`` ``(K,)`` from ``replicates`` ``(R, K)``."""
    if replicates is None:
        return [(tidy(float(value)), None, None) for value in values]
    low, high = _quantiles(replicates, confidence)
    return [tuple(tidy(float(part)) for part in parts) for parts in zip(values, low, high, strict=True)]  # type: ignore[misc]


def _quantiles(replicates: Array, confidence: float) -> tuple[Any, Any]:
    low, high = np.quantile(replicates, [0.5 - confidence / 2, 0.5 + confidence / 2], axis=0)
    return low, high


def _check(law: Curve, points: Points) -> dict[str, Any] | None:
    """Leave out the largest size, forecast it, and do the same with two forecasts that anyone could make.

    None where too few sizes would be left to fit.
    """
    sizes = np.unique(points.n)
    if len(sizes) <= len(law.parameters):
        return None
    kept = points.n < sizes[-1]
    n, y = points.n[kept], points.y[kept]
    target = sizes[-1:]
    observed = float(points.values(points.y[~kept].mean(keepdims=True))[0])
    slope, intercept = np.polyfit(np.log(n), y, 1)
    forecasts = {
        "law": law.predict(law.fit(n, y), along(target)),
        "log_linear": intercept + slope * np.log(target),
        "last_value": y[n == sizes[-2]].mean(keepdims=True),
    }
    return {
        "unique_images": int(sizes[-1]),
        "observed": tidy(observed),
        **{
            name: {"forecast": tidy(float(value)), "error": tidy(float(value) - observed)}
            for name, y_hat in forecasts.items()
            for value in points.values(y_hat)
        },
    }
