"""Distributions of a subset over those of its pool, as charts of one panel each."""

import math
from collections.abc import Mapping
from typing import Any

import altair as alt
import numpy as np
import numpy.typing as npt

from mimcore.scaling.drawing import PLOT_WIDTH, Panel, render

F64 = npt.NDArray[np.float64]

SUBSET, POOL = "#0b78be", "#868e96"
#: Entries of the legend: a line and an area, as in the charts.
KEYS = [
    (
        f'<svg width="30" height="12" aria-hidden="true"><path d="M0 6H30" stroke="{SUBSET}" stroke-width="2.2"/></svg>',
        "subset",
    ),
    (
        f'<svg width="30" height="12" aria-hidden="true"><rect width="30" height="12" fill="{POOL}" opacity="0.5"/></svg>',
        "pool",
    ),
]
_BINS, _HEIGHT = 40, 150
#: The ends of an axis are at these parts of the pool; what lies beyond counts in the last bin.
_ENDS = (0.002, 0.998)
#: An axis is logarithmic where values are above zero and nine in ten of them are so many times apart.
_WIDE = 30.0
#: From here on numbers are written with k and M.
_LARGE = 10_000
#: Whole numbers of so many different values have a bin each.
_FEW = 40


def histogram(subset: F64, pool: F64) -> tuple[F64, F64, F64, bool]:
    """Shares of both in common bins.

    Returns:
        edges ``(B + 1,)``, the subset's and the pool's shares ``(B,)``, which add up to 1 each, and whether the edges
        are spaced by their logarithm.
    """
    one, other = (values[~np.isnan(values)] for values in (subset, pool))
    both = np.concatenate([one, other])
    distinct = np.unique(both)
    logarithmic = False
    if len(distinct) <= _FEW and np.all(distinct == np.rint(distinct)) and np.ptp(distinct) < 2 * _FEW:
        edges = np.arange(distinct[0], distinct[-1] + 2) - 0.5
    else:
        low, least, most, high = np.quantile(both, (_ENDS[0], 0.05, 0.95, _ENDS[1]))
        if low == high:
            (low, high) = (least, most) = distinct[0], distinct[-1]
        logarithmic = bool(distinct[0] > 0 and most / least > _WIDE)
        edges = np.geomspace(low, high, _BINS + 1) if logarithmic else np.linspace(low, high, _BINS + 1)
    inside = [np.clip(values, edges[0], edges[-1]) for values in (one, other)]
    shares = [np.histogram(values, edges)[0] / max(len(values), 1) for values in inside]
    return edges, shares[0], shares[1], logarithmic


def numbers(name: str, subset: F64, pool: F64) -> Panel:
    """A distribution of numbers: the pool as an area, the subset as a line."""
    edges, ours, theirs, logarithmic = histogram(subset, pool)
    whole = edges[0] % 1 == 0.5 and np.all(np.diff(edges) == 1)
    points = {
        which: [
            {"x": float(x), "y": 100 * float(y)}
            for x, y in zip(edges, [*shares.tolist(), float(shares[-1])], strict=True)
        ]
        for which, shares in (("pool", theirs), ("subset", ours))
    }
    scale = alt.Scale(type="log" if logarithmic else "linear", nice=False, zero=False, domain=[edges[0], edges[-1]])
    ticks: dict[str, Any] = {"tickCount": 6}
    if logarithmic:
        ticks = {"values": _ticks(edges[0], edges[-1])}
    elif whole:
        middles = (edges[:-1] + 0.5).astype(int)
        ticks = {"values": middles[:: -(-len(middles) // 12)].tolist(), "format": "d"}
    if edges[-1] >= _LARGE:
        ticks["format"] = "~s"
    x = alt.X("x:Q", scale=scale, title=name, axis=alt.Axis(grid=False, **ticks))
    y = alt.Y("y:Q", title="% of images", axis=alt.Axis(tickCount=4))
    area = alt.Chart({"values": points["pool"]}).mark_area(interpolate="step-after", color=POOL, opacity=0.35)
    line = alt.Chart({"values": points["subset"]}).mark_line(interpolate="step-after", color=SUBSET, strokeWidth=1.8)
    chart = alt.layer(area.encode(x=x, y=y), line.encode(x=x, y=y)).properties(width=PLOT_WIDTH, height=_HEIGHT)
    return render(chart, f"Distribution of {name} in the subset and in the pool.")


def shares(title: str, subset: Mapping[str, float], pool: Mapping[str, float]) -> Panel:
    """Shares of named things, a pair of bars each, in their order."""
    points = [
        {"name": name, "which": which, "y": 100 * found.get(name, 0.0)}
        for name in pool
        for which, found in (("subset", subset), ("pool", pool))
    ]
    colour = alt.Color("which:N", scale=alt.Scale(domain=["subset", "pool"], range=[SUBSET, POOL]), legend=None)
    axis: dict[str, Any] = {"sort": list(pool), "title": None}
    chart = (
        alt.Chart({"values": points})
        .mark_bar(height=5)
        .encode(
            x=alt.X("y:Q", title="% of images", axis=alt.Axis(tickCount=5)),
            y=alt.Y("name:N", **axis, axis=alt.Axis(labelLimit=150, ticks=False, domain=False)),
            yOffset=alt.YOffset("which:N", sort=["subset", "pool"]),
            color=colour,
        )
        .properties(width=PLOT_WIDTH + 40 - min(150, 7 * max(map(len, pool))), height=max(_HEIGHT, 15 * len(pool)))
    )
    return render(chart, title)


def _ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 of each power of ten."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    every = [digit * 10.0**power for power in powers for digit in (1, 2, 5)]
    found = [tick for tick in every if low <= tick <= high]
    return found if len(found) <= 8 else [tick for tick in found if f"{tick:e}".startswith("1")]
