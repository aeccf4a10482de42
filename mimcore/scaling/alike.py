"""Do two ways to draw as many images come to the same? Tests of equivalence, and their figure."""

import itertools
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt
import numpy as np

from mimcore.scaling.drawing import INK, MODEL_COLOURS, PLOT_WIDTH, Panel, render
from mimcore.scaling.equivalence import Equivalence, tost
from mimcore.scaling.layers import data
from mimcore.scaling.table import VAL_LOSS, Run, Setting

#: Level of each one-sided test.
ALPHA = 0.05


@dataclass(frozen=True)
class Pair:
    """Two subsets of as many images under one setting, and the test of their validation losses, paired by seed.

    ``margin`` and the differences of ``test`` are in per cent of the mean loss.
    """

    setting: Setting
    first: str
    second: str
    margin: float
    test: Equivalence


def alike(runs: Sequence[Run], margin: float) -> list[Pair]:
    """Test every pair of subsets that have as many images, where two or more seeds have both.

    Args:
        runs: of the results.
        margin: the difference that would matter, as a fraction of the loss.
    """
    cells: dict[tuple[Setting, int], dict[str, dict[str, float]]] = defaultdict(lambda: defaultdict(dict))
    for run in runs:
        cells[run.setting, run.unique_images][run.subset][run.seed] = run.values[VAL_LOSS]
    found = []
    for (setting, _), subsets in cells.items():
        for first, second in itertools.combinations(sorted(subsets), 2):
            seeds = sorted(set(subsets[first]) & set(subsets[second]))
            if len(seeds) > 1:
                losses = np.array([[subsets[name][seed] for seed in seeds] for name in (first, second)])
                losses *= 100 / losses.mean()
                test = tost(losses[0], losses[1], 100 * margin, paired=True, alpha=ALPHA)
                found.append(Pair(setting, first, second, 100 * margin, test))
    return found


def figure(pairs: Sequence[Pair]) -> list[Panel]:
    """The interval of each difference beside the margin; none where there is no pair."""
    if not pairs:
        return []
    points: list[dict[str, Any]] = [
        {
            "pair": f"{pair.first} − {pair.second}, {pair.setting}",
            "difference": pair.test.difference,
            "low": pair.test.low,
            "high": pair.test.high,
            "verdict": "equivalent" if pair.test.equivalent else "not shown",
        }
        for pair in pairs
    ]
    margin = pairs[0].margin
    y = alt.Y("pair:N", title=None, axis=alt.Axis(labelLimit=260))
    colour = alt.Color(
        "verdict:N",
        scale=alt.Scale(domain=["equivalent", "not shown"], range=[MODEL_COLOURS[2], MODEL_COLOURS[1]]),
        legend=None,
    )
    band = alt.Chart(data([{"low": -margin, "high": margin}])).mark_rect(opacity=0.08, color=INK)
    base = alt.Chart(data(points))
    chart = alt.layer(
        band.encode(x=alt.X("low:Q", title="difference of the validation loss, %"), x2="high:Q"),
        base.mark_rule(strokeWidth=2).encode(x="low:Q", x2="high:Q", y=y, color=colour),
        base.mark_point(filled=True, size=50, opacity=1).encode(x="difference:Q", y=y, color=colour),
    )
    about = "Differences of the validation loss between subsets of as many images, with their intervals and the margin."
    return [
        render(chart.properties(width=PLOT_WIDTH, height=24 * len(points), title="Subsets of as many images"), about)
    ]
