"""Three claims of the literature on data scaling, held against the table, each with an interval over seeds."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from mimcore.scaling.numbers import signed
from mimcore.scaling.statistics import Interval, student
from mimcore.scaling.table import VAL_LOSS, Run, Setting, by_size, settings_of

#: Seed to run, for each size of one setting, ascending.
Sizes = Mapping[int, Mapping[str, Run]]
#: Seed to the effect that a claim says is positive.
Effects = Mapping[str, float]


def examine(runs: Sequence[Run], objective: str, confidence: float) -> list[dict[str, Any]]:
    """Test every claim on the runs of one objective.

    An effect is a difference of losses that the claim says is positive, taken within each seed (the seed draws nested
    subsets, so that pairs share images) and, over all settings, as the mean of their effects. The
    verdict is ``shown`` where Student's interval over seeds lies above 0, ``contradicted`` where it lies below, and
    ``not shown`` otherwise; one seed has no interval and shows nothing.

    Returns:
        a mapping for each claim: ``id``, ``claim``, ``source``, ``objective``, ``estimate``, ``low``, ``high``,
        ``count`` (seeds), ``verdict``, ``sentence``, and ``settings``, the same numbers for each setting by itself.
    """
    grid = {setting: by_size(run for run in runs if run.setting == setting) for setting in settings_of(runs)}
    grid = {setting: sizes for setting, sizes in grid.items() if setting.objective == objective}
    return [
        {
            "id": "more_data",
            "claim": "More data lowers the validation loss at a fixed number of images seen.",
            "source": "Lu et al. 2023; Xie et al. 2023",
            **_judge(
                objective, _more_data(grid), confidence, "the smallest subset's validation loss minus the largest's"
            ),
        },
        {
            "id": "overfitting_gap",
            "claim": "The larger model over-fits the smallest subset: its gap between unseen and seen images is wider "
            "there than on its largest subset.",
            "source": "Xie et al. 2023",
            **_judge(
                objective,
                _overfitting(grid, lambda run: run.gap),
                confidence,
                "the larger model's gap on its smallest subset minus that on its largest",
            ),
        },
        {
            "id": "overfitting_rise",
            "claim": "The larger model over-fits the smallest subset: its validation loss turns and rises there, more "
            "than on its largest subset.",
            "source": "Xie et al. 2023",
            **_judge(
                objective,
                _overfitting(grid, lambda run: run.rise),
                confidence,
                "the larger model's rise above its lowest loss on its smallest subset minus that on its largest",
            ),
        },
        {
            "id": "longer_training",
            "claim": "Longer training gains more where there is more data.",
            "source": "Xie et al. 2023",
            **_judge(
                objective,
                _longer_training(grid),
                confidence,
                "what the longest schedule gains in validation loss over the shortest on the largest subset minus "
                "that on the smallest",
            ),
        },
    ]


def verdict(interval: Interval) -> str:
    """``shown``, ``contradicted`` or ``not shown``, by the side of 0 on which the interval lies."""
    if interval.low is None or interval.high is None:
        return "not shown"
    return "shown" if interval.low > 0 else "contradicted" if interval.high < 0 else "not shown"


def _more_data(grid: Mapping[Setting, Sizes]) -> dict[str, Effects]:
    return {
        f"{setting.model} {setting.schedule}": _paired(
            sizes[min(sizes)], sizes[max(sizes)], lambda small, large: small.values[VAL_LOSS] - large.values[VAL_LOSS]
        )
        for setting, sizes in grid.items()
        if len(sizes) > 1
    }


def _overfitting(grid: Mapping[Setting, Sizes], excess: Callable[[Run], float]) -> dict[str, Effects]:
    parameters = {setting.model: _first(sizes).encoder_params for setting, sizes in grid.items()}
    if len(parameters) < 2:
        return {}
    larger = max(parameters, key=lambda model: parameters[model])
    return {
        f"{setting.model} {setting.schedule}": _paired(
            sizes[min(sizes)], sizes[max(sizes)], lambda small, large: excess(small) - excess(large)
        )
        for setting, sizes in grid.items()
        if setting.model == larger and len(sizes) > 1
    }


def _longer_training(grid: Mapping[Setting, Sizes]) -> dict[str, Effects]:
    found: dict[str, Effects] = {}
    for model in dict.fromkeys(setting.model for setting in grid):
        schedules = sorted(
            (sizes for setting, sizes in grid.items() if setting.model == model),
            key=lambda sizes: _first(sizes).images_seen,
        )
        short, long = schedules[0], schedules[-1]
        sizes = sorted(set(short) & set(long))
        if len(schedules) < 2 or len(sizes) < 2:
            continue
        gains = [
            _paired(short[size], long[size], lambda before, after: before.values[VAL_LOSS] - after.values[VAL_LOSS])
            for size in (sizes[0], sizes[-1])
        ]
        found[model] = {seed: gains[1][seed] - gains[0][seed] for seed in gains[1] if seed in gains[0]}
    return found


def _paired(first: Mapping[str, Run], second: Mapping[str, Run], effect: Callable[[Run, Run], float]) -> Effects:
    return {seed: effect(first[seed], second[seed]) for seed in first if seed in second}


def _first(sizes: Sizes) -> Run:
    return next(iter(next(iter(sizes.values())).values()))


def _judge(objective: str, effects: Mapping[str, Effects], confidence: float, what: str) -> dict[str, Any]:
    """Settle a claim from the effects of each setting and seed."""
    effects = {where: found for where, found in effects.items() if found}
    if not effects:
        nothing = {"estimate": None, "low": None, "high": None, "count": 0, "verdict": "not shown"}
        sentence = (
            "The study has no runs that could show it: it takes two sizes, two models or two schedules to compare."
        )
        return {"objective": objective, **nothing, "sentence": sentence, "settings": []}
    alone = {where: student(np.array(list(found.values())), confidence) for where, found in effects.items()}
    seeds = [seed for seed in next(iter(effects.values())) if all(seed in found for found in effects.values())]
    if seeds:
        overall = student(np.array([np.mean([found[s] for found in effects.values()]) for s in seeds]), confidence)
    else:
        overall = Interval(float(np.mean([one.estimate for one in alone.values()])), None, None, 0)
    return {
        "objective": objective,
        **overall.json(),
        "verdict": verdict(overall),
        "sentence": _sentence(overall, list(alone.values()), confidence, what),
        "settings": [{"setting": where, **one.json(), "verdict": verdict(one)} for where, one in alone.items()],
    }


def _sentence(overall: Interval, alone: Sequence[Interval], confidence: float, what: str) -> str:
    verdicts = [verdict(one) for one in alone]
    size = f"{what[:1].upper()}{what[1:]} is {signed(overall.estimate)}"
    if overall.low is None or overall.high is None:
        seeds = "one seed" if overall.count == 1 else "no seed in common to all settings"
        return f"{size} ({seeds}: no interval)."
    size += f" ({100 * confidence:g} % interval {signed(overall.low)} to {signed(overall.high)}, {overall.count} seeds)"
    if len(alone) == 1:
        return f"{size}."
    against = f" and {verdicts.count('contradicted')} contradict it" if "contradicted" in verdicts else ""
    return (
        f"{size}, the mean of {len(alone)} settings; taken alone, {verdicts.count('shown')} of them show it{against}."
    )
