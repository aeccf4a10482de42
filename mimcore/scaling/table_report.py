"""The report of one law on one table, ours or anybody's: ``mimcore fit TABLE --report FOLDER``."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import altair as alt
import numpy as np
from altair.utils.schemapi import debug_mode
from numpy.typing import NDArray

from mimcore import artifacts
from mimcore.scaling import table_figures, table_outlook, tables
from mimcore.scaling.chosen import GREY
from mimcore.scaling.drawing import INK, MODEL_COLOURS, PLOT_HEIGHT, PLOT_WIDTH, Key, Panel, render, size_colours
from mimcore.scaling.estimate import Fit
from mimcore.scaling.figure import Figure, Section, Table
from mimcore.scaling.layers import capital, data, padded
from mimcore.scaling.numbers import interval, number, short
from mimcore.scaling.observations import Observations
from mimcore.scaling.report import page
from mimcore.scaling.table import Array
from mimcore.scaling.table_diagnostics import sentences

#: Values of a variable up to which each has a colour, or a panel, of its own.
MOST = 8
#: What is shown along the axis, and by colour, where the law has it.
FIRST = ("unique_images", "images_seen", "encoder_params")
HELD, FITTED = "held out, forecast", "fitted"
COLOURS = {HELD: MODEL_COLOURS[1], FITTED: GREY}
KEYS = [Key(name, colour, mark="dot") for name, colour in COLOURS.items()]


def write(
    fit: Fit,
    rows: Observations,
    held_out: NDArray[Any],
    task: Array | None,
    found: Mapping[str, Any],
    scale: Sequence[Figure],
    title: str,
    output: Path,
) -> None:
    """Write ``report.html``, its figures as PNG and SVG, ``report.md`` and ``tables.tex``.

    Args:
        fit: the law, fitted to the rows that were not held out.
        rows: all of them.
        held_out: bool ``(N,)``.
        task: of each row, ``(N,)``; None without one.
        found: what ``fit_table`` returns.
        scale: see ``table_figures.scale``.
        title: of the page.
        output: the folder to write.
    """
    with artifacts.directory(output) as folder, debug_mode(False):
        sections = [
            Section("law", "The law and the rows", tuple(_law(fit, rows, held_out))),
            Section(
                "evidence", "How well it holds", (_predictions(rows, held_out, found), _residuals(fit, rows, held_out))
            ),
            *([Section("scale", "More data, and budgets", scale)] if scale else []),
            *table_figures.sections(rows, task, found),
        ]
        for section in sections:
            for figure in section.figures:
                figure.save(folder)
        told = {
            "title": title,
            "law": found["law"],
            "quantity": found["metric"]["quantity"],
            "answers": _answers(found),
            "parameters": _parameters(found),
        }
        beside = {**told, "sections": sections}
        (folder / "report.md").write_text(tables.table_markdown(beside), encoding="utf-8")
        (folder / "tables.tex").write_text(tables.table_latex(beside), encoding="utf-8")
        text = page({**told, "rows": _rows(found, fit)}, sections, "table.html.j2")
        (folder / "report.html").write_text(text, encoding="utf-8")


def _answers(found: Mapping[str, Any]) -> list[str]:
    name = found["metric"]["name"]
    said = [
        f"{found['rows']} rows of {name} fitted: R² {found['r2']:.4f}, root mean square error {number(found['rmse'])}."
    ]
    if found["rmse_holdout"] is not None:
        held = [one for one in found["predictions"] if one["held_out"]]
        inside = [
            one for one in held if one["run_low"] is not None and one["run_low"] <= one["observed"] <= one["run_high"]
        ]
        said.append(
            f"{len(held)} rows held out ({found['holdout']}) are forecast with an error of {number(found['rmse_holdout'])}; "
            f"{len(inside)} of them lie in the {100 * found['options']['confidence']:g} % interval of a run."
        )
        known = {key: value for key, value in found["baselines"].items() if value is not None}
        if known:
            best = min(known, key=lambda key: known[key])
            said.append(f"The best forecast without a law, {best.replace('_', ' ')}, is off by {number(known[best])}.")
    else:
        said.append("No rows were held out (--holdout): nothing here says how well the law forecasts.")
    loose = [key for key, one in found["parameters"].items() if not one["identifiable"]]
    if loose:
        said.append(
            f"Not pinned down by these rows: {', '.join(loose)}. Read the curve and its band, not these numbers."
        )
    return [*said, *table_outlook.sentences(found), *sentences(found)]


def _parameters(found: Mapping[str, Any]) -> Table:
    return Table(
        ("parameter", "value and interval", "by profile likelihood", "unit", "pinned down"),
        tuple(
            (
                name,
                f"{number(one['value'])}" + _ends(one["low"], one["high"]),
                _ends(one["profile_low"], one["profile_high"]).strip(),
                one["unit"],
                "yes" if one["identifiable"] else "no",
            )
            for name, one in found["parameters"].items()
        ),
    )


def _ends(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f" [{number(low)}, {number(high)}]"


def _rows(found: Mapping[str, Any], fit: Fit) -> Table:
    names = [variable.name for variable in fit.law.variables]
    return Table(
        ("row", *names, "observed", "by the law", "of a run", ""),
        tuple(
            (
                one["label"],
                *(_short(one[name]) for name in names),
                number(one["observed"], 4),
                interval(one["predicted"], one["low"], one["high"], 4),
                _ends(one["run_low"], one["run_high"]).strip(),
                "held out" if one["held_out"] else "",
            )
            for one in found["predictions"]
        ),
    )


def _law(fit: Fit, rows: Observations, held_out: NDArray[Any]) -> list[Figure]:
    scaling = [variable.name for variable in fit.law.variables if variable.scales]
    off = [variable.name for variable in fit.law.variables if not variable.scales]
    order = [name for name in FIRST if name in scaling] + [name for name in scaling if name not in FIRST]
    along, rest = order[0], order[1:]
    colour = rest[-1] if rest else None
    panel = rest[0] if len(rest) > 1 else None
    values = _values(rows, panel) if panel else [None]
    colours = _values(rows, colour) if colour else []
    panels = [
        _panel(fit, rows, held_out, along, colour, colours, panel, value)
        for value in (values if len(values) <= MOST else [None])
    ]
    keys = [
        Key(f"{capital(_words(str(colour)))} {_short(v)}", c)
        for v, c in zip(colours, size_colours(len(colours) or 1), strict=False)
    ]
    return [
        Figure(
            "law",
            f"{capital(rows.name)} against {_words(along)}",
            "A marker for each row, hollow where it was held out, and the law with its interval over refits"
            + (f"; a panel for each value of {_words(panel)}." if panel else ".")
            + (f" The curves are those without a shift: {' and '.join(off)} 0." if off else ""),
            "the spread of single runs, which is wider than the law's interval, or what another form of law would say.",
            panels,
            keys if len(colours) <= MOST else [],
        )
    ]


def _values(rows: Observations, name: str) -> list[Any]:
    return sorted(set(rows.variables[name].tolist()))


def _panel(
    fit: Fit,
    rows: Observations,
    held_out: NDArray[Any],
    along: str,
    colour: str | None,
    colours: list[Any],
    panel: str | None,
    value: Any,
) -> Panel:
    here = np.ones(len(rows), dtype=bool) if panel is None or value is None else rows.variables[panel] == value
    x_all = rows.variables[along]
    grid = np.geomspace(x_all.min(), x_all.max(), 40)
    curves: list[dict[str, Any]] = []
    points: list[dict[str, Any]] = []
    marks = colours if 0 < len(colours) <= MOST else [None]
    names = [_short(mark) if mark is not None else "all" for mark in marks]
    for name, mark in zip(names, marks, strict=True):
        part = here if mark is None or colour is None else here & (rows.variables[colour] == mark)
        if not part.any():
            continue
        for i in np.flatnonzero(part):
            points.append(
                {
                    "row": rows.labels[i],
                    "x": float(x_all[i]),
                    "y": float(rows.metric[i]),
                    "of": name,
                    "held_out": bool(held_out[i]),
                }
            )
        # At the others' typical values; indicators are off, as they are for most rows.
        at = {
            variable.name: np.full(len(grid), float(np.median(rows.variables[variable.name][part])))
            if variable.scales
            else np.zeros(len(grid))
            for variable in fit.law.variables
        }
        told = fit.predict({**at, along: grid})
        curves += [
            {
                "x": float(n),
                "y": float(y),
                "low": float(min(a, b)),
                "high": float(max(a, b)),
                "of": name,
            }
            for n, y, a, b in zip(grid, told.mean, told.low, told.high, strict=True)
            if np.isfinite(a) and np.isfinite(b)
        ]
    every = [point["y"] for point in points] + [point["y"] for point in curves]
    scale = alt.Scale(domain=padded(every), nice=False, zero=False, clamp=True)
    wide = alt.Scale(type="log", nice=False, domain=[float(grid[0]) / 1.1, float(grid[-1]) * 1.1])
    x = alt.X(
        "x:Q",
        scale=wide,
        title=_words(along),
        axis=_log_axis(),
    )
    y = alt.Y("y:Q", scale=scale, title=rows.name, axis=alt.Axis(tickCount=6))
    tint = alt.Color("of:N", scale=alt.Scale(domain=names, range=size_colours(len(names))), legend=None)
    base = alt.Chart(data(curves))
    chart = alt.layer(
        base.mark_area(opacity=0.13, clip=True).encode(x=x, y=alt.Y("low:Q", scale=scale), y2="high:Q", color=tint),
        base.mark_line(strokeWidth=2, clip=True).encode(x=x, y=y, color=tint),
        alt.Chart(data(points))
        .mark_point(size=44, strokeWidth=1.6)
        .encode(
            x=x,
            y=y,
            color=tint,
            fill=alt.Fill("of:N", scale=alt.Scale(domain=names, range=size_colours(len(names))), legend=None),
            fillOpacity=alt.condition("datum.held_out", alt.value(0), alt.value(0.85)),
        ),
    )
    title = capital(f"{_words(panel)} {_short(value)}" if panel and value is not None else rows.name)
    return render(
        chart.properties(width=PLOT_WIDTH, height=PLOT_HEIGHT, title=title),
        f"{rows.name} against {_words(along)}: {title}.",
    )


def _predictions(rows: Observations, held_out: NDArray[Any], found: Mapping[str, Any]) -> Figure:
    points = [
        {
            "row": one["label"],
            "observed": one["observed"],
            "law": one["predicted"],
            "what": HELD if one["held_out"] else FITTED,
        }
        for one in found["predictions"]
    ]
    domain = padded([point[part] for point in points for part in ("observed", "law")])
    scale = alt.Scale(domain=domain, nice=False, zero=False)
    x = alt.X("observed:Q", scale=scale, axis=alt.Axis(tickCount=6), title=f"observed {rows.name}")
    y = alt.Y("law:Q", scale=scale, axis=alt.Axis(tickCount=6), title="by the law")
    same = alt.Chart(data([{"observed": value, "law": value} for value in domain]))
    chart = alt.layer(
        same.mark_line(opacity=0.35, strokeWidth=1, color=INK).encode(x=x, y=y),
        alt.Chart(data(points)).mark_point(size=44, filled=True, opacity=0.85).encode(x=x, y=y, color=_what()),
    )
    drawn = render(
        chart.properties(width=PLOT_WIDTH, height=PLOT_HEIGHT, title="Observed and by the law"),
        "Observed against the law.",
    )
    hides = (
        "how it would do further out than the rows held out."
        if held_out.any()
        else "any forecast: every row was fitted."
    )
    return Figure(
        "predictions",
        "Observed and by the law",
        "A point for each row; on the line the law is right.",
        hides,
        [drawn],
        KEYS,
    )


def _residuals(fit: Fit, rows: Observations, held_out: NDArray[Any]) -> Figure:
    told = fit.predict(rows.variables)
    off = rows.metric - told.mean
    panels = []
    for variable in fit.law.variables:
        values = rows.variables[variable.name]
        if not variable.scales or np.ptp(values) == 0:
            continue
        points = [
            {
                "row": rows.labels[i],
                "x": float(values[i]),
                "off": float(off[i]),
                "what": HELD if held_out[i] else FITTED,
            }
            for i in range(len(rows))
        ]
        wide = alt.Scale(type="log", nice=False, domain=[float(values.min()) / 1.12, float(values.max()) * 1.12])
        zero = alt.Chart(data([{"off": 0}])).mark_rule(opacity=0.4, color=INK).encode(y="off:Q")
        marks = alt.Chart(data(points)).mark_point(size=44, filled=True, opacity=0.8)
        x = alt.X("x:Q", scale=wide, axis=_log_axis(), title=_words(variable.name))
        y = alt.Y("off:Q", title="observed − law", axis=alt.Axis(tickCount=6, format="~g"))
        chart = alt.layer(zero, marks.encode(x=x, y=y, color=_what()))
        title = f"Residuals against {_words(variable.name)}"
        panels.append(render(chart.properties(width=PLOT_WIDTH, height=PLOT_HEIGHT, title=title), f"{title}."))
    return Figure(
        "residuals",
        "How far the law is off",
        "A point for each row. A pattern means that the law lacks something.",
        "that the law holds beyond the rows, even where there is no pattern.",
        panels,
        KEYS,
    )


def _log_axis() -> Any:
    """Counts in thousands, millions and billions, called as everywhere else."""
    billions = "replace(datum.label, 'G', 'B')"
    return alt.Axis(format=".2~s", labelExpr=billions, tickCount=5, grid=False, labelOverlap="greedy")


def _what() -> Any:
    return alt.Color("what:N", scale=alt.Scale(domain=list(COLOURS), range=list(COLOURS.values())), legend=None)


def _words(name: str) -> str:
    return {"encoder_params": "parameters"}.get(name, name.replace("_", " "))


def _short(value: float) -> str:
    return short(value) if abs(value) >= 1000 else number(value, 4)
