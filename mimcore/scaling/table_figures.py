"""Figures of what anybody's table says beside its law: where data stop paying, budgets, cells that over-fitted, the loss against a task."""

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt
import numpy as np

from mimcore.scaling.drawing import INK, MODEL_COLOURS, PLOT_HEIGHT, PLOT_WIDTH, Key, render, size_colours
from mimcore.scaling.estimate import Fit
from mimcore.scaling.figure import Figure, Section, Table
from mimcore.scaling.layers import capital, data, padded
from mimcore.scaling.more_data import panel, paying
from mimcore.scaling.numbers import number, short, signed
from mimcore.scaling.observations import Observations
from mimcore.scaling.outlook import Division, Outlook
from mimcore.scaling.outlook_figures import divided
from mimcore.scaling.pools import PREFIX, levels, shifted_in
from mimcore.scaling.saturation import Saturated
from mimcore.scaling.table import POOL, Array
from mimcore.scaling.table_outlook import MARGIN, can_divide

#: Models up to which each has a colour of its own.
MOST = 8
FELL, ROSE, ROSE_ALONE = "loss fell", "loss rose", "loss rose, task did not fall"
COLOURS = {FELL: MODEL_COLOURS[0], ROSE: MODEL_COLOURS[1], ROSE_ALONE: MODEL_COLOURS[4]}


def scale(
    fit: Fit,
    saturated: Sequence[Saturated] | None,
    asked: bool,
    divided_: tuple[Outlook, Sequence[Division]] | None,
    lacks_flops: bool,
) -> list[Figure]:
    """Where more data stops paying, and which model for a budget; what the law says nothing of is left out.

    Args:
        fit: the law.
        saturated: of ``table_outlook.saturation``.
        asked: whether the gain that is worth a doubling was given.
        divided_: of ``table_outlook.budgets``.
        lacks_flops: whether no column says what a row cost.
    """
    found = [_saturation(fit, saturated, asked)] if saturated else []
    if divided_ is not None:
        one, parts = divided_
        found += [divided("budget", one, part, False) for part in parts]
    elif lacks_flops and can_divide(fit):
        lacks = "no column says what a row cost; give FLOPs of training as a variable 'flops', in the mapping or by --column flops=COLUMN."
        found.append(Figure("budget", "Which model for a budget", missing=lacks))
    return found


def _saturation(fit: Fit, saturated: Sequence[Saturated], asked: bool) -> Figure:
    name, rises = fit.observations.name, fit.observations.link.ceiling is not None
    colours = dict(zip((one.model for one in saturated), size_colours(len(saturated)), strict=True))
    gain = number(saturated[0].gain, 2)
    worth = (
        gain
        if asked
        else f"{100 * MARGIN:g} % of the {'highest' if rises else 'lowest'} {name}, {gain} (--gain takes another)"
    )
    first = levels(fit.observations.columns[POOL].tolist())[:1] if shifted_in(fit.observations) else ()
    off = [v.name for v in fit.law.variables if not v.scales and not v.name.startswith(PREFIX)]
    asides = [f"Its rows are of several pools: this is of images of {pool}." for pool in first]
    asides += [f"The curves and the dotted line are of rows without a shift: {' and '.join(off)} 0."] if off else []
    head = ("model", "images seen", "a doubling must gain", "it gains less beyond")
    rows = [(one.model, short(one.images_seen) if one.images_seen else "", gain, one.beyond) for one in saturated]
    return paying(
        "saturation",
        f"The {'rise' if rises else 'fall'} of the {name} that doubling the images buys by the law, of each model at its longest",
        worth,
        "a task" if not rises else "another task",
        [panel(fit, saturated, colours)],
        [Key(model, colour) for model, colour in colours.items()],
        Table(head, tuple(rows)),
        asides,
    )


def sections(rows: Observations, task: Array | None, found: Mapping[str, Any]) -> list[Section]:
    """One section, or none where the table has neither lengths nor a task.

    Args:
        rows: all of them.
        task: of each row, ``(N,)``; None without one.
        found: what ``fit_table`` returns.
    """
    figures = []
    if found["overfitting"]:
        figures.append(_overfitting(found["overfitting"], found))
    if found["proxy"] is not None and task is not None:
        figures.append(_scatter(rows, task, found["proxy"]))
    return [Section("beside", "Over-fitting, and what the loss stands in for", tuple(figures))] if figures else []


def _reading(one: Mapping[str, Any]) -> str:
    if not one["loss_rose"]:
        return FELL
    return ROSE_ALONE if one["task_fell"] is False else ROSE


def _overfitting(cells: Sequence[Mapping[str, Any]], found: Mapping[str, Any]) -> Figure:
    name = found["metric"]["name"]
    points = [{"cell": one["cell"], "change": one["loss_change"], "reading": _reading(one)} for one in cells]
    seen = [reading for reading in COLOURS if any(point["reading"] == reading for point in points)]
    colour = alt.Color("reading:N", scale=alt.Scale(domain=list(COLOURS), range=list(COLOURS.values())), legend=None)
    y = alt.Y(
        "cell:N",
        title=None,
        sort=[point["cell"] for point in points],
        axis=alt.Axis(labelLimit=230, grid=False, domain=False, ticks=False),
    )
    zero = alt.Chart(data([{"change": 0}])).mark_rule(opacity=0.4, color=INK).encode(x="change:Q")
    dots = alt.Chart(data(points)).mark_point(filled=True, size=55, opacity=1)
    x = alt.X("change:Q", title=f"{name}, longest less shortest", axis=alt.Axis(tickCount=6, format="~g"))
    chart = alt.layer(zero, dots.encode(x=x, y=y, color=colour))
    title = "Change of the loss with length"
    drawn = render(chart.properties(width=PLOT_WIDTH - 130, height=max(18 * len(points), 48), title=title), f"{title}.")
    task = None if found["proxy"] is None else str(found["proxy"]["task"])
    head = (
        "cell, by its longest run",
        f"change of {name}",
        *([f"{task}, against its best before"] if task else []),
        "",
    )
    return Figure(
        "overfitting",
        "Where the loss over-fits",
        "For each cell (rows that differ in their length alone) the loss at the longest less that at the shortest."
        + (f" The table has {task} at the longest less its best at any shorter length: the two disagree." if task else ""),
        "whether a change is more than seeds differ by, and a rise between the two ends.",
        [drawn],
        [Key(reading, COLOURS[reading], mark="dot") for reading in seen],
        Table(
            head,
            tuple(
                (
                    one["cell"],
                    signed(one["loss_change"]),
                    *([signed(one["task_change"])] if task else []),
                    _reading(one),
                )
                for one in cells
            ),
        ),
    )  # fmt: skip


def _scatter(rows: Observations, task: Array, told: Mapping[str, Any]) -> Figure:
    sizes = np.unique(rows.variables.get("encoder_params", np.empty(0))).tolist()
    named = {size: f"{short(size)} parameters" for size in sizes} if len(sizes) <= MOST else {}
    own = rows.variables.get("encoder_params")
    points = [
        {
            "row": rows.labels[i],
            "loss": float(rows.metric[i]),
            "task": float(task[i]),
            "of": "rows" if own is None else named.get(float(own[i]), "rows"),
        }
        for i in range(len(rows))
    ]
    names = list(named.values()) or ["rows"]
    tints = size_colours(len(names))
    chart = (
        alt.Chart(data(points))
        .mark_point(filled=True, size=55, opacity=0.85)
        .encode(
            x=alt.X(
                "loss:Q",
                scale=alt.Scale(domain=padded(rows.metric.tolist()), nice=False, zero=False),
                axis=alt.Axis(tickCount=6),
                title=rows.name,
            ),
            y=alt.Y(
                "task:Q",
                scale=alt.Scale(domain=padded(task.tolist()), nice=False, zero=False),
                axis=alt.Axis(tickCount=6),
                title=told["task"],
            ),
            color=alt.Color("of:N", scale=alt.Scale(domain=names, range=tints), legend=None),
        )
    )
    title = capital(f"{told['task']} against {rows.name}")
    return Figure(
        "proxy",
        f"Does the {rows.name} foretell {told['task']}?",
        "A marker for each row. The table has Pearson's and Spearman's correlation of parts of the rows; their intervals draw whole cells.",
        "that the loss is why: both follow data, model and length. Of fewer than four cells there is no interval.",
        [render(chart.properties(width=PLOT_WIDTH, height=PLOT_HEIGHT, title=title), f"{title}.")],
        [Key(name, colour, mark="dot") for name, colour in zip(names, tints, strict=True)] if named else [],
        Table(
            ("rows", "Pearson's r", "Spearman's ρ", "of"),
            tuple(
                (name, _correlation(one["pearson"]), _correlation(one["spearman"]), str(one["pearson"]["count"]))
                for name, one in told["parts"].items()
            ),
        ),
    )


def _correlation(one: Mapping[str, Any]) -> str:
    ends = "" if one["low"] is None else f" [{number(one['low'])}, {number(one['high'])}]"
    return f"{number(one['estimate'])}{ends}"
