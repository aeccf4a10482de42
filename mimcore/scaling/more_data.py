"""Where more data stops paying: the gain of doubling the images for each model, by one law for all runs, and its figure."""

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt
import numpy as np

from mimcore.scaling.chosen import extrapolating, preferred, through
from mimcore.scaling.drawing import INK, PLOT_HEIGHT, PLOT_WIDTH, Key, Panel, render
from mimcore.scaling.estimate import Fit
from mimcore.scaling.figure import Figure, Table
from mimcore.scaling.layers import capital, data
from mimcore.scaling.numbers import number, short
from mimcore.scaling.outlook import LOSS, Asked, Outlook, fit_one
from mimcore.scaling.plots import Figures
from mimcore.scaling.pools import at_pool, by_pool, unshifted
from mimcore.scaling.saturation import Saturated, saturated
from mimcore.scaling.summary import label

#: Doublings beyond the largest subset that the figure shows.
AHEAD = 4


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
            step = through(drawn.fitted, objective, asked.measure)
            fit = fit_one(runs, asked, confidence, [*better, *known], {"unique_images"}, step)
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
        panels.append(panel(fit, found, drawn.model_colours, objective))
        rows += [(objective, part.model, short(part.images_seen), number(part.gain, 2), part.beyond) for part in found]
    name = "saturation" if loss else f"saturation-{asked.measure.task}"
    if not panels:
        return Figure(name, "Where more data stops paying", missing=" ".join(reasons))
    rises = asked.measure.higher_is_better
    change = "fall of the loss" if loss else f"{'rise' if rises else 'fall'} of the {label(asked.measure)}"
    of = "lowest loss" if loss else "highest score" if rises else "lowest value"
    return paying(
        name,
        f"The {change} that doubling the images buys by one law for all runs",
        f"{100 * margin:g} % of the {of} (the fit's option 'margin')",
        f"{'a task' if loss else 'another task'}",
        panels,
        [Key(model, colour) for model, colour in drawn.model_colours.items()],
        Table(("objective", "model", "images seen", "a doubling must buy", "it buys less beyond"), tuple(rows)),
        [*of_pools, *(() if loss else reasons)],
    )


def paying(
    name: str,
    shows: str,
    worth: str,
    other: str,
    panels: Sequence[Panel],
    keys: Sequence[Key],
    table: Table,
    asides: Sequence[str] = (),
) -> Figure:
    """The figure with its words.

    Args:
        name: of its files.
        shows: what the curves are of.
        worth: what the dashed line is, the gain that is worth a doubling.
        other: what else need not stop paying there.
        panels: see ``panel``.
        keys: its legend.
        table: beyond how many images, in its last column.
        asides: further sentences.
    """
    return Figure(
        name,
        "Where more data stops paying",
        " ".join(
            (
                f"{shows}, with its interval. The dashed line is {worth}; right of the dotted line lie no runs. The table says beyond how "
                "many images a doubling buys less than that.",
                *asides,
            )
        ),
        f"that {other} saturates there too, or that other images than more of the same kind would not help.",
        panels,
        keys,
        table,
    )


def panel(fit: Fit, found: Sequence[Saturated], colours: Mapping[str, str], objective: str = "") -> Panel:
    """The gain of a doubling against the images that are doubled, with the gain that would be worth it; of an objective, if it is given."""
    sign = 1.0 if fit.observations.link.ceiling is None else -1.0
    change = f"{'fall' if sign > 0 else 'rise'} of the {fit.observations.name}"
    sizes = unshifted(fit).variables["unique_images"]
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
    title = "Gain of twice the images" + (f" ({objective})" if objective else "")
    about = f"{capital(change)} by doubling the images, for each model; {number(found[0].gain, 2)} is marked."
    return render(chart.properties(width=PLOT_WIDTH, height=PLOT_HEIGHT, title=title), about)
