"""Figures of one law for all runs: residuals, iso-FLOP curves and the frontier."""

import re
from collections.abc import Sequence
from typing import Any

import altair as alt

from mimcore.scaling.drawing import INK, MODEL_COLOURS, PLOT_HEIGHT, PLOT_WIDTH, Key, Panel, render, size_colours
from mimcore.scaling.figure import Figure, Table
from mimcore.scaling.frontier import Interval
from mimcore.scaling.layers import capital, data
from mimcore.scaling.numbers import interval, number, short
from mimcore.scaling.outlook import Division, Outlook
from mimcore.scaling.summary import label

#: Colour of what is no model's.
PLAIN = MODEL_COLOURS[0]
LOG = alt.Scale(type="log", nice=False)
POWERS = alt.Axis(format=".1~e", tickCount=5, grid=False, labelOverlap="greedy")
COUNTS = alt.Axis(format=".2~s", tickCount=5, grid=False, labelOverlap="greedy")
#: Of the frontier's budgets each so-many-th is a row of the table.
ROW = 3


def residuals(outlook: Outlook, colours: dict[str, str], named: bool = False) -> list[Panel]:
    """Each run's distance from the law, against unique images and against images seen."""
    points: list[dict[str, Any]] = [
        {
            "run": run.name,
            "model": run.setting.model,
            "unique_images": run.unique_images,
            "images_seen": run.images_seen,
            "residual": 100 * float(residual),
        }
        for run, residual in zip(outlook.runs, outlook.fit.residuals, strict=True)
    ]
    noise = 100 * outlook.fit.noise
    found = []
    for name, title in (("unique_images", "unique images"), ("images_seen", "images seen")):
        ends = [point[name] for point in points]
        wide = alt.Scale(type="log", nice=False, domain=[min(ends) / 1.12, max(ends) * 1.12])
        band = alt.Chart(data([{"low": -noise, "high": noise}])).mark_rect(opacity=0.08, color=INK)
        zero = alt.Chart(data([{"y": 0}])).mark_rule(opacity=0.4, color=INK).encode(y="y:Q")
        marks = alt.Chart(data(points)).mark_point(size=44, filled=True, opacity=0.8)
        scale = alt.Scale(domain=list(colours), range=list(colours.values()))
        layers = [
            band.encode(y=alt.Y("low:Q", title="observed − law (% of the loss)"), y2="high:Q"),
            zero,
            marks.encode(
                x=alt.X(f"{name}:Q", scale=wide, axis=COUNTS, title=title),
                y="residual:Q",
                color=alt.Color("model:N", scale=scale, legend=None),
            ),
        ]
        found.append(
            _panel(
                alt.layer(*layers),
                f"Residuals against {title}" + (f" ({outlook.objective})" if named else ""),
                f"Residuals of the law against {title}, a point a run.",
            )
        )
    return found


def iso_flop(outlook: Outlook, division: Division) -> tuple[list[Panel], list[Key]]:
    """The metric of runs that cost the same, against the model's size, and their legend."""
    colours = size_colours(len(division.curves))
    layers: list[Any] = []
    name, rises = label(outlook.measure), outlook.measure.higher_is_better
    for (_, sizes, values), colour in zip(division.curves, colours, strict=True):
        points = [{"params": float(n), "metric": float(y)} for n, y in zip(sizes, values, strict=True)]
        best = (max if rises else min)(points, key=lambda point: point["metric"])
        x, y = (
            alt.X("params:Q", scale=LOG, axis=COUNTS, title="encoder parameters"),
            alt.Y("metric:Q", scale=alt.Scale(zero=False), title=name),
        )
        layers.append(alt.Chart(data(points)).mark_line(strokeWidth=2, color=colour).encode(x=x, y=y))
        layers.append(alt.Chart(data([best])).mark_point(size=60, filled=True, color=colour).encode(x=x, y=y))
    about = (
        f"{capital(name)} against the model's size for runs of the same operations; the best point of each is marked."
    )
    keys = [
        Key(f"{number(budget, 2)} FLOPs", colour)
        for (budget, _, _), colour in zip(division.curves, colours, strict=True)
    ]
    return [
        _panel(alt.layer(*layers), "Equal budgets" + (f" ({outlook.objective})" if outlook.objective else ""), about)
    ], keys


def frontier(outlook: Outlook, division: Division) -> list[Panel]:
    """The best model, length and metric against the budget, with intervals."""
    dearest = max(run.flops for run in outlook.runs)
    best = _best(outlook)
    parts = (
        ("encoder_params", "best encoder, parameters", COUNTS, LOG),
        ("images_seen", "best length, images seen", COUNTS, LOG),
        ("metric", best, alt.Axis(tickCount=6), alt.Scale(zero=False)),
    )
    found = []
    for name, title, axis, scale in parts:
        points = [{"budget": one.budget, **_ends(getattr(one, name)), "edge": one.at_edge} for one in division.frontier]
        x = alt.X("budget:Q", scale=LOG, axis=POWERS, title="training FLOPs of one run")
        base = alt.Chart(data(points))
        layers: list[Any] = [
            base.mark_area(opacity=0.15, color=PLAIN).encode(
                x=x, y=alt.Y("low:Q", scale=scale, axis=axis, title=title), y2="high:Q"
            ),
            base.mark_line(strokeWidth=2, color=PLAIN).encode(x=x, y=alt.Y("value:Q", scale=scale)),
        ]
        if name == "metric":
            runs = [
                {"budget": run.flops, "value": run.values[outlook.measure[:2]], "run": run.name}
                for run in division.runs
            ]
            layers.append(alt.Chart(data(runs)).mark_point(size=30, opacity=0.6, color=INK).encode(x=x, y="value:Q"))
        rule = alt.Chart(data([{"budget": dearest}])).mark_rule(opacity=0.3, strokeDash=[2, 3], color=INK)
        layers.append(rule.encode(x="budget:Q"))
        about = f"{title} against the budget of a run, with its interval" + (
            f", on {short(division.unique_images)} unique images." if division.unique_images else "."
        )
        found.append(_panel(alt.layer(*layers), capital(title), about))
    return found


def images(outlook: Outlook, division: Division) -> list[Panel]:
    """The best metric against unique images, for each budget of the iso-FLOP curves; nothing of a law that is not in them."""
    if not division.data:
        return []
    colours, best = size_colours(len(division.curves)), _best(outlook)
    layers: list[Any] = []
    for i, colour in enumerate(colours):
        points = [{"images": number, **_ends(of[i].metric)} for number, of in division.data]
        x = alt.X("images:Q", scale=LOG, axis=COUNTS, title="unique images")
        scale = alt.Scale(zero=False)
        base = alt.Chart(data(points))
        layers.append(
            base.mark_area(opacity=0.13, color=colour).encode(
                x=x, y=alt.Y("low:Q", scale=scale, title=best), y2="high:Q"
            )
        )
        layers.append(base.mark_line(strokeWidth=2, color=colour).encode(x=x, y=alt.Y("value:Q", scale=scale)))
    rule = alt.Chart(data([{"images": division.unique_images}])).mark_rule(opacity=0.3, strokeDash=[2, 3], color=INK)
    layers.append(rule.encode(x="images:Q"))
    about = f"{capital(best)} that each budget reaches, against the number of unique images."
    return [_panel(alt.layer(*layers), f"{capital(best)} by data", about)]


def allocations(outlook: Outlook, division: Division) -> Table:
    """A few budgets, and the model, data and length that are best for each."""
    dearest = max(run.flops for run in outlook.runs)
    largest = max(run.encoder_params for run in outlook.runs)
    rows = [
        (
            number(one.budget, 2),
            number(one.budget / dearest, 2),
            _sized(one.encoder_params, one.at_edge and one.encoder_params.value > largest, one.at_edge),
            *([short(division.unique_images)] if division.unique_images else []),
            _sized(one.images_seen, one.at_edge and one.encoder_params.value < largest, one.at_edge),
            *([number(one.images_seen.value / division.unique_images, 2)] if division.unique_images else []),
            interval(one.metric.value, one.metric.low, one.metric.high),
        )
        for one in division.frontier[::ROW]
    ]
    head = (
        "FLOPs",
        "of the dearest run",
        "encoder parameters",
        *(["unique images"] if division.unique_images else []),
        "images seen",
        *(["epochs"] if division.unique_images else []),
        _best(outlook),
    )
    return Table(head, tuple(rows))


def divided(name: str, one: Outlook, part: Division, named: bool) -> Figure:
    """Which model for a budget, on the images of one pool.

    Args:
        name: of its files.
        one: the law.
        part: of the law's budgets.
        named: whether to name the objective: where there are several.
    """
    names = [*([one.objective] if named else []), *([part.pool] if part.pool else [])]
    suffix, of = ("-" + re.sub(r"[^\w.-]+", "-", "-".join(names)), f" ({', '.join(names)})") if names else ("", "")
    panels, keys = iso_flop(one, part)
    panels += [*frontier(one, part), *images(one, part)]
    edges, of_all = sum(two.at_edge for two in part.frontier), f"of {len(part.frontier)} budgets"
    sizes = part.curves[0][1]
    beyond = (
        f" Sizes from {short(sizes[0])} to {short(sizes[-1])} parameters were looked through, where intervals end too; at {edges} {of_all} "
        "the best size is one of these ends."
        if edges
        else ""
    )
    kind = f" of pool {part.pool}" if part.pool else ""
    on = f", on the largest subset, {short(part.unique_images)} unique images{kind}" if part.unique_images else ""
    brief = sum(two.images_seen.value < part.unique_images for two in part.frontier)
    beyond += (
        f" At {brief} {of_all} the best length is less than one epoch, so that fewer images would do." if brief else ""
    )
    beyond += _spent_in_vain(one, part)
    data = (
        " The last panel is the best that each budget reaches with fewer images, and with twice as many; the table has model, data and "
        "length for some budgets."
        if part.data
        else " The law is not in unique images: what fewer of them would reach it cannot say."
    )
    return Figure(
        f"{name}{suffix}",
        f"Which model for a budget{of}",
        f"The {label(one.measure)} that {law_words([one])} expects of runs that cost the same{on}: a larger model sees fewer. "
        f"The mark is the best point. The other panels follow that point from budget to budget, with "
        f"{100 * one.fit.confidence:g} % intervals over refits; right of the dotted line no run was made.{beyond}{data}",
        "the price of tuning: learning rates were not tuned for each size. Nor that of images, or of the tasks: only training costs. The "
        "intervals are those of this law, if it holds; they do not cover another law.",
        panels,
        keys,
        allocations(one, part),
    )


def _spent_in_vain(one: Outlook, part: Division) -> str:
    """From which budget on more operations make the metric worse, if any do."""
    sign = -1.0 if one.measure.higher_is_better else 1.0
    best = min(part.frontier, key=lambda two: sign * two.metric.value)
    if best is part.frontier[-1]:
        return ""
    return (
        f" Beyond {number(best.budget, 2)} FLOPs it gets worse: by this law a run that spends more over-fits so many images, and is better "
        "stopped short of its budget, or given more of them."
    )


def law_words(done: Sequence[Outlook]) -> str:
    """Name the laws; of a single one, say what it was fitted to and how well."""
    names = list(dict.fromkeys(f"'{one.fit.law.name}'" for one in done))
    fits = (
        ", ".join(f"{len(one.fit.observations)} runs, R² {one.fit.r2:.3f}" for one in done[:1])
        if len(done) == 1
        else ""
    )
    return f"the law {' or '.join(names)}" + (f" ({fits})" if fits else "")


def _best(outlook: Outlook) -> str:
    return f"{'highest' if outlook.measure.higher_is_better else 'lowest'} {label(outlook.measure)}"


def _sized(one: Interval, or_more: bool, at_edge: bool) -> str:
    """A size with its interval; at an end of what was looked through there is no more to say than on which side it lies."""
    if at_edge:
        return f"{short(one.value)} or {'more' if or_more else 'fewer'}"
    ends = "" if one.low is None or one.high is None else f" [{short(one.low)}, {short(one.high)}]"
    return f"{short(one.value)}{ends}"


def _ends(one: Interval) -> dict[str, float]:
    return {
        "value": one.value,
        "low": one.value if one.low is None else one.low,
        "high": one.value if one.high is None else one.high,
    }


def _panel(chart: Any, title: str, about: str) -> Panel:
    return render(chart.properties(width=PLOT_WIDTH, height=PLOT_HEIGHT, title=title), about)
