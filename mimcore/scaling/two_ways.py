"""A score of larger and longer runs, forecast in two ways: by a law of its own, and by the validation loss that a law expects of them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt
import numpy as np

from mimcore.scaling.chosen import entries
from mimcore.scaling.drawing import INK, MODEL_COLOURS, PLOT_HEIGHT, PLOT_WIDTH, Key, Panel, render
from mimcore.scaling.estimate import Fit
from mimcore.scaling.figure import Figure, Table
from mimcore.scaling.layers import capital, data, padded
from mimcore.scaling.numbers import interval, number, short
from mimcore.scaling.outlook import Asked, fit_one
from mimcore.scaling.plots import Figures
from mimcore.scaling.pools import at_pool, by_pool
from mimcore.scaling.summary import label
from mimcore.scaling.table import Array, Run
from mimcore.scaling.two_step import TASK

DIRECT, THROUGH = "directly", "through the loss"
FORECAST = {DIRECT: "the direct forecast", THROUGH: "the forecast through the loss"}
COLOURS = {DIRECT: MODEL_COLOURS[0], THROUGH: MODEL_COLOURS[1]}
#: Runs that are forecast, as multiples of the largest model, of its largest subset and of the greatest length.
TARGETS = {
    "2 × images": (1, 2, 1),
    "2 × length": (1, 1, 2),
    "2 × model": (2, 1, 1),
    "2 × all three": (2, 2, 2),
    "4 × all three": (4, 4, 4),
}
#: Two errors of which the greater is less than this times the other are not told apart by a few runs (docs/laws.md).
APART = 4 / 3


@dataclass(frozen=True)
class Way:
    """One way to forecast a score.

    Attributes:
        name: ``DIRECT`` or ``THROUGH``.
        told: the law, of the fit's ``candidates``: what it forecast of the runs held out, and how far it was off.
        fit: of all runs.
    """

    name: str
    told: Mapping[str, Any]
    fit: Fit

    @property
    def error(self) -> float:
        """Root mean square error on the runs held out."""
        return float(self.told["rmse_holdout"])


@dataclass(frozen=True)
class Ways:
    """Both ways of an objective, the one with the lower error on the runs held out first; ``lacking`` says why there is but one.

    ``trusted`` is the first, or None where a forecast that needs no law was nearer.
    """

    objective: str
    entry: Mapping[str, Any]
    runs: tuple[Run, ...]
    ways: tuple[Way, ...]
    lacking: tuple[str, ...]
    trusted: Way | None

    def verdict(self) -> str:
        """Which is trusted and why, in words."""
        naive, called = min((error, name) for name, error in self.entry["baselines"].items() if error is not None)
        errors = [f"{FORECAST[one.name]} by {number(one.error, 2)}" for one in self.ways]
        other = f"{called.replace('_', ' ')}, which is no law, by {number(naive, 2)}"
        trusted = f"Trusted is {FORECAST[self.trusted.name]}" if self.trusted else "None is trusted"
        verdict = f"{trusted}. On the runs held out was off: {', '.join([*errors, other])}."
        if self.trusted and naive < APART * self.trusted.error:
            verdict += f" That is hardly better than {called.replace('_', ' ')}: trust it little."
        if self.trusted and self.ways[1:] and self.ways[1].error < APART * self.ways[0].error:
            verdict += " So few runs do not tell errors as near as these apart: either way may be the better one."
        return verdict


def both(fitted: Mapping[str, Any], runs: Sequence[Run], asked: Asked, objective: str, confidence: float) -> Ways | str:
    """Fit the law of each way that was best at the runs held out; a sentence where none was judged by them.

    Args:
        fitted: what ``fit.json`` holds.
        runs: of the results.
        asked: the score.
        objective: whose runs.
        confidence: coverage of the intervals.
    """
    name = label(asked.measure)
    entry = next((one for one in entries(fitted, asked.measure) if one["objective"] == objective), None)
    if entry is None:
        return f"No law of model, data and length was tried on the {name} of {objective} (the fit's option 'laws')."
    mine = asked.of(runs, objective)
    ways, lacking = [], []
    for way in (DIRECT, THROUGH):
        told = [law for law in entry["candidates"] if (law["law"] == TASK) == (way == THROUGH)]
        judged = [law for law in told if law["rmse_holdout"] is not None]
        if not judged:
            lacking.append(f"The {name} of {objective} is not forecast {way}: {_reason(entry, told, way)}")
            continue
        fit = fit_one(mine, asked, confidence, [judged[0]["law"]], (), judged[0]["through"])
        if isinstance(fit, str):
            lacking.append(f"The {name} of {objective} is not forecast {way}: {fit}")
        else:
            ways.append(Way(way, judged[0], fit))
    if not ways:
        return " ".join(lacking)
    ways.sort(key=lambda one: one.error)
    naive = min(error for error in entry["baselines"].values() if error is not None)
    return Ways(objective, entry, mine, tuple(ways), tuple(lacking), ways[0] if ways[0].error < naive else None)


def _reason(entry: Mapping[str, Any], told: Sequence[Mapping[str, Any]], way: str) -> str:
    if told:
        return str(told[0]["note"])
    skipped = [one["reason"] for one in entry["skipped"] if (one["law"] == TASK) == (way == THROUGH)]
    return skipped[0] if skipped else "no such law was tried (the fit's option 'laws')."


@dataclass(frozen=True)
class Ahead:
    """Larger and longer runs; ``variables`` are each ``(N,)``, and ``base`` names what they are multiples of."""

    base: str
    names: tuple[str, ...]
    variables: Mapping[str, Array]
    pool: str | None


def ahead(runs: Sequence[Run]) -> Ahead:
    """``TARGETS`` of the pool with the largest subset, without twice the images where there is no time to see each."""
    pool, mine = max(by_pool(runs).items(), key=lambda pair: max(run.unique_images for run in pair[1]))
    largest = max(runs, key=lambda run: run.encoder_params)
    images, seen = max(run.unique_images for run in mine), max(run.images_seen for run in runs)
    kept = {name: by for name, by in TARGETS.items() if by[2] >= by[1] or by[2] * seen >= by[1] * images}
    factors = np.array(list(kept.values()), dtype=np.float64)
    return Ahead(
        f"{largest.setting.model} on {short(images)} images{f' of {pool}' if pool else ''}, {short(seen)} seen",
        tuple(kept),
        {
            "encoder_params": factors[:, 0] * largest.encoder_params,
            "unique_images": factors[:, 1] * images,
            "images_seen": factors[:, 2] * seen,
        },
        pool,
    )


def figure(drawn: Figures, asked: Asked, objectives: Sequence[str]) -> Figure:
    """Both ways side by side for each objective, with which is trusted; or what the study lacks for it."""
    name, title = f"ways-{asked.measure.task}", "Forecast directly, or through the validation loss"
    confidence = float(drawn.fitted["options"]["confidence"])
    found = [both(drawn.fitted, drawn.runs, asked, one, confidence) for one in objectives]
    reasons = [one for one in found if isinstance(one, str)]
    done = [one for one in found if not isinstance(one, str)]
    if not done:
        return Figure(name, title, missing=" ".join(reasons))
    several = len(done) > 1
    said = [f"{one.objective}: {one.verdict()}" if several else one.verdict() for one in done]
    lacking = [*reasons, *(reason for one in done for reason in one.lacking)]
    rows = [((one.objective, *row) if several else row) for one in done for row in _rows(one)]
    head = ("", DIRECT, THROUGH)
    return Figure(
        name,
        title,
        f"The {label(asked.measure)} forecast by a law of its own, and in two steps: a law of the validation loss, and a law of the "
        "score in that loss. Left, the runs held out, each forecast from those that are smaller; right, runs that are larger or longer "
        f"than any, with {100 * confidence:g} % intervals over refits, paler where the way is not trusted; the dashed line is the best "
        f"so far. {' '.join([*said, *lacking])}",
        "which way is right further out than the runs held out, nor that the two intervals cover both: each is that of its way, if it "
        "holds. The law of the direct way was chosen by these very forecasts, that of the loss by its own, so that the direct error is a "
        "little too small.",
        [panel for one in done for panel in (_held_out(one, asked, several), _larger(one, asked, several))],
        [Key(way, colour, mark="dot") for way, colour in COLOURS.items()],
        Table(("objective", *head) if several else head, tuple(rows)),
    )


def _rows(found: Ways) -> Iterator[tuple[str, ...]]:
    """Law, errors on the runs held out, and forecasts, with a cell for each way."""
    ways = {one.name: one for one in found.ways}

    def row(head: str, cell: Mapping[str, str]) -> tuple[str, ...]:
        return (head, *(cell.get(name, "") for name in COLOURS))

    yield row("law", {name: one.fit.law.name for name, one in ways.items()})
    holdouts = found.entry["holdouts"]
    for i, holdout in enumerate(holdouts if holdouts[1:] else ()):
        errors = {name: number(one.told["holdouts"][i]["rmse"], 2) for name, one in ways.items()}
        yield row(f"off by, {holdout['rule']}", errors)
    trusted = {name: ", trusted" if one is found.trusted else "" for name, one in ways.items()}
    yield row("off by, all held out", {name: number(one.error, 2) + trusted[name] for name, one in ways.items()})
    targets = ahead(found.runs)
    forecasts = {name: _forecasts(one, targets) for name, one in ways.items()}
    for i, target in enumerate(targets.names):
        yield row(target, {name: interval(*of[i]) for name, of in forecasts.items()})


def _forecasts(way: Way, targets: Ahead) -> list[tuple[float, float | None, float | None]]:
    """Value and ends of the interval of each target."""
    at = {**targets.variables, **at_pool(way.fit, targets.pool, len(targets.names))}
    found = way.fit.predict(at)
    if not len(found.ensemble):
        return [(float(value), None, None) for value in found.mean]
    return [tuple(map(float, ends)) for ends in zip(found.mean, found.low, found.high, strict=True)]  # type: ignore[misc]


def _held_out(found: Ways, asked: Asked, several: bool) -> Panel:
    """Observed against forecast by both ways."""
    rows = found.entry["rows"]
    points = [
        {
            "way": one.name,
            "run": rows["run"][row],
            "observed": rows["observed"][row],
            "forecast": value,
            "held_out": holdout["rule"],
        }
        for one in found.ways
        for holdout, told in zip(found.entry["holdouts"], one.told["holdouts"], strict=True)
        for row, value in zip(holdout["rows"], told["forecast"], strict=True)
    ]
    domain = padded([point[part] for point in points for part in ("observed", "forecast")])
    scale, axis = alt.Scale(domain=domain, nice=False, zero=False), alt.Axis(tickCount=6)
    x = alt.X("observed:Q", scale=scale, axis=axis, title=f"observed {label(asked.measure)}")
    y = alt.Y("forecast:Q", scale=scale, axis=axis, title="forecast from smaller runs")
    ends = [{"observed": value, "forecast": value} for value in domain]
    same = alt.Chart(data(ends)).mark_line(opacity=0.35, strokeWidth=1, color=INK).encode(x=x, y=y)
    marks = alt.Chart(data(points)).mark_point(size=44, filled=True, opacity=0.8).encode(x=x, y=y, color=_colour())
    title = "Runs held out" + (f" ({found.objective})" if several else "")
    about = f"{capital(label(asked.measure))} of the runs held out: observed, against both forecasts."
    return _panel(alt.layer(same, marks), title, about)


def _larger(found: Ways, asked: Asked, several: bool) -> Panel:
    """The forecasts of larger and longer runs with their intervals, side by side."""
    targets = ahead(found.runs)
    points: list[dict[str, Any]] = [
        {
            "way": one.name,
            "run": name,
            "forecast": value,
            "low": value if low is None else low,
            "high": value if high is None else high,
            "trust": 1.0 if one is found.trusted else 0.45,
        }
        for one in found.ways
        for name, (value, low, high) in zip(targets.names, _forecasts(one, targets), strict=True)
    ]
    values = [run.values[asked.measure[:2]] for run in found.runs]
    best = max(values) if asked.measure.higher_is_better else min(values)
    domain = padded([best, *(point[part] for point in points for part in ("low", "high"))])
    scale = alt.Scale(domain=domain, nice=False, zero=False)
    x = alt.X("forecast:Q", scale=scale, axis=alt.Axis(tickCount=6), title=label(asked.measure))
    y = alt.Y("run:N", sort=list(targets.names), title=None, axis=alt.Axis(ticks=False, domain=False))
    beside = alt.YOffset("way:N", sort=list(COLOURS))
    opacity = alt.Opacity("trust:Q", scale=None, legend=None)
    base = alt.Chart(data(points))
    bars = base.mark_rule(strokeWidth=2.5).encode(
        x=alt.X("low:Q", scale=scale), x2="high:Q", y=y, yOffset=beside, color=_colour(), opacity=opacity
    )
    dots = base.mark_point(size=50, filled=True).encode(x=x, y=y, yOffset=beside, color=_colour(), opacity=opacity)
    rule = alt.Chart(data([{"forecast": best}])).mark_rule(strokeDash=[4, 3], opacity=0.6, color=INK).encode(x=x)
    title = alt.TitleParams(
        "Larger and longer runs" + (f" ({found.objective})" if several else ""),
        subtitle=f"multiples of {targets.base}",
        subtitleColor=INK,
        subtitleFontSize=12,
        subtitlePadding=4,
    )
    about = f"{capital(label(asked.measure))} forecast in both ways for runs beyond those made: multiples of {targets.base}."
    return _panel(alt.layer(bars, dots, rule), title, about)


def _colour() -> Any:
    return alt.Color("way:N", scale=alt.Scale(domain=list(COLOURS), range=list(COLOURS.values())), legend=None)


def _panel(chart: Any, title: Any, about: str) -> Panel:
    return render(chart.properties(width=PLOT_WIDTH, height=PLOT_HEIGHT, title=title), about)
