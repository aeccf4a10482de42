"""Where more data stops paying: the gain of doubling the images for each model, by one law for all runs, and its figure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt
import numpy as np

from mimcore.scaling.chosen import extrapolating, preferred
from mimcore.scaling.drawing import INK, PLOT_HEIGHT, PLOT_WIDTH, Key, Panel, render
from mimcore.scaling.estimate import Fit
from mimcore.scaling.figure import Figure, Table
from mimcore.scaling.layers import capital, data
from mimcore.scaling.numbers import number, short
from mimcore.scaling.observations import Observations
from mimcore.scaling.outlook import LOSS, Asked, Outlook, fit_one
from mimcore.scaling.plots import Figures
from mimcore.scaling.pools import PREFIX, at_pool, by_pool, shifted_in
from mimcore.scaling.saturation import saturates
from mimcore.scaling.statistics import Interval
from mimcore.scaling.summary import label
from mimcore.scaling.table import Run

#: Doublings beyond the largest subset that the figure shows.
AHEAD = 4


@dataclass(frozen=True)
class Saturated:
    """Beyond ``images`` a doubling buys less than ``gain``, of a model at its longest schedule."""

    model: str
    parameters: float
    images_seen: float
    gain: float
    images: Interval

    @property
    def beyond(self) -> str:
        """The number of images with its interval, in words."""
        low, high = self.images.low, self.images.high
        ends = "" if low is None or high is None else f" [{_images(low)}, {_images(high)}]"
        return f"{_images(self.images.estimate)}{ends}"


def saturated(fit: Fit, runs: Sequence[Run], margin: float) -> list[Saturated]:
    """Find it for each model.

    Args:
        fit: of a law in unique images, at least.
        runs: that it was fitted to, of its first pool.
        margin: the gain that is worth a doubling, as a fraction of the lowest loss, or of the highest score.
    """
    law = {variable.name for variable in fit.law.variables}
    metric = _first_pool(fit).metric
    best = metric.min() if fit.observations.link.ceiling is None else metric.max()
    gain = margin * float(best)
    found = []
    for model, parameters in _models(runs).items():
        longest = max(float(run.images_seen) for run in runs if run.setting.model == model)
        at = {name: value for name, value in (("encoder_params", parameters), ("images_seen", longest)) if name in law}
        at |= {name: float(values[0]) for name, values in at_pool(fit, None, 1).items()}
        found.append(Saturated(model, parameters, longest, gain, saturates(fit, "unique_images", at, gain)))
    return found


def figure(drawn: Figures, asked: Asked, outlooks: Mapping[str, Outlook | str]) -> Figure:
    """Where more images stop paying, for each model and objective; or what the study lacks for it.

    Args:
        drawn: the study.
        asked: the metric.
        outlooks: one law of it for all runs of each objective, or a sentence why there is none.
    """
    margin, confidence = (float(drawn.fitted["options"][name]) for name in ("margin", "confidence"))
    loss = asked == LOSS
    panels, rows, reasons, of_pools = [], [], [], []
    for objective, one in outlooks.items():
        runs = asked.of(drawn.runs, objective)
        fit = one if isinstance(one, str) else one.fit
        if isinstance(fit, str) or "unique_images" not in {variable.name for variable in fit.law.variables}:
            known = [("model_data" if len({run.encoder_params for run in runs}) > 1 else "power")] if loss else []
            better = (
                preferred(drawn.fitted, objective) if loss else extrapolating(drawn.fitted, objective, asked.measure)
            )
            if isinstance(better, str):
                reasons.append(better)
                continue
            fit = fit_one(runs, asked, confidence, [*better, *known], {"unique_images"})
        if isinstance(fit, str):
            what = "" if loss else f" of the {label(asked.measure)}"
            reasons.append(f"No law in unique images{what} could be fitted to the runs of {objective}: {fit}")
            continue
        pool, mine = next(iter(by_pool(runs).items()))
        found = saturated(fit, mine, margin)
        if pool:
            of_pools.append(
                f"The runs of {objective} are of several pools: this is of images of {pool}, which has the most."
            )
        panels.append(_panel(fit, found, drawn.model_colours, objective))
        rows += [(objective, part.model, short(part.images_seen), number(part.gain, 2), part.beyond) for part in found]
    name = "saturation" if loss else f"saturation-{asked.measure.task}"
    if not panels:
        return Figure(name, "Where more data stops paying", missing=" ".join(reasons))
    rises = asked.measure.higher_is_better
    change = "fall of the loss" if loss else f"{'rise' if rises else 'fall'} of the {label(asked.measure)}"
    best = "lowest loss" if loss else "highest score" if rises else "lowest value"
    return Figure(
        name,
        "Where more data stops paying",
        f"The {change} that doubling the images buys by one law for all runs, with its interval. The dashed line is "
        f"{100 * margin:g} % of the {best} (the fit's option 'margin'); right of the dotted line lie no "
        f"runs. The table says beyond how many "
        f"images a doubling buys less than that.{''.join(f' {said}' for said in (*of_pools, *(() if loss else reasons)))}",
        f"that {'a task' if loss else 'another task'} saturates there too, or that other images than more of the same kind would not help.",
        panels,
        [Key(model, colour) for model, colour in drawn.model_colours.items()],
        Table(("objective", "model", "images seen", "a doubling must buy", "it buys less beyond"), tuple(rows)),
    )


def _panel(fit: Fit, found: Sequence[Saturated], colours: Mapping[str, str], objective: str) -> Panel:
    """The gain of a doubling against the images that are doubled, with the gain that would be worth it."""
    sign = 1.0 if fit.observations.link.ceiling is None else -1.0
    change = f"{'fall' if sign > 0 else 'rise'} of the {fit.observations.name}"
    sizes = _first_pool(fit).variables["unique_images"]
    grid = sizes.min() * 2 ** np.linspace(0, np.log2(sizes.max() / sizes.min()) + AHEAD, 60)
    names = {variable.name for variable in fit.law.variables}
    points: list[dict[str, Any]] = []
    for model in found:
        at = {"encoder_params": model.parameters, "images_seen": model.images_seen}
        rows = {name: np.full(len(grid), value) for name, value in at.items() if name in names}
        rows |= at_pool(fit, None, len(grid))
        before = fit.predict({**rows, "unique_images": grid})
        after = fit.predict({**rows, "unique_images": 2 * grid})
        gains = sign * (before.mean - after.mean)
        low = high = gains
        if len(before.ensemble):
            tail = 0.5 - fit.confidence / 2
            low, high = np.quantile(sign * (before.ensemble - after.ensemble), [tail, 1 - tail], axis=0)
        points += [
            {"model": model.model, "images": float(n), "gain": float(g), "low": float(a), "high": float(b)}
            for n, g, a, b in zip(grid, gains, low, high, strict=True)
        ]
    top = 1.15 * max(max(point["gain"] for point in points), found[0].gain * 2)
    scale = alt.Scale(domain=[min(0.0, min(point["gain"] for point in points)), top], nice=False, clamp=True)
    colour = alt.Color("model:N", scale=alt.Scale(domain=list(colours), range=list(colours.values())), legend=None)
    wide = alt.Scale(type="log", nice=False, domain=[float(grid[0]), float(grid[-1])])
    x = alt.X(
        "images:Q", scale=wide, axis=alt.Axis(format=".2~s", tickCount=5, grid=False), title="unique images, doubled"
    )
    y = alt.Y("gain:Q", scale=scale, axis=alt.Axis(tickCount=6), title=change)
    base = alt.Chart(data(points))
    worth = alt.Chart(data([{"gain": found[0].gain}])).mark_rule(strokeDash=[4, 3], opacity=0.6, color=INK)
    last = alt.Chart(data([{"images": float(sizes.max())}])).mark_rule(strokeDash=[2, 3], opacity=0.3, color=INK)
    chart = alt.layer(
        base.mark_area(opacity=0.13, clip=True).encode(x=x, y=alt.Y("low:Q", scale=scale), y2="high:Q", color=colour),
        base.mark_line(strokeWidth=2, clip=True).encode(x=x, y=y, color=colour),
        worth.encode(y=alt.Y("gain:Q", scale=scale)),
        last.encode(x=alt.X("images:Q", scale=wide)),
    )
    title = capital(f"gain of twice the images ({objective})")
    about = f"{capital(change)} by doubling the images, for each model; {number(found[0].gain, 2)} is marked."
    return render(chart.properties(width=PLOT_WIDTH, height=PLOT_HEIGHT, title=title), about)


def _first_pool(fit: Fit) -> Observations:
    """The rows whose level is the law's own: that of the curve."""
    rows = fit.observations
    further = [rows.variables[PREFIX + pool] == 1 for pool in shifted_in(rows)]
    return rows.only(~np.any(further, axis=0)) if further else rows


def _models(runs: Sequence[Run]) -> dict[str, float]:
    return {run.setting.model: float(run.encoder_params) for run in sorted(runs, key=lambda run: run.encoder_params)}


def _images(value: float) -> str:
    return short(value) if np.isfinite(value) else "more than was looked at"
