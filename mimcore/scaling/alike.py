"""Do two ways come to the same? Tests of equivalence of subsets of as many images, and of objectives, at equal other coordinates."""

import itertools
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt
import numpy as np

from mimcore.scaling.drawing import INK, MODEL_COLOURS, PLOT_WIDTH, Key, Panel, render
from mimcore.scaling.effects import Comparison, coordinate
from mimcore.scaling.equivalence import Equivalence, tost
from mimcore.scaling.layers import capital, data
from mimcore.scaling.summary import label
from mimcore.scaling.table import PRETRAIN, Measure, Run

#: Level of each one-sided test.
ALPHA = 0.05
#: Pairs that one panel shows.
MOST = 24
VERDICTS = {"equivalent": MODEL_COLOURS[2], "different": MODEL_COLOURS[1], "cannot tell": "#868e96"}
KEYS = [Key(verdict, colour, mark="dot") for verdict, colour in VERDICTS.items()]


@dataclass(frozen=True)
class Pair:
    """Two that differ in one thing, and the test of a measure, paired by seed, on the mean over all settings that both have.

    ``margin`` and the difference of ``test`` (second minus first) are in per cent of the mean of both; ``settings`` counts them.
    """

    first: str
    second: str
    measure: Measure
    objective: str | None
    margin: float
    settings: int
    test: Equivalence

    @property
    def verdict(self) -> str:
        """``equivalent``, ``different`` (the interval is beyond the margin) or ``cannot tell``."""
        if self.test.equivalent:
            return "equivalent"
        beyond = self.test.low > self.margin or self.test.high < -self.margin
        return "different" if beyond else "cannot tell"


def alike(runs: Sequence[Run], measures: Sequence[Measure], margin: float) -> list[Pair]:
    """Test every pair of subsets of as many images, and of objectives, of which two or more seeds have both.

    Losses of two objectives are of different things and are not compared, and losses of two pools are on other validation images:
    subsets of two are compared by their tasks.

    Args:
        runs: of the results.
        measures: what is compared.
        margin: the difference that would matter, as a fraction of the mean.
    """
    found: list[Pair] = []
    for measure in measures:
        key = (measure.task, measure.metric)
        having = [run for run in runs if key in run.values]
        for objective in dict.fromkeys(coordinate(run, "objective") for run in having):
            mine = [run for run in having if coordinate(run, "objective") == objective]
            for names in _subsets(mine, apart=measure.task == PRETRAIN):
                found += _pair(
                    mine,
                    Comparison(({"subset": names[0]}, {"subset": names[1]}), None, _value(key), None),
                    names,
                    measure,
                    objective,
                    margin,
                )
        if measure.task != PRETRAIN:
            objectives = list(dict.fromkeys(coordinate(run, "objective") for run in having))
            for names in itertools.combinations(objectives, 2):
                found += _pair(
                    having,
                    Comparison(({"objective": names[0]}, {"objective": names[1]}), None, _value(key), None),
                    names,
                    measure,
                    None,
                    margin,
                )
    return found


def _value(key: tuple[str, str]) -> Any:
    return lambda run: run.values[key]


def _subsets(runs: Sequence[Run], apart: bool) -> Iterator[tuple[str, ...]]:
    """Subsets of as many images, of one pool where pools are kept ``apart``."""
    sizes: dict[tuple[int, str | None], set[str]] = defaultdict(set)
    for run in runs:
        sizes[run.unique_images, run.pool if apart else None].add(run.subset)
    for names in sizes.values():
        yield from itertools.combinations(sorted(names), 2)


def _pair(
    runs: Sequence[Run],
    compared: Comparison,
    names: tuple[str, ...],
    measure: Measure,
    objective: str | None,
    margin: float,
) -> Iterator[Pair]:
    effects = compared.effects(runs)
    seeds = [seed for seed in next(iter(effects.values()), {}) if all(seed in one for one in effects.values())]
    if len(seeds) < 2:
        return
    means = np.array([np.mean([one[seed] for one in effects.values()]) for seed in seeds])
    both = [run for part in compared.parts(runs) for run in part]
    means *= 100 / abs(float(np.mean([compared.value(run) for run in both])))
    test = tost(means, np.zeros(len(means)), 100 * margin, paired=True, alpha=ALPHA)
    yield Pair(names[0], names[1], measure, objective, 100 * margin, len(effects), test)


def figure(pairs: Sequence[Pair]) -> list[Panel]:
    """For each measure, the interval of each difference beside the margin."""
    found = []
    for measure in dict.fromkeys(pair.measure for pair in pairs):
        mine = [pair for pair in pairs if pair.measure == measure]
        several = len({pair.objective for pair in mine if pair.objective}) > 1
        found += [_panel(mine[i : i + MOST], measure, several) for i in range(0, len(mine), MOST)]
    return found


def _panel(pairs: Sequence[Pair], measure: Measure, several: bool) -> Panel:
    points: list[dict[str, Any]] = [
        {
            "pair": f"{pair.second} − {pair.first}" + (f", {pair.objective}" if several and pair.objective else ""),
            "difference": pair.test.difference,
            "low": pair.test.low,
            "high": pair.test.high,
            "verdict": pair.verdict,
            "settings": pair.settings,
        }
        for pair in pairs
    ]
    margin = pairs[0].margin
    # Two seeds can leave an interval of no use: it runs out of the panel, and the others can be read.
    usual = float(np.median([max(abs(pair.test.low), abs(pair.test.high)) for pair in pairs]))
    reach = max(3 * margin, min(3 * usual, max(max(abs(pair.test.low), abs(pair.test.high)) for pair in pairs)))
    scale = alt.Scale(domain=[-reach, reach], nice=False)
    order = [str(point["pair"]) for point in points]
    y = alt.Y("pair:N", title=None, sort=order, axis=alt.Axis(labelLimit=170, grid=False, domain=False, ticks=False))
    colour = alt.Color("verdict:N", scale=alt.Scale(domain=list(VERDICTS), range=list(VERDICTS.values())), legend=None)
    band = alt.Chart(data([{"low": -margin, "high": margin}])).mark_rect(opacity=0.08, color=INK)
    base = alt.Chart(data(points))
    chart = alt.layer(
        band.encode(x=alt.X("low:Q", scale=scale, title=f"difference of {label(measure)}, %"), x2="high:Q"),
        base.mark_rule(strokeWidth=2, clip=True).encode(x=alt.X("low:Q", scale=scale), x2="high:Q", y=y, color=colour),
        base.mark_point(filled=True, size=50, opacity=1, clip=True).encode(x="difference:Q", y=y, color=colour),
    )
    title = capital(label(measure))
    about = f"Differences of {label(measure)} with their intervals, and the margin within which they would not matter."
    return render(chart.properties(width=PLOT_WIDTH - 60, height=max(24 * len(points), 48), title=title), about)
