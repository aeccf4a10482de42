"""Figures of one law for all runs: residuals, iso-FLOP curves and the frontier."""

from typing import Any

import altair as alt

from mimcore.scaling.drawing import INK, MODEL_COLOURS, PLOT_HEIGHT, PLOT_WIDTH, Key, Panel, render, size_colours
from mimcore.scaling.frontier import Interval
from mimcore.scaling.layers import data
from mimcore.scaling.numbers import number, short
from mimcore.scaling.outlook import Division, Outlook

#: Colour of what is no model's.
PLAIN = MODEL_COLOURS[0]
LOG = alt.Scale(type="log", nice=False)
POWERS = alt.Axis(format=".1~e", tickCount=5, grid=False, labelOverlap="greedy")
COUNTS = alt.Axis(format=".2~s", tickCount=5, grid=False, labelOverlap="greedy")


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
    """The loss of runs that cost the same, against the model's size, and their legend."""
    colours = size_colours(len(division.curves))
    layers: list[Any] = []
    for (_, sizes, losses), colour in zip(division.curves, colours, strict=True):
        points = [{"params": float(n), "loss": float(y)} for n, y in zip(sizes, losses, strict=True)]
        best = min(points, key=lambda point: point["loss"])
        x, y = (
            alt.X("params:Q", scale=LOG, axis=COUNTS, title="encoder parameters"),
            alt.Y("loss:Q", scale=alt.Scale(zero=False)),
        )
        layers.append(alt.Chart(data(points)).mark_line(strokeWidth=2, color=colour).encode(x=x, y=y))
        layers.append(alt.Chart(data([best])).mark_point(size=60, filled=True, color=colour).encode(x=x, y=y))
    about = "Loss against the model's size for runs of the same operations; the lowest point of each is marked."
    keys = [
        Key(f"{number(budget, 2)} FLOPs", colour)
        for (budget, _, _), colour in zip(division.curves, colours, strict=True)
    ]
    return [_panel(alt.layer(*layers), f"Equal budgets ({outlook.objective})", about)], keys


def frontier(outlook: Outlook, division: Division) -> list[Panel]:
    """The best model, length and loss against the budget, with intervals."""
    dearest = max(run.flops for run in outlook.runs)
    parts = (
        ("encoder_params", "best encoder, parameters", COUNTS, LOG),
        ("images_seen", "best length, images seen", COUNTS, LOG),
        ("metric", "lowest validation loss", alt.Axis(tickCount=6), alt.Scale(zero=False)),
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
                {"budget": run.flops, "value": run.values[("pretrain", "val_loss")], "run": run.name}
                for run in division.runs
            ]
            layers.append(alt.Chart(data(runs)).mark_point(size=30, opacity=0.6, color=INK).encode(x=x, y="value:Q"))
        rule = alt.Chart(data([{"budget": dearest}])).mark_rule(opacity=0.3, strokeDash=[2, 3], color=INK)
        layers.append(rule.encode(x="budget:Q"))
        about = (
            f"{title} against the budget of a run, with its interval, on {short(division.unique_images)} unique images."
        )
        found.append(_panel(alt.layer(*layers), title[:1].upper() + title[1:], about))
    return found


def _ends(one: Interval) -> dict[str, float]:
    return {
        "value": one.value,
        "low": one.value if one.low is None else one.low,
        "high": one.value if one.high is None else one.high,
    }


def _panel(chart: Any, title: str, about: str) -> Panel:
    return render(chart.properties(width=PLOT_WIDTH, height=PLOT_HEIGHT, title=title), about)
