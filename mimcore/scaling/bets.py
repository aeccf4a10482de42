"""Forecasts that were stored before their runs: which were hit, and which still wait."""

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt

from mimcore.scaling.drawing import MODEL_COLOURS, PLOT_WIDTH, Key, Panel, render
from mimcore.scaling.figure import Figure, Table
from mimcore.scaling.layers import data, padded
from mimcore.scaling.numbers import number
from mimcore.scaling.words import hits

COLOURS = {"hit": MODEL_COLOURS[2], "missed": MODEL_COLOURS[1]}
#: Forecasts that the figure shows, the last first; the table has them all.
MOST = 30
KEYS = [Key("observed, hit", COLOURS["hit"], mark="dot"), Key("observed, missed", COLOURS["missed"], mark="dot")]
HEAD = ("run", "forecast", "interval", "observed", "", "law")


def figure(forecasts: Sequence[Mapping[str, Any]], judged: Sequence[Mapping[str, Any]]) -> Figure:
    """Intervals and what came of them; or a sentence where nothing was forecast."""
    name, title = "forecasts", "Hit or missed"
    waiting = len(forecasts) - len(judged)
    waits = f"{waiting} more wait for their runs, or are of runs that were defined otherwise." if waiting else ""
    if not judged:
        missing = (
            waits
            or "No run was forecast before it was made; 'mimcore forecast' stores forecasts of the runs that are still to come."
        )
        return Figure(name, title, missing=missing)
    return Figure(
        name,
        title,
        f"{hits(judged)} A forecast is stored before its run is made and not changed afterwards; a hit lies inside its interval. "
        f"{waits}".strip(),
        "whether a law is right: a wide interval is easily hit.",
        _panels(judged[-MOST:]),
        KEYS,
        Table(
            HEAD,
            tuple(
                (
                    one["run"],
                    number(one["value"], 4),
                    f"{number(one['low'], 4)} to {number(one['high'], 4)}",
                    number(one["observed"], 4),
                    "hit" if one["hit"] else "missed",
                    f"{one['law']}, {one['runs']} runs",
                )
                for one in judged
            ),
        ),
    )


def _panels(judged: Sequence[Mapping[str, Any]]) -> list[Panel]:
    found = []
    for measure in dict.fromkeys((one["task"], one["metric"]) for one in judged):
        points = [
            {part: one[part] for part in ("run", "value", "low", "high", "observed")}
            | {"came": "hit" if one["hit"] else "missed"}
            for one in judged
            if (one["task"], one["metric"]) == measure
        ]
        scale = alt.Scale(domain=padded([p[part] for p in points for part in ("low", "high", "observed")]), nice=False)
        base = alt.Chart(data(points))
        order = [point["run"] for point in points]
        y = alt.Y("run:N", title=None, sort=order, axis=alt.Axis(labelLimit=190, grid=False, domain=False, ticks=False))
        colour = alt.Color("came:N", scale=alt.Scale(domain=list(COLOURS), range=list(COLOURS.values())), legend=None)
        x = alt.X("low:Q", scale=scale, title=" ".join(measure).replace("pretrain val_loss", "validation loss"))
        chart = alt.layer(
            base.mark_rule(strokeWidth=5, opacity=0.3, color="#868e96").encode(x=x, x2="high:Q", y=y),
            base.mark_tick(color="#868e96", thickness=2).encode(x="value:Q", y=y),
            base.mark_point(filled=True, size=60, opacity=1).encode(x="observed:Q", y=y, color=colour),
        ).properties(width=PLOT_WIDTH - 60, height=max(24 * len(points), 48), title="Forecast and observed")
        found.append(render(chart, "Intervals of stored forecasts and what was observed."))
    return found
