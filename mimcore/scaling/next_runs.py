"""What to run next for a metric, from the results alone: runs of the models at hand on more images, for longer, or in holes of the grid."""

from dataclasses import dataclass

import numpy as np

from mimcore.errors import UserError
from mimcore.scaling.advise import advise
from mimcore.scaling.numbers import interval, number, short
from mimcore.scaling.outlook import Outlook
from mimcore.scaling.pools import at_pool, by_pool
from mimcore.scaling.summary import label
from mimcore.scaling.table import VAL_LOSS, Array, Measure

#: Runs that are named.
COUNT = 5


@dataclass(frozen=True)
class NextRun:
    """A run that could be made, what it costs and what is expected of it.

    ``pool`` is None where the study's runs are of one. ``value`` is its forecast with its interval; ``better`` by how much it
    is better than the best so far, of the same pool; ``removed`` the part of the variance of the forecast ``target`` that it removes, with
    those named before it.
    """

    model: str
    pool: str | None
    unique_images: float
    images_seen: float
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


def next_runs(one: Outlook) -> NextRuns | None:
    """Choose among all models, subsets (and one of twice the images) and lengths (and twice the longest) that were not run.

    The forecast to be narrowed is of the largest model on twice the images at the longest length. A run may cost up to
    what was spent in all. None where the fit has no refits to judge by.
    """
    models = {run.setting.model: float(run.encoder_params) for run in one.runs}
    pools = by_pool(one.runs)
    sizes = {pool: sorted({float(run.unique_images) for run in mine}) for pool, mine in pools.items()}
    lengths = sorted({float(run.images_seen) for run in one.runs})
    made = {
        (run.setting.model, pool, float(run.unique_images), float(run.images_seen))
        for pool, mine in pools.items()
        for run in mine
    }
    open_ = [
        (model, pool, images, seen)
        for model in sorted(models, key=lambda name: models[name])
        for pool, known in sizes.items()
        for images in (*known, 2 * known[-1])
        for seen in (*lengths, 2 * lengths[-1])
        if (model, pool, images, seen) not in made and seen >= images
    ]
    largest = max(models, key=lambda name: models[name])
    names = {variable.name for variable in one.fit.law.variables}

    def variables(places: list[tuple[str, str | None, float, float]]) -> dict[str, Array]:
        columns = {
            "encoder_params": np.array([models[model] for model, *_ in places]),
            "unique_images": np.array([images for _, _, images, _ in places]),
            "images_seen": np.array([seen for *_, seen in places]),
        }
        of = [at_pool(one.fit, pool, 1) for _, pool, _, _ in places]
        indicators = {name: np.concatenate([each[name] for each in of]) for name in of[0]}
        return {name: column for name, column in columns.items() if name in names} | indicators

    most = max(sizes, key=lambda pool: sizes[pool][-1])
    target = [(largest, most, 2 * sizes[most][-1], lengths[-1])]
    if not open_:
        return None
    costs = one.price(np.array([models[model] for model, *_ in open_])) * np.array([seen for *_, seen in open_])
    spent = float(sum(run.flops for run in one.runs))
    try:
        advice = advise(one.fit, variables(open_), costs, variables(target), spent, COUNT, repeat=False)
    except UserError:
        return None
    ahead = one.fit.predict(variables(open_))
    sign, key = -1.0 if one.measure.higher_is_better else 1.0, one.measure[:2]
    best = {pool: sign * min(sign * run.values[key] for run in mine) for pool, mine in pools.items()}
    known = np.array([best[pool] for _, pool, _, _ in open_])
    removed = {step.index: step.gain for step in advice}

    def told(index: int) -> NextRun:
        model, pool, images, seen = open_[index]
        low, high = sorted((float(ahead.low[index]), float(ahead.high[index])))
        value = (float(ahead.mean[index]), low, high)
        better = sign * (best[pool] - value[0])
        return NextRun(model, pool, images, seen, float(costs[index]), value, better, removed.get(index, 0.0))

    gains = sign * (known - ahead.mean) / costs
    bettering = [i for i in np.argsort(-gains).tolist() if gains[i] > 0 and costs[i] <= spent][:COUNT]
    return NextRuns(
        one.objective,
        f"{largest} on {short(target[0][2])} images{f' of {most}' if most else ''}, {short(lengths[-1])} images seen",
        spent,
        tuple(told(step.index) for step in advice),
        tuple(told(index) for index in bettering),
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
    head = (
        "model",
        *(("pool",) if several else ()),
        "unique images",
        "images seen",
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
                number(run.flops, 2),
                f"{number(share, 2)} %",
                *((number(time, 2),) if seconds_per_flop else ()),
                interval(*run.value),
                *(gain if telling else better),
            )
        )
    return head, found
