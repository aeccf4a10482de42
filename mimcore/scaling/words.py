"""The answer in sentences, from the results and the fit."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mimcore.scaling.chosen import entries
from mimcore.scaling.numbers import count, interval, number, short, signed
from mimcore.scaling.pools import levels
from mimcore.scaling.summary import Line, floors, label, lines, setting_label
from mimcore.scaling.table import (
    POOL,
    PRETRAIN,
    VAL_LOSS,
    Measure,
    Row,
    Run,
    Setting,
    headlines_of,
    runs_of,
    settings_of,
)

#: Tasks from which on the answer speaks of all at once.
MANY_TASKS = 4
LOSS = Measure(*VAL_LOSS, False)


def scope(rows: Sequence[Row]) -> str:
    """Say what was run."""
    runs = runs_of(rows)
    sizes = sorted({run.unique_images for run in runs})
    settings = settings_of(runs)
    parts = [
        _plural(len({s.objective for s in settings}), "objective"),
        _plural(len({s.model for s in settings}), "model"),
        _plural(len(sizes), "subset size")
        + (f" from {count(sizes[0])} to {count(sizes[-1])} images" if sizes[1:] else ""),
        _plural(len({s.schedule for s in settings}), "schedule"),
        _plural(len({run.seed for run in runs}), "seed"),
    ]
    return f"{_plural(len(runs), 'run')}: {', '.join(parts)}."


def answers(rows: Sequence[Row], fitted: Mapping[str, Any]) -> list[str]:
    """Say in a few sentences what more data did, what it did for the tasks, and what the law expects of more."""
    summary = lines(rows)
    found = []
    for objective in dict.fromkeys(line.setting.objective for line in summary):
        mine = [line for line in summary if line.setting.objective == objective]
        found += _loss_sentences(mine, summary)
    tasks = [measure for measure in headlines_of(rows) if measure.task != PRETRAIN]
    if len(tasks) > MANY_TASKS:
        found.append(_tasks_sentence(rows, tasks))
    else:
        found += [sentence for measure in tasks for sentence in _task_sentences(rows, measure)]
    return found + _forecasts(summary, fitted) + list(levels_of(fitted))


def flags(
    rows: Sequence[Row], fitted: Mapping[str, Any], notes: Mapping[str, Any], rates: Sequence[float]
) -> list[str]:
    """Say what a reader should hold against the numbers."""
    found = [*notes.get("warnings", ()), *notes.get("not_applicable", ())]
    diagnosed = fitted["diagnostics"]
    settings = settings_of(runs_of(rows))
    for cell in diagnosed["overfitting"]["cells"]:
        if cell["val_loss_rose"]:
            name = setting_label(_setting(cell), settings, cell.get(POOL))
            rise = number(cell["rise"]["estimate"], 2)
            found.append(
                f"Over-fitting: the validation loss of {name} on {count(cell['unique_images'])} images ended {rise} "
                "above its lowest value."
            )
    wider = [
        setting_label(_setting(one), settings, one.get(POOL))
        for one in diagnosed["overfitting"]["settings"]
        if one["gap_wider"]
    ]
    if wider:
        found.append(
            "Memorising: the gap between unseen and seen images is wider on the smallest subset than on the largest "
            f"for {_list(wider)}."
        )
    found += _pools(rows, fitted)
    found += [f"{_name(one, settings)}: {one['note']}" for one in fitted["fits"] if not one["fitted"]]
    done = [one for one in fitted["fits"] if one["fitted"]]
    mixed = [_name(one, settings) for one in done if (one["note"] or "").startswith("mixes")]
    if mixed:
        found.append(
            f"Laws that mix two regimes, since too few sizes would remain without the over-fitted: {_list(mixed)}."
        )
    vague = sum(one["vague"] for one in done)
    if vague:
        found.append(
            f"The exponent is not pinned down in {vague} of {len(done)} laws: read their curves and bands, not their "
            "parameters."
        )
    return [*found, learning_rates(rates)]


def claims(fitted: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The verdicts on claims, with ``about``: the objective and the pool where there are several; empty where one says all."""
    found = fitted["diagnostics"]["claims"]
    several = len({claim["objective"] for claim in found}) > 1
    names = [(claim["objective"] if several else None, claim.get(POOL)) for claim in found]
    return [
        {**claim, "about": ", ".join(name for name in about if name)} for claim, about in zip(found, names, strict=True)
    ]


def hits(judged: Sequence[Mapping[str, Any]]) -> str:
    """Say how many forecasts held, beside how many should; empty where none was made."""
    if not judged:
        return ""
    held = sum(one["hit"] for one in judged)
    share = sum(one["confidence"] for one in judged) / len(judged)
    return f"{held} of {_plural(len(judged), 'forecast')} held; {100 * share:.0f} % should, if the laws are right."


def learning_rates(rates: Sequence[float]) -> str:
    """Say how the learning rate was chosen, since an untuned one confounds a scaling curve.

    Args:
        rates: the highest learning rate of each run.
    """
    different = sorted({float(f"{rate:.3g}") for rate in rates})
    if len(different) == 1:
        return (
            f"Every run peaked at the same learning rate, {different[0]:g}. It was not tuned for each point, and a "
            "rate that suits one model, size or length better than another bends a scaling curve."
        )
    if not different:
        return "The runs do not record their learning rates, so that it cannot be said whether these suit every point."
    return (
        f"The runs peaked at {len(different)} learning rates, {different[0]:g} to {different[-1]:g}: what differs "
        "between points may be the rate and not the data."
    )


def check_sentence(one: Mapping[str, Any]) -> str:
    """Say how well the law would have forecast the largest subset, beside two naive forecasts."""
    check = one["check"]
    if not check:
        return "too few sizes to leave one out"
    named = {"law": "law", "log_linear": "straight line in log n", "last_value": "last value"}
    parts = [f"{name} {signed(check[key]['error'], 2)}" for key, name in named.items()]
    return f"{number(check['observed'])} seen at {short(check['unique_images'])}; off by: {', '.join(parts)}"


def _loss_sentences(mine: Sequence[Line], summary: Sequence[Line]) -> list[str]:
    measure = next(m for m in mine[0].ends if m.task == PRETRAIN)
    spans = [(line, pair) for line in mine if (pair := line.ends[measure]) and line.smallest < line.largest]
    if not spans:
        return []
    settings = [line.setting for line in summary]
    lower = [line for line, (small, large) in spans if large.value < small.value]
    of_pools = " of each pool" if any(line.pool for line in summary) else ""
    line, (small, large) = max(spans, key=lambda span: (span[1][0].value - span[1][1].value) / span[1][0].value)
    share = 100 * (1 - large.value / small.value)
    where = f" of {mine[0].setting.objective}" if len({setting.objective for setting in settings}) > 1 else ""
    head = (
        f"From the smallest to the largest subset{of_pools}, at the same number of images seen, the validation loss{where} falls "
        f"in {len(lower)} of {len(spans)} settings"
    )
    if not lower:
        return [f"{head}."]
    name = setting_label(line.setting, settings, line.pool)
    return [f"{head}, most for {name}: {number(small.value)} to {number(large.value)} ({share:.0f} % lower)."]


def _tasks_sentence(rows: Sequence[Row], tasks: Sequence[Measure]) -> str:
    """In how many tasks pretraining was worth anything, and in how many more data were."""
    beaten, better = [], []
    summary = lines(rows)
    for measure in tasks:
        key, sign = (measure.task, measure.metric), 1 if measure.higher_is_better else -1
        best = max(sign * run.values[key] for run in runs_of(rows) if key in run.values)
        lows = [sign * value for _, value in floors(rows, measure)]
        beaten += [measure.task] if lows and best > max(lows) else []
        pairs = [ends for line in summary if (ends := line.ends[measure]) and line.smallest < line.largest]
        gains = sum(sign * (large.value - small.value) > 0 for small, large in pairs)
        better += [measure.task] if gains * 2 > len(pairs) else []
    of_pools = " of each pool" if any(line.pool for line in summary) else ""
    return (
        f"The best run beats the highest floor in {len(beaten)} of {len(tasks)} tasks; from the smallest to the largest subset{of_pools} "
        f"{len(better)} tasks get better in most settings."
    )


def _task_sentences(rows: Sequence[Row], measure: Measure) -> list[str]:
    """The best run of a task beside the highest floor."""
    key = (measure.task, measure.metric)
    runs = [run for run in runs_of(rows) if key in run.values]
    sign = 1 if measure.higher_is_better else -1
    best: Run = max(runs, key=lambda run: sign * run.values[key])
    sentence = f"Best {label(measure)}: {number(best.values[key])}, by {best.name}"
    known = floors(rows, measure)
    if known:
        name, value = max(known, key=lambda floor: sign * floor[1])
        beaten = sum(sign * run.values[key] > sign * value for run in runs)
        sentence += f"; the highest floor is {number(value)} ({name}), and {beaten} of {len(runs)} runs beat it"
    return [f"{sentence}."]


def _forecasts(summary: Sequence[Line], fitted: Mapping[str, Any]) -> list[str]:
    """What to expect of twice the data for the largest model and longest schedule, beside what longer training gave.

    Of several pools this is said of the one with the most runs.
    """
    found = []
    settings = [line.setting for line in summary]
    for last in {line.setting.objective: line.setting for line in summary}.values():
        one = next(o for o in fitted["fits"] if _setting(o) == last and o["task"] == PRETRAIN)
        line = next(line for line in summary if line.setting == last and one.get(POOL) in (None, line.pool))
        now = one["points"][-1]["mean"]
        of = f" of pool {line.pool}" if line.pool else ""
        if one["fitted"] and one["forecast"]["value"]:
            value, low, high = (one["forecast"][part][0] for part in ("value", "low", "high"))
            unsure = " (with too few runs for an interval)" if low is None else ""
            found.append(
                f"With {count(one['forecast']['unique_images'][0])} images{of} the law expects a validation loss of "
                f"{interval(value, low, high)}{unsure} of {setting_label(last, settings)}; "
                f"{count(one['points'][-1]['unique_images'])} images give {number(now)}."
            )
        found += _longer(line, summary, now)
    return found


def _longer(line: Line, summary: Sequence[Line], now: float) -> list[str]:
    """What the longest schedule gave over the shortest, for one model on its largest subset."""
    alike = (line.setting[:2], line.pool, line.largest)
    same = [other for other in summary if (other.setting[:2], other.pool, other.largest) == alike]
    measure = next(m for m in line.ends if m.task == PRETRAIN)
    shortest = same[0].ends[measure]
    if len(same) < 2 or shortest is None:
        return []
    gain = shortest[1].value - now
    change = "lowered" if gain > 0 else "raised"
    of = f" of pool {line.pool}" if line.pool else ""
    return [
        f"On {count(line.largest)} images{of}, the {line.setting.schedule} schedule instead of the "
        f"{same[0].setting.schedule} one {change} the validation loss of {line.setting.model} by {number(abs(gain))}."
    ]


def levels_of(fitted: Mapping[str, Any], measure: Measure = LOSS) -> Iterator[str]:
    """Say how far apart the pools lie, by the law that was chosen or else the first that could be fitted."""
    for one in entries(fitted, measure):
        law: Mapping[str, Any] = next(iter(one["candidates"]), {})
        for pool, by in law.get("shifts", {}).items():
            value, low, high = (by[part] for part in ("value", "low", "high"))
            way, after = "above", ""
            if value < 0:
                way, value = "below", -value
                low, high = (None, None) if low is None else (-high, -low)
            if "encoder_params" in law["formula"] and "unique_images" not in law["formula"]:
                after += " That law is not in unique images, so that this holds what their number does as well."
            if low is None:
                after += " There are too few runs for an interval."
            elif low <= 0:
                after += " The interval covers 0, so that there may be no difference."
            same = "validation loss" if "val_loss" in law["formula"] else "model, images and length"
            yield (
                f"The {label(measure)} of runs on pool {pool} lies {interval(value, low, high)} {way} that of runs on {one['pools'][0]} "
                f"of the same {same} (law '{law['law']}', {one['objective']}).{after}"
            )


def _pools(rows: Sequence[Row], fitted: Mapping[str, Any]) -> list[str]:
    """What subsets of several pools do to the numbers."""
    pools = levels([run.pool for run in runs_of(rows)])
    if not pools[1:]:
        return []
    found = [
        f"The subsets are of {len(pools)} pools ({_list(pools)}), whose losses may be of different levels: what differs between two "
        "subsets of different pools is not their number of images alone. Laws have a level for each pool, and claims and tables compare "
        "subsets of one (the fit's option 'pools')."
    ]
    for one in entries(fitted, LOSS):
        reasons = [law["reason"] for law in one["skipped"] if "cannot tell its level" in law["reason"]]
        if reasons and "pools" in one:
            laws = [law["law"] for law in one["skipped"] if law["reason"] in reasons]
            found.append(f"Not fitted to {one['objective']}: {_list(laws)}, since {reasons[0]}")
    return found


def _setting(one: Mapping[str, Any]) -> Setting:
    return Setting(one["objective"], one["model"], one["schedule"])


def _name(one: Mapping[str, Any], settings: Sequence[Setting]) -> str:
    measure = Measure(one["task"], one["metric"], one["higher_is_better"])
    return f"{setting_label(_setting(one), settings, one.get(POOL))}, {label(measure)}"


def _plural(number_of: int, noun: str) -> str:
    return f"{number_of} {noun}" + ("s" if number_of != 1 else "")


def _list(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
