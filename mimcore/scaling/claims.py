"""Claims held against the table: supported, not supported or not to be told, each with an interval."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mimcore.scaling.claim import ENDS, Claim, matches, side_coordinates
from mimcore.scaling.effects import Effects, coordinate, known_names, measure, selected
from mimcore.scaling.numbers import signed
from mimcore.scaling.pools import by_pool
from mimcore.scaling.proxy import proxy
from mimcore.scaling.statistics import Interval, student
from mimcore.scaling.table import POOL, PRETRAIN, Measure, Row, Run, runs_of

SUPPORTED, NOT_SUPPORTED, OPEN = "supported", "not supported", "cannot tell"
NO_RUNS = "The study has no runs that could show it"

#: What is asked of a study that declares no claims.
DEFAULTS: dict[str, Claim] = {
    "more_data": Claim(
        kind="improves_with_data",
        words="More data lowers the validation loss at a fixed number of images seen.",
        source="Lu et al. 2023; Xie et al. 2023",
    ),
    "overfitting_gap": Claim(
        kind="overfits",
        detector="gap",
        at={"model": "largest"},
        words="The largest model over-fits the smallest subset: its gap between unseen and seen images is wider there than on "
        "its largest subset.",
        source="Xie et al. 2023",
    ),
    "overfitting_rise": Claim(
        kind="overfits",
        detector="rise",
        at={"model": "largest"},
        words="The largest model over-fits the smallest subset: its validation loss turns and rises there, more than on its "
        "largest subset.",
        source="Xie et al. 2023",
    ),
    "longer_training": Claim(
        kind="gain_grows_with_data",
        between=({"schedule": "shortest"}, {"schedule": "longest"}),
        words="Longer training gains more where there is more data.",
        source="Xie et al. 2023",
    ),
}


def examine(
    claims: Mapping[str, Claim], rows: Sequence[Row], confidence: float, bootstrap: int, seed: int
) -> list[dict[str, Any]]:
    """Hold every claim against the results.

    Each objective and each pool is judged by itself, unless the claim compares objectives, or subsets of two pools by their names:
    what differs between runs of two pools is not the number of images alone, and losses on other validation images have no common
    scale. Words such as 'largest' are of the pool.

    An effect is taken within each seed (the seed draws nested subsets, so that pairs share images) and, over all
    settings, as the mean of their effects. The interval is Student's over seeds, or over settings; that of an equivalence
    covers 1 - 2 (1 - ``confidence``), which is two one-sided tests at 1 - ``confidence`` (Schuirmann 1987); that of a rank
    correlation is of a bootstrap over cells. A claim is ``supported`` where the whole interval lies beyond the margin (of an
    equivalence: within), ``not supported`` where the whole of it lies short of the margin (outside), else ``cannot tell``.

    Returns:
        a mapping for each claim, objective and pool that can show it, or one where none can: ``id``, ``kind``, ``claim``,
        ``source``, ``objective`` (None where objectives are compared), ``pool`` (only where it is one of several), ``measure``,
        ``margin``, ``relative``, ``estimate``, ``low``, ``high``, ``count``, ``verdict``, ``sentence``, and ``settings``, the same
        numbers for each setting by itself.
    """
    measures = {f"{row.task}/{row.metric}": Measure(row.task, row.metric, row.higher_is_better) for row in rows}
    runs = runs_of(rows)
    found = []
    for name, claim in claims.items():
        pools, across = _pools(claim, runs)
        for objective, parts in _parts(claim, runs, pools).items():
            about = {
                "id": name,
                "kind": claim.kind,
                "claim": claim.words,
                "source": claim.source,
                "objective": objective,
                "measure": claim.measure,
                "margin": claim.limit,
                "relative": claim.relative,
            }
            judge = _correlation if claim.kind == "rank_correlated" else _effect
            if across and claim.kind != "overfits" and claim.measure.startswith(f"{PRETRAIN}/"):
                found.append({**about, **_nothing(across)})
                continue
            judged = {pool: judge(claim, part, measures, confidence, bootstrap, seed) for pool, part in parts.items()}
            found += [{**about, **one} for one in _told(judged)]
    return found


def verdict(interval: Interval, margin: float, within: bool = False) -> str:
    """By where the whole interval lies: beyond the margin, or for ``within`` between its two signs."""
    if interval.low is None or interval.high is None:
        return OPEN
    if within:
        if -margin < interval.low and interval.high < margin:
            return SUPPORTED
        return NOT_SUPPORTED if interval.low > margin or interval.high < -margin else OPEN
    return SUPPORTED if interval.low > margin else NOT_SUPPORTED if interval.high < margin else OPEN


def _effect(
    claim: Claim,
    runs: Sequence[Run],
    measures: Mapping[str, Measure],
    confidence: float,
    bootstrap: int,
    seed: int,
) -> dict[str, Any]:
    of = measures.get(claim.measure)
    if of is None:
        return _nothing(f"The results have no {claim.measure}.")
    key, sign = (of.task, of.metric), 1.0 if of.higher_is_better else -1.0
    having = [run for run in runs if key in run.values]
    try:
        effects, what = measure(claim, having, lambda run: sign * run.values[key])
    except ValueError as error:
        return _nothing(f"{str(error)[:1].upper()}{str(error)[1:]}")
    if not effects:
        return _nothing(f"{NO_RUNS}: none that differ in what is compared alone.")
    within = claim.kind == "equivalent"
    coverage = 2 * confidence - 1 if within else confidence
    alone = {where: student(np.array(list(one.values())), coverage) for where, one in effects.items()}
    overall, over = _overall(effects, claim.over, coverage)
    verdicts = {where: verdict(one, claim.limit, within) for where, one in alone.items()}
    return {
        **overall.json(),
        "verdict": verdict(overall, claim.limit, within),
        "sentence": _sentence(claim, overall, over, list(verdicts.values()), coverage, what),
        "settings": [{"setting": where, **one.json(), "verdict": verdicts[where]} for where, one in alone.items()],
    }


def _overall(effects: Effects, over: str, confidence: float) -> tuple[Interval, str]:
    """The mean effect over all settings, and what its interval is over."""
    if over == "settings":
        means = np.array([np.mean(list(one.values())) for one in effects.values()])
        return student(means, confidence), f"{len(means)} setting" + ("s" if len(means) > 1 else "")
    seeds = [seed for seed in next(iter(effects.values())) if all(seed in one for one in effects.values())]
    if not seeds:
        mean = float(np.mean([np.mean(list(one.values())) for one in effects.values()]))
        return Interval(mean, None, None, 0), "no seed in common to all settings"
    means = np.array([np.mean([one[seed] for one in effects.values()]) for seed in seeds])
    return student(means, confidence), "one seed" if len(seeds) == 1 else f"{len(seeds)} seeds"


def _correlation(
    claim: Claim,
    runs: Sequence[Run],
    measures: Mapping[str, Measure],
    confidence: float,
    bootstrap: int,
    seed: int,
) -> dict[str, Any]:
    pair = [measures.get(name) for name in (claim.measure, claim.against)]
    if pair[0] is None or pair[1] is None:
        return _nothing(f"The results have no {claim.measure if pair[0] is None else claim.against}.")
    keys = [(one.task, one.metric) for one in pair if one]
    having = [run for run in runs if all(key in run.values for key in keys)]
    x, y = (
        np.array([run.values[key] * (1.0 if one and one.higher_is_better else -1.0) for run in having])
        for one, key in zip(pair, keys, strict=True)
    )
    if len(having) < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return _nothing(f"{NO_RUNS}: it takes three or more that differ in both measures.")
    clusters = [f"{run.setting} {run.subset}" for run in having]
    everything = {"all": np.ones(len(having), dtype=bool)}
    told = proxy(x, y, clusters, everything, confidence=confidence, bootstrap=bootstrap, seed=seed)["all"]["spearman"]
    found = Interval(told["estimate"], told["low"], told["high"], told["count"])
    cells = len(set(clusters))
    what = f"rank correlation of better {claim.measure} with better {claim.against}"
    return {
        **found.json(),
        "verdict": verdict(found, claim.limit),
        "sentence": _sentence(claim, found, f"{len(having)} runs in {cells} cells", [], confidence, what),
        "settings": [],
    }


def _sentence(claim: Claim, overall: Interval, over: str, verdicts: Sequence[str], confidence: float, what: str) -> str:
    def told(value: float) -> str:
        return f"{signed(100 * value)} %" if claim.relative else signed(value)

    size = f"{what[:1].upper()}{what[1:]} is {told(overall.estimate)}"
    if overall.low is None or overall.high is None:
        return f"{size} ({over}: no interval)."
    size += f" ({100 * confidence:g} % interval {told(overall.low)} to {told(overall.high)}, {over})"
    if claim.limit:
        size += f", beside a margin of {told(claim.limit).lstrip('+')}"
    if len(verdicts) < 2:
        return f"{size}."
    if set(verdicts) == {OPEN}:
        return f"{size}; the mean of {len(verdicts)} settings, none of which shows anything alone."
    against = f" and {verdicts.count(NOT_SUPPORTED)} speak against it" if NOT_SUPPORTED in verdicts else ""
    return (
        f"{size}; the mean of {len(verdicts)} settings, of which {verdicts.count(SUPPORTED)} support it alone{against}."
    )


def _nothing(sentence: str) -> dict[str, Any]:
    nothing = {"estimate": None, "low": None, "high": None, "count": 0, "verdict": OPEN}
    return {**nothing, "sentence": sentence, "settings": []}


def _pools(claim: Claim, runs: Sequence[Run]) -> tuple[Mapping[str | None, Sequence[Run]], str]:
    """The runs of each pool that has what a claim compares; all of them where it names subsets of two, and why losses cannot be."""
    pools = by_pool(runs)
    try:
        sides = side_coordinates(claim, known_names(runs))
    except ValueError:  # said of each objective
        return {None: runs}, ""
    names = [side["subset"] for side in sides if side.get("subset", ENDS["subset"][0]) not in ENDS["subset"]]
    named = [[pool for pool, of in pools.items() if any(matches(run.subset, one) for run in of)] for one in names]
    shared = {pool: of for pool, of in pools.items() if all(pool in one for one in named)}
    if shared:
        return shared, ""
    across = (
        f"The two are of different pools ({' and '.join(str(pool) for one in named for pool in one)}), whose losses may be on other "
        "validation images; name a task's measure, such as linear/top1, or set 'pools: alike' under 'fit' if all are validated on the same."
    )
    return {None: runs}, across if all(named) else ""


def _parts(
    claim: Claim, runs: Sequence[Run], pools: Mapping[str | None, Sequence[Run]]
) -> dict[str | None, dict[str | None, list[Run]]]:
    """The runs that a claim means, of each objective (None for all) and each pool that has some."""
    meant = {pool: selected(of, claim.at) for pool, of in pools.items()}
    objectives: list[str | None] = [None]
    if not _compares_objectives(claim, runs):
        objectives = list(_objectives([run for of in meant.values() for run in of])) or [None]
    found = {
        one: {pool: [run for run in of if one in (None, coordinate(run, "objective"))] for pool, of in meant.items()}
        for one in objectives
    }
    return {one: {pool: of for pool, of in parts.items() if of} or {None: []} for one, parts in found.items()}


def _told(judged: Mapping[str | None, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What is told of the pools that can show a claim, with the names of those that cannot; of all at once where none can."""
    able = {pool: one for pool, one in judged.items() if one["estimate"] is not None}
    silent = [str(pool) for pool in judged if pool not in able]
    if not able:
        one = next(iter(judged.values()))
        apart = silent[1:] and one["sentence"].startswith(NO_RUNS)
        why = f" Runs of different pools ({' and '.join(silent)}) are not compared with each other." if apart else ""
        return [{**one, "sentence": f"{one['sentence']}{why}"}]
    others = f" Pool {' and pool '.join(silent)} cannot tell: it has no runs that could show it." if silent else ""
    return [
        {**({POOL: pool} if pool else {}), **one, "sentence": f"{one['sentence']}{others}"}
        for pool, one in able.items()
    ]


def _compares_objectives(claim: Claim, runs: Sequence[Run]) -> bool:
    names = set(_objectives(runs))
    return any(side in names if isinstance(side, str) else "objective" in side for side in claim.between or ())


def _objectives(runs: Sequence[Run]) -> list[str]:
    return list(dict.fromkeys(coordinate(run, "objective") for run in runs))
