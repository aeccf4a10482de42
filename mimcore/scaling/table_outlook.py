"""What a law on anybody's table says of more data and of budgets, as the report of a study says it: keys of FIT.json, words, figures.

``saturation``: ``gain`` (what doubling the images must gain, in the metric's unit) and ``models``, each with ``encoder_params`` and
``images_seen`` (its longest run; null where the law is not in them) and ``images``, beyond which a doubling gains less: ``estimate``,
``low``, ``high`` (null where it still gains more 12 doublings beyond the most that was seen) and ``count`` of the refits. Null of a law
that is not in unique images.

``frontier``: for each pool ``pool`` and ``unique_images`` (null where they are not known) and ``budgets``: ``budget`` (FLOPs of one run),
the best ``encoder_params`` and ``images_seen``, the ``metric`` that they reach, each with ``value``, ``low`` and ``high``, and ``at_edge``
(the best size is an end of what was looked through). Null where no FLOPs are known or the law is not in model size and length.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mimcore.scaling.estimate import Fit
from mimcore.scaling.frontier import Price
from mimcore.scaling.mapping import FLOPS
from mimcore.scaling.numbers import interval, number, short
from mimcore.scaling.observations import check_numbers
from mimcore.scaling.outlook import AHEAD, WEIGHED, Division, Outlook, divide
from mimcore.scaling.pools import PREFIX, shifted_in, unshifted
from mimcore.scaling.saturation import Model, Saturated, best, saturations, words
from mimcore.scaling.table import POOL, PRETRAIN, Array, Measure, Run, Setting

IMAGES, LENGTH, SIZE = "unique_images", "images_seen", "encoder_params"
#: Part of the lowest loss, or of the highest score, that a doubling must gain unless it is said: the default of the option ``fit.margin``.
MARGIN = 0.01
#: Model sizes that are told of; of more, so many from the smallest to the largest.
MOST = 8


def saturation(fit: Fit, gain: float | None) -> list[Saturated] | None:
    """Beyond how many images a doubling gains less than it must, for each model size at its longest run.

    Args:
        fit: the law.
        gain: in the metric's unit; None for ``MARGIN``.

    Returns:
        None of a law that is not in unique images, or in something that no study has.
    """
    scaling, rows = _scaling(fit), unshifted(fit)
    if IMAGES not in scaling or not scaling <= {IMAGES, LENGTH, SIZE}:
        return None
    sizes, lengths = (rows.variables[name] if name in scaling else np.zeros(len(rows)) for name in (SIZE, LENGTH))
    known = np.unique(sizes)
    known = known[np.unique(np.linspace(0, len(known) - 1, min(MOST, len(known))).round().astype(int))]
    names = [_named(size) for size in known.tolist()]
    if len(set(names)) < len(names):
        names = [f"{size:,.0f} parameters" for size in known]
    models = [
        Model(name, size, float(lengths[sizes == size].max())) for name, size in zip(names, known.tolist(), strict=True)
    ]
    return saturations(fit, models, MARGIN * best(fit) if gain is None else gain)


def budgets(fit: Fit, flops: Array | None) -> tuple[Outlook, list[Division]] | None:
    """The best model and length for a budget, on the images of each pool.

    Args:
        fit: the law.
        flops: of each row that was fitted, ``(N,)``, NaN where it is not known; None where no column says.

    Returns:
        None without FLOPs, or of a law that is not in model size and length, or in something that no study has.

    Raises:
        UserError: FLOPs that are not positive.
    """
    rows = fit.observations
    if flops is None or not can_divide(fit):
        return None
    kept = np.flatnonzero(np.isfinite(flops) & _uncovered(fit))
    if not len(kept):
        return None
    check_numbers(FLOPS, flops[kept], [rows.labels[i] for i in kept], positive=True)
    measure = Measure(PRETRAIN, rows.name, rows.link.ceiling is not None)
    runs = tuple(_run(fit, i, float(flops[i]), measure) for i in kept.tolist())
    price = Price.of([run.encoder_params for run in runs], [run.flops / run.images_seen for run in runs])
    one = Outlook("", measure, fit, runs, price)
    return one, divide(one)


def told(saturated: Sequence[Saturated] | None, divisions: Sequence[Division] | None) -> dict[str, Any]:
    """The keys of FIT.json; see the module."""
    found: dict[str, Any] = {"saturation": None, "frontier": None}
    if saturated:
        models = [
            {SIZE: one.parameters or None, LENGTH: one.images_seen or None, "images": one.images.json()}
            for one in saturated
        ]
        found["saturation"] = {"gain": saturated[0].gain, "models": models}
    if divisions:
        found["frontier"] = [
            {POOL: part.pool, IMAGES: part.unique_images or None, "budgets": [asdict(one) for one in part.frontier]}
            for part in divisions
        ]
    return found


def sentences(found: Mapping[str, Any]) -> list[str]:
    """Say what ``told`` holds, which is part of ``found``, in a sentence each."""
    said = []
    if stops := found["saturation"]:
        each = [words(one["images"]) for one in stops["models"]]
        if len(set(each)) > 1:
            each = [text + _about(one) for text, one in zip(each, stops["models"], strict=True)]
        beyond = ", ".join(dict.fromkeys(each))
        said.append(f"Doubling the images gains less than {number(stops['gain'], 2)} beyond {beyond}.")
    for part in found["frontier"] or ():
        one = part["budgets"][-1]
        size, seen, metric = (one[name] for name in (SIZE, LENGTH, "metric"))
        on = (f" on {short(part[IMAGES])} images" if part[IMAGES] else "") + (f" of {part[POOL]}" if part[POOL] else "")
        if one["at_edge"]:
            at = f"is a model of {short(size['value'])} parameters or beyond, where what was looked through ends"
        else:
            at = f"is {_counted(size)} parameters for {_counted(seen)} images seen"
        reached = f"{found['metric']['name']} {interval(metric['value'], metric['low'], metric['high'])}"
        said.append(
            f"By this law the best use of {number(one['budget'], 2)} FLOPs{on}, {AHEAD:g} times those of the dearest row, {at}: {reached}."
        )
    return said


def can_divide(fit: Fit) -> bool:
    """Whether the law is in what a budget is divided between, and in nothing that no study has."""
    scaling = _scaling(fit)
    return scaling >= WEIGHED and scaling <= {*WEIGHED, IMAGES}


def _scaling(fit: Fit) -> set[str]:
    return {variable.name for variable in fit.law.variables if variable.scales}


def _uncovered(fit: Fit) -> NDArray[np.bool_]:
    """Rows ``(N,)`` of no covariate; all of them where each is of one."""
    rows = fit.observations
    names = [v.name for v in fit.law.variables if not v.scales and not v.name.startswith(PREFIX)]
    off = np.ones(len(rows), dtype=bool)
    for name in names:
        off &= rows.variables[name] == 0
    return off if off.any() else np.ones(len(rows), dtype=bool)


def _run(fit: Fit, row: int, flops: float, measure: Measure) -> Run:
    """A row as the run of a study that it could be."""
    rows = fit.observations
    size, images, seen = (
        round(float(rows.variables[name][row])) if name in rows.variables else 0 for name in (SIZE, IMAGES, LENGTH)
    )
    pool = str(rows.columns[POOL][row]) or None if shifted_in(rows) else None
    return Run(
        name=rows.labels[row],
        setting=Setting("", _named(size), ""),
        subset="",
        seed="",
        unique_images=images,
        images_seen=seen,
        encoder_params=size,
        flops=flops,
        values={measure[:2]: float(rows.metric[row])},
        errors={},
        pool=pool,
    )


def _named(size: float) -> str:
    return f"{short(size)} parameters" if size else "all rows"


def _about(one: Mapping[str, Any]) -> str:
    parts = [
        *([f"{short(one[SIZE])} parameters"] if one[SIZE] else []),
        *([f"{short(one[LENGTH])} images seen"] if one[LENGTH] else []),
    ]
    return f" ({', '.join(parts)})" if parts else ""


def _counted(one: Mapping[str, Any]) -> str:
    ends = "" if one["low"] is None else f" [{short(one['low'])}, {short(one['high'])}]"
    return f"{short(one['value'])}{ends}"
