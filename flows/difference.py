"""What has changed between two nights of a study: new points, fits that moved, forecasts that came true or did not."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mimcore import artifacts
from mimcore.scaling.numbers import count, interval, number
from mimcore.scaling.summary import label
from mimcore.scaling.table import MADE, Measure, Row, headlines_of, read_results

#: Rows of a table on the page; the report has them all.
ROWS = 40
RESULTS, FIT = "results.parquet", "fit.json"


class Point(NamedTuple):
    """A headline number of a run."""

    run: str
    measure: str


class Curve(NamedTuple):
    """A fitted curve of a study."""

    setting: str
    measure: str


@dataclass(frozen=True)
class Forecast:
    """A size that last night's law had not seen, and what tonight's runs reached there."""

    curve: Curve
    unique_images: int
    observed: float
    value: float
    low: float | None
    high: float | None

    @property
    def verdict(self) -> str:
        """Whether the observed mean lies in the interval of the forecast."""
        if self.low is None or self.high is None:
            return "no interval to judge by"
        return "hit" if self.low <= self.observed <= self.high else "missed"


@dataclass
class Difference:
    """From last night to tonight; ``before`` and ``now`` are values."""

    new: dict[Point, float] = field(default_factory=dict)
    changed: dict[Point, tuple[float, float]] = field(default_factory=dict)
    gone: list[Point] = field(default_factory=list)
    moved: dict[tuple[Curve, str], tuple[str, str]] = field(default_factory=dict)
    """Of a curve's parameter: ``value [low, high]`` before and now; empty where it was not fitted."""
    forecasts: list[Forecast] = field(default_factory=list)

    @property
    def nothing(self) -> bool:
        """Whether all is as it was."""
        return not (self.new or self.changed or self.gone or self.moved)


def compare(before: Path, now: Path) -> Difference:
    """Compare two folders that each hold ``results.parquet`` and ``fit.json``.

    Raises:
        UserError: a file is missing or broken.
    """
    old, new = _points(read_results(before / RESULTS)), _points(read_results(now / RESULTS))
    old_fits, new_fits = _fits(artifacts.read_json(before / FIT)), _fits(artifacts.read_json(now / FIT))
    return Difference(
        new={point: value for point, value in new.items() if point not in old},
        changed={point: (old[point], value) for point, value in new.items() if old.get(point, value) != value},
        gone=[point for point in old if point not in new],
        moved=dict(_moved(old_fits, new_fits)),
        forecasts=[found for curve, fit in old_fits.items() for found in _came_due(curve, fit, new_fits.get(curve))],
    )


def _points(rows: Sequence[Row]) -> dict[Point, float]:
    headlines = headlines_of(rows)
    return {
        Point(str(row.run), label(measure)): row.value
        for row in rows
        if row.kind == "run"
        and row.source == MADE
        and (measure := Measure(row.task, row.metric, row.higher_is_better)) in headlines
    }


def _fits(fitted: Mapping[str, Any]) -> dict[Curve, Mapping[str, Any]]:
    return {
        Curve(
            f"{one['objective']} {one['model']} {one['schedule']}" + (f" ({one['pool']})" if "pool" in one else ""),
            label(Measure(one["task"], one["metric"], one["higher_is_better"])),
        ): one
        for one in fitted["fits"]
    }


def _moved(
    before: Mapping[Curve, Mapping[str, Any]], now: Mapping[Curve, Mapping[str, Any]]
) -> Iterator[tuple[tuple[Curve, str], tuple[str, str]]]:
    for curve in {**before, **now}:
        old, new = _parameters(before.get(curve)), _parameters(now.get(curve))
        for name in {**old, **new}:
            if old.get(name) != new.get(name):
                yield (curve, name), (old.get(name, ""), new.get(name, ""))


def _parameters(fit: Mapping[str, Any] | None) -> dict[str, str]:
    if fit is None or not fit["fitted"]:
        return {}
    return {name: interval(one["value"], one["low"], one["high"]) for name, one in fit["parameters"].items()}


def _came_due(curve: Curve, before: Mapping[str, Any], now: Mapping[str, Any] | None) -> Iterator[Forecast]:
    """Sizes beyond last night's largest, within what its law was drawn for, that tonight's runs have."""
    if now is None or not before["fitted"]:
        return
    seen = max(point["unique_images"] for point in before["points"])
    drawn = before["curve"]
    for point in now["points"]:
        size = point["unique_images"]
        if seen < size <= drawn["unique_images"][-1]:
            value, low, high = (_at(size, drawn["unique_images"], drawn[name]) for name in ("value", "low", "high"))
            if value is not None:
                yield Forecast(curve, size, point["mean"], value, low, high)


def _at(size: float, sizes: Sequence[float], values: Sequence[float | None]) -> float | None:
    """A drawn curve between its points, which lie evenly in the logarithm of the size."""
    if any(value is None for value in values):
        return None
    return float(np.interp(np.log(size), np.log(sizes), np.array(values, dtype=float)))


def markdown(difference: Difference, since: str) -> str:
    """Say a difference for Prefect's page; ``since`` names the night before."""
    parts = []
    if difference.nothing:
        parts.append(f"Nothing has changed since {since}.")
    new = [(*point, number(value, 4)) for point, value in difference.new.items()]
    parts += _section(f"New points since {since}", ("run", "measure", "value"), new)
    changed = [(*point, number(old, 4), number(now, 4)) for point, (old, now) in difference.changed.items()]
    parts += _section("Points that changed", ("run", "measure", "before", "now"), changed)
    if difference.gone:
        parts.append(f"{len(difference.gone)} points are no longer of the study, {difference.gone[0].run} among them.")
    moved = [
        (*curve, name, old or "not fitted", now or "not fitted")
        for (curve, name), (old, now) in difference.moved.items()
    ]
    parts += _section("Fits that moved", ("setting", "measure", "parameter", "before", "now"), moved)
    forecasts = [
        (
            *one.curve,
            count(one.unique_images),
            interval(one.value, one.low, one.high),
            number(one.observed, 4),
            one.verdict,
        )
        for one in difference.forecasts
    ]
    header = ("setting", "measure", "unique images", "forecast", "observed", "")
    parts += _section("Forecasts that came due", header, forecasts)
    if not forecasts:
        parts.append("No forecast came due: no run was larger than those that last night's laws had seen.")
    return "\n\n".join(parts)


def _section(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    if not rows:
        return []
    shown = [header, ["---"] * len(header), *rows[:ROWS]]
    table = "\n".join("| " + " | ".join(line) + " |" for line in shown)
    return [f"### {title}", table, *([f"and {len(rows) - ROWS} more."] if len(rows) > ROWS else [])]
