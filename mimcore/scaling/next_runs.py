"""What to run next for a metric, from the results alone: runs of the models at hand on more images, for longer, or in holes of the grid."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from mimcore.errors import UserError
from mimcore.scaling.advise import COUNT, choose
from mimcore.scaling.applicable import answers, chosen_law, fit_asked
from mimcore.scaling.estimate import Fit
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
    narrowed is of the largest model on twice the images at the longest length. Those that tell most together, and each of the others, cost
    no more than was spent in all. None where the fit has no refits to judge by, or there is nothing to choose from.
    """
    own = [run for run in one.runs if run.source == MADE]
    places, aim = _places(own, {_at(run) for run in one.runs})
    models = {run.setting.model: run for run in own}
    if places:
        mask = answers(one.fit, _variables(one.fit, models, places))
        places = [place for place, answered in zip(places, mask, strict=True) if answered]
    if not places:
        return None
    costs = np.array(
        [models[at.model].flops / models[at.model].images_seen * at.images_seen for at in places], dtype=np.float64
    )
    spent, asked_of = float(sum(run.flops for run in own)), _variables(one.fit, models, places)
    try:
        advice = choose(one.fit, asked_of, costs, _variables(one.fit, models, [aim]), spent)
    except UserError:
        return None
    ahead, pools = one.fit.predict(asked_of), by_pool(own)
    sign, key = -1.0 if one.measure.higher_is_better else 1.0, one.measure[:2]
    best = {pool: sign * min(sign * run.values[key] for run in mine) for pool, mine in pools.items()}
    removed = {step.index: step.gain for step in advice}

    def told(index: int, named: Sequence[str]) -> NextRun:
        at = places[index]
        low, high = sorted((float(ahead.low[index]), float(ahead.high[index])))
        value = (float(ahead.mean[index]), low, high)
        return NextRun(
            at.model,
            at.pool,
            at.unique_images,
            at.images_seen,
            {name: text for name in named if (text := getattr(at, name))},
            float(costs[index]),
            value,
            sign * (best[at.pool] - value[0]),
            removed.get(index, 0.0),
        )

    gains = sign * (np.array([best[at.pool] for at in places]) - ahead.mean) / costs
    cells = {(run.setting.model, pool, run.unique_images, run.images_seen) for pool, of in pools.items() for run in of}
    bettering = []
    for i in np.argsort(-gains, kind="stable").tolist():
        if gains[i] > 0 and costs[i] <= spent and places[i].cell not in cells:
            cells.add(places[i].cell)
            bettering.append(i)
    apart = _apart(own)
    return NextRuns(
        one.objective,
        f"{aim.model} on {short(aim.unique_images)} images{f' of {aim.pool}' if aim.pool else ''}, {short(aim.images_seen)} images seen",
        spent,
        tuple(told(step.index, apart) for step in advice),
        tuple(told(index, [name for name in apart if name != "seed"]) for index in bettering[:COUNT]),
        one.measure,
    )


def _at(run: Run) -> tuple[str, str, str, str]:
    return run.setting.model, run.subset, run.setting.schedule, run.seed


def _places(own: Sequence[Run], made: Collection[tuple[str, str, str, str]]) -> tuple[list[Place], Place]:
    """Where runs could be made, each of an epoch at least, and what is to be forecast.

    Args:
        own: the study's runs.
        made: where there is a run; see ``_at``.
    """
    images = {pool: {run.subset: float(run.unique_images) for run in mine} for pool, mine in by_pool(own).items()}
    images = {pool: {**of, "": 2 * max(of.values())} for pool, of in images.items()}
    most = max(images, key=lambda pool: images[pool][""])
    lengths = {run.setting.schedule: float(run.images_seen) for run in own}
    longest = max(lengths.values())
    models = list(dict.fromkeys(run.setting.model for run in sorted(own, key=lambda run: run.encoder_params)))
    places = [
        Place(model, pool, subset, n, schedule, seen, seed)
        for model in models
        for pool, of in images.items()
        for subset, n in of.items()
        for schedule, seen in (*lengths.items(), ("", 2 * longest))
        for seed in sorted({run.seed for run in own})
        if (model, subset, schedule, seed) not in made and seen >= n
    ]
    return places, Place(models[-1], most, "", images[most][""], "", longest, "")


def _variables(fit: Fit, models: Mapping[str, Run], places: Sequence[Place]) -> dict[str, Array]:
    levels = [at_pool(fit, place.pool, 1) for place in places]
    return {
        "encoder_params": np.array([float(models[place.model].encoder_params) for place in places]),
        "unique_images": np.array([place.unique_images for place in places]),
        "images_seen": np.array([place.images_seen for place in places]),
        **{name: np.concatenate([each[name] for each in levels]) for name in levels[0]},
    }


def _apart(own: Sequence[Run]) -> list[str]:
    """What tells runs of one model, data and length apart: a subset of as many images as another, such a schedule, or a seed."""
    subsets = {(run.pool, run.unique_images, run.subset) for run in own}
    schedules = {(run.images_seen, run.setting.schedule) for run in own}
    several = {
        "subset": len({one[:2] for one in subsets}) < len(subsets),
        "schedule": len({one[0] for one in schedules}) < len(schedules),
        "seed": len({run.seed for run in own}) > 1,
    }
    return [name for name, is_so in several.items() if is_so]


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
