"""The laws that were tried on all runs of an objective, and what the chosen one forecast: from the key ``laws`` of ``fit.json``."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import altair as alt

from mimcore.scaling.drawing import INK, MODEL_COLOURS, PLOT_HEIGHT, PLOT_WIDTH, Key, Panel, render
from mimcore.scaling.figure import Table
from mimcore.scaling.layers import capital, data, padded
from mimcore.scaling.numbers import number
from mimcore.scaling.summary import label
from mimcore.scaling.table import MADE, VAL_LOSS, Measure

GREY = "#868e96"
#: Entries that the report shows.
MOST = 12
HEAD = ("law", "parameters", "R²", "error of the fit", "error of the runs held out", "")


def entries(fitted: Mapping[str, Any], measure: Measure, scope: str = "objective") -> list[Mapping[str, Any]]:
    """What was tried on a measure."""
    return [one for one in fitted["laws"].get(f"{measure.task} {measure.metric}", ()) if one["scope"] == scope]


def judged(fitted: Mapping[str, Any], measure: Measure) -> list[Mapping[str, Any]]:
    """The entries in which a law could be chosen: of all runs of an objective, or else of each setting."""
    for scope in ("objective", "setting"):
        found = [one for one in entries(fitted, measure, scope) if one["chosen"]]
        if found:
            return found[:MOST]
    return []


def name_of(one: Mapping[str, Any]) -> str:
    """What an entry is of."""
    return " ".join(str(one[part]) for part in ("objective", "model", "schedule") if one[part])


def preferred(fitted: Mapping[str, Any], objective: str) -> list[str]:
    """The laws of an objective's validation loss that were judged by their forecasts, the best first."""
    found = [one for one in entries(fitted, Measure(*VAL_LOSS, False)) if one["objective"] == objective]
    return [law["law"] for one in found for law in one["candidates"] if law["rmse_holdout"] is not None]


def extrapolating(fitted: Mapping[str, Any], objective: str, measure: Measure) -> list[str] | str:
    """The laws of a measure that forecast the runs held out better than can be done without a law, the best first.

    A sentence where there is none.
    """
    name = label(measure)
    one = next((one for one in entries(fitted, measure) if one["objective"] == objective), None)
    if one is None:
        return f"No law of model, data and length was tried on the {name} of {objective} (the fit's option 'laws')."
    if one["chosen"] is None:
        why = f" {capital(one['note'])}" if one["note"] else ""
        return f"No law of the {name} of {objective} could be chosen by what it forecasts.{why}"
    naive = min((error, called) for called, error in one["baselines"].items() if error is not None)
    found = [law for law in one["candidates"] if law["rmse_holdout"] is not None and law["rmse_holdout"] < naive[0]]
    if not found:
        return (
            f"No law of the {name} of {objective} extrapolates: the best, '{one['chosen']}', is off by "
            f"{number(one['candidates'][0]['rmse_holdout'], 2)} on the runs held out, and {naive[1].replace('_', ' ')}, which is no law, "
            f"by {number(naive[0], 2)}."
        )
    return [law["law"] for law in found]


def through(fitted: Mapping[str, Any], objective: str, measure: Measure) -> str | None:
    """The law of the validation loss by which the law ``task`` of a measure was asked of the runs held out; None if it was not."""
    found = [one for one in entries(fitted, measure) if one["objective"] == objective]
    return next((law["through"] for one in found for law in one["candidates"] if law["through"]), None)


def table(one: Mapping[str, Any]) -> Table:
    """Every law and every naive forecast, the best first."""
    rows = [
        (
            law["law"],
            str(len(law["parameters"])),
            "" if law["r2"] is None else f"{law['r2']:.3f}",
            number(law["rmse"], 2),
            number(law["rmse_holdout"], 2) if law["rmse_holdout"] is not None else "",
            "chosen" if law["law"] == one["chosen"] else law["note"] or "",
        )
        for law in one["candidates"]
    ]
    rows += [
        (name.replace("_", " "), "", "", "", number(error, 2), "no law")
        for name, error in (one["baselines"] or {}).items()
        if error is not None
    ]
    return Table(HEAD, tuple(rows))


def remarks(one: Mapping[str, Any]) -> Iterator[str]:
    """What a reader must know of an entry: which runs were held out, the fit's note, what could not be fitted."""
    rules = [holdout["rule"] for holdout in one["holdouts"]]
    if rules:
        yield f"Held out, and forecast: {'; '.join(rules)}."
    if one["note"]:
        yield capital(one["note"])
    if one["skipped"]:
        yield f"Could not be fitted: {', '.join(law['law'] for law in one['skipped'])}."


def panels(found: Sequence[Mapping[str, Any]], measure: Measure) -> list[Panel]:
    """Observed against forecast by the chosen law, for the runs held out, and against the fit for all."""
    return [_panel(one, measure, len(found) > 1) for one in found]


KEYS = [
    Key("forecast, held out", MODEL_COLOURS[1], mark="dot"),
    Key("fitted", GREY, mark="dot"),
    Key("imported run", GREY, mark="hollow"),
]


def keys(found: Sequence[Mapping[str, Any]]) -> list[Key]:
    """The legend."""
    return KEYS if any(source != MADE for one in found for source in one["rows"]["source"]) else KEYS[:2]


def _panel(one: Mapping[str, Any], measure: Measure, several: bool) -> Panel:
    law = next(law for law in one["candidates"] if law["law"] == one["chosen"])
    rows = one["rows"]
    points: list[dict[str, Any]] = []
    for i, name in enumerate(rows["run"]):
        about = {"run": name, "observed": rows["observed"][i], "imported": rows["source"][i] != MADE}
        value, low, high = (law["predictions"][part][i] for part in ("value", "low", "high"))
        points.append({**about, "law": value, "low": _or(low, value), "high": _or(high, value), "what": "fitted"})
    for holdout, told in zip(one["holdouts"], law["holdouts"] or (), strict=False):
        for row, value in zip(holdout["rows"], told["forecast"], strict=True):
            about = {
                "run": rows["run"][row],
                "observed": rows["observed"][row],
                "imported": rows["source"][row] != MADE,
            }
            points.append(
                {**about, "law": value, "low": value, "high": value, "what": "forecast", "held_out": holdout["rule"]}
            )
    domain = padded([point[part] for point in points for part in ("observed", "law")])
    scale = alt.Scale(domain=domain, nice=False, zero=False)
    axis = alt.Axis(tickCount=6)
    x = alt.X("observed:Q", scale=scale, axis=axis, title=f"observed {label(measure)}")
    y = alt.Y("law:Q", scale=scale, axis=axis, title=f"by the law '{law['law']}'")
    ends = [{"observed": value, "law": value} for value in domain]
    same = alt.Chart(data(ends)).mark_line(opacity=0.35, strokeWidth=1, color=INK).encode(x=x, y=y)
    layers: list[Any] = [same]
    for what, colour, size in (("fitted", GREY, 30), ("forecast", MODEL_COLOURS[1], 50)):
        part = [point for point in points if point["what"] == what]
        if part:
            marks = alt.Chart(data(part)).mark_point(
                size=size, strokeWidth=1.5, color=colour, fill=colour, opacity=0.85
            )
            opacity = alt.condition("datum.imported", alt.value(0), alt.value(0.85))
            layers.append(marks.encode(x=x, y=y, fillOpacity=opacity))
    title = capital(f"{label(measure)} ({name_of(one)})" if several else label(measure))
    chart = alt.layer(*layers).properties(width=PLOT_WIDTH, height=PLOT_HEIGHT, title=title)
    return render(chart, f"{title}: observed, against the law '{law['law']}', fitted and forecast.")


def _or(value: float | None, otherwise: float) -> float:
    return otherwise if value is None else value
