"""What to run next for a metric, from the results alone: runs of the models at hand on more images, for longer, or in holes of the grid."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, NamedTuple

import numpy as np

from mimcore.errors import UserError
from mimcore.scaling.advise import COUNT, choose
from mimcore.scaling.applicable import answers, chosen_law, fit_asked
from mimcore.scaling.frontier import Price
from mimcore.scaling.numbers import interval, number, short
from mimcore.scaling.outlook import LOSS, Outlook
from mimcore.scaling.pools import at_pool, by_pool
from mimcore.scaling.rows import observations
from mimcore.scaling.summary import label
from mimcore.scaling.table import MADE, VAL_LOSS, Array, Measure, Run


class Place(NamedTuple):
    """Where a run could be made. A subset or a schedule that the study does not have, of twice the images or the length, has no name."""

    model: str
    pool: str | None
    subset: str
    unique_images: float
    schedule: str
    images_seen: float
    seed: str

    @property
    def cell(self) -> tuple[Any, ...]:
        """All that a law can tell of it."""
        return self.model, self.pool, self.unique_images, self.images_seen


@dataclass(frozen=True)
class NextRun:
    """A run that could be made, what it costs and what is expected of it.

    ``pool`` is None where the study's runs are of one, ``apart`` has what else tells it from another run of that model, data and length,
    by name: its seed, where there are several, and its subset or schedule where others are of as many images. ``value`` is its forecast
    with its interval; ``better`` by how much it is better than the best so far, of the same pool; ``removed`` the part of the variance of
    the forecast ``target`` that it removes, with those named before it.
    """

    model: str
    pool: str | None
    unique_images: float
    images_seen: float
    apart: dict[str, str]
    flops: float
    value: tuple[float, float, float]
    better: float
    removed: float


@dataclass(frozen=True)
class NextRuns:
    """Two lists: those that tell most for their cost, and those that are expected to better the metric most for their cost."""

    objective: str
    target: str
    spent: float
    telling: tuple[NextRun, ...]
    bettering: tuple[NextRun, ...]
    measure: Measure


def asked(runs: Sequence[Run], objective: str, fitted: Mapping[str, Any]) -> Outlook | str:
    """Fit the law of the validation loss that ``mimcore advise`` asks, to the runs that it asks it of; a sentence where they allow none.

    Args:
        runs: made and imported.
        objective: whose.
        fitted: what ``fit.json`` holds.
    """
    mine = LOSS.of(runs, objective)
    rows = observations(mine, LOSS.measure)
    if rows is None:
        return f"There is no run of {objective}."
    try:
        fit = fit_asked(rows, chosen_law(fitted, objective), confidence=float(fitted["options"]["confidence"]))
        known = [run for run in mine if run.flops > 0]
        price = Price.of([run.encoder_params for run in known], [run.flops / run.images_seen for run in known])
    except UserError as error:
        return f"Of {objective} {' '.join(str(error).split())}"
    return Outlook(objective, LOSS.measure, fit, mine, price)


def next_runs(one: Outlook) -> NextRuns | None:
    """Choose among all models, subsets (and one of twice the images) and lengths (and twice the longest) that were not run.

    Of these, only those that the law can be asked of: where all runs are of one length, or of one model, no other. The forecast to be
    narrowed is of the largest model on twice the images at the longest length. All of them together cost no more than was spent in all.
    None where the fit has no refits to judge by.
    """
    own = [run for run in one.runs if run.source == MADE]
    models = {run.setting.model: float(run.encoder_params) for run in sorted(own, key=lambda run: run.encoder_params)}
    pools = by_pool(own)
    images = {pool: {run.subset: float(run.unique_images) for run in mine} for pool, mine in pools.items()}
    most = max(pools, key=lambda pool: max(images[pool].values()))
    target = 2 * max(images[most].values())
    images = {pool: {**of, "": 2 * max(of.values())} for pool, of in images.items()}
    lengths = {run.setting.schedule: float(run.images_seen) for run in own}
    longest = max(lengths.values())
    lengths[""] = 2 * longest
    seeds = sorted({run.seed for run in own})
    made = {(run.setting.model, run.subset, run.setting.schedule, run.seed) for run in one.runs}
    places = [
        Place(model, pool, subset, n, schedule, seen, seed)
        for model in models
        for pool, of in images.items()
        for (subset, n), (schedule, seen), seed in product(of.items(), lengths.items(), seeds)
        if (model, subset, schedule, seed) not in made and seen >= n
    ]

    def variables(places: Sequence[Place]) -> dict[str, Array]:
        levels = [at_pool(one.fit, place.pool, 1) for place in places]
        return {
            "encoder_params": np.array([models[place.model] for place in places]),
            "unique_images": np.array([place.unique_images for place in places]),
            "images_seen": np.array([place.images_seen for place in places]),
            **{name: np.concatenate([each[name] for each in levels]) for name in levels[0]},
        }

    open_ = answers(one.fit, variables(places)) if places else ()
    places = [place for place, answered in zip(places, open_, strict=True) if answered]
    if not places:
        return None
    an_image = {run.setting.model: run.flops / run.images_seen for run in own}
    costs = np.array([an_image[place.model] * place.images_seen for place in places])
    spent = float(sum(run.flops for run in own))
    largest = list(models)[-1]
    aim = Place(largest, most, "", target, "", longest, "")
    try:
        advice = choose(one.fit, variables(places), costs, variables([aim]), spent)
    except UserError:
        return None
    ahead = one.fit.predict(variables(places))
    sign, key = -1.0 if one.measure.higher_is_better else 1.0, one.measure[:2]
    best = {pool: sign * min(sign * run.values[key] for run in mine) for pool, mine in pools.items()}
    known = np.array([best[place.pool] for place in places])
    removed = {step.index: step.gain for step in advice}
    sizes = Counter((pool, n) for pool, of in images.items() for n in of.values())
    times = Counter(lengths.values())

    def told(index: int, seeded: bool) -> NextRun:
        at = places[index]
        low, high = sorted((float(ahead.low[index]), float(ahead.high[index])))
        value = (float(ahead.mean[index]), low, high)
        better = sign * (best[at.pool] - value[0])
        apart = {
            "subset": at.subset if sizes[at.pool, at.unique_images] > 1 else "",
            "schedule": at.schedule if times[at.images_seen] > 1 else "",
            "seed": at.seed if seeded and seeds[1:] else "",
        }
        return NextRun(
            at.model,
            at.pool,
            at.unique_images,
            at.images_seen,
            {name: text for name, text in apart.items() if text},
            float(costs[index]),
            value,
            better,
            removed.get(index, 0.0),
        )

    gains = sign * (known - ahead.mean) / costs
    cells = {
        (run.setting.model, pool, float(run.unique_images), float(run.images_seen))
        for pool, mine in pools.items()
        for run in mine
    }
    bettering = []
    for i in np.argsort(-gains, kind="stable").tolist():
        if gains[i] > 0 and costs[i] <= spent and places[i].cell not in cells:
            cells.add(places[i].cell)
            bettering.append(i)
    return NextRuns(
        one.objective,
        f"{largest} on {short(target)} images{f' of {most}' if most else ''}, {short(longest)} images seen",
        spent,
        tuple(told(step.index, seeded=True) for step in advice),
        tuple(told(index, seeded=False) for index in bettering[:COUNT]),
        one.measure,
    )


def rows(
    advice: NextRuns, seconds_per_flop: float | None, telling: bool
) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Head and rows of a table.

    Args:
        advice: what to tell of.
        seconds_per_flop: the pace of the study's own runs; None where it is not known.
        telling: whether those are told of that narrow a forecast, or else those that better the metric.
    """
    runs, spent = advice.telling if telling else advice.bettering, advice.spent
    loss = advice.measure[:2] == VAL_LOSS
    so_far = "above the highest so far" if advice.measure.higher_is_better else "below the lowest so far"
    hours = ("hours at this study's pace",) if seconds_per_flop else ()
    by_time = bool(seconds_per_flop) and not telling
    unit = "hour" if by_time else "1 % of what was spent"
    worth = ("variance removed",) if telling else (so_far,)
    several = any(run.pool for run in runs)
    apart = [name for name in ("subset", "schedule", "seed") if any(name in run.apart for run in runs)]
    head = (
        "model",
        *(("pool",) if several else ()),
        "unique images",
        "images seen",
        *apart,
        "FLOPs",
        "of what was spent",
        *hours,
        "expected loss" if loss else f"expected {label(advice.measure)}",
        *worth,
        f"for each {unit}",
    )
    found = []
    for run in runs:
        share = run.flops / spent * 100
        time = run.flops * (seconds_per_flop or 0.0) / 3600
        per = time if by_time else share
        gain = (f"{100 * run.removed:.0f} %", f"{number(100 * run.removed / per, 2)} %")
        better = (number(run.better, 2), number(run.better / per, 2))
        found.append(
            (
                run.model,
                *((run.pool or "",) if several else ()),
                short(run.unique_images),
                short(run.images_seen),
                *(run.apart.get(name, "") for name in apart),
                number(run.flops, 2),
                f"{number(share, 2)} %",
                *((number(time, 2),) if seconds_per_flop else ()),
                interval(*run.value),
                *(gain if telling else better),
            )
        )
    return head, found
