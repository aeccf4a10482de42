"""The law that runs allow to ask for advice: of model, data and length, or of those of them in which they differ."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mimcore import registry
from mimcore.errors import UserError
from mimcore.scaling.estimate import Fit
from mimcore.scaling.observations import Observations
from mimcore.scaling.pools import PREFIX, fit_levels, levelled
from mimcore.scaling.table import POOL, VAL_LOSS, Array

#: Tried in this order where the fit stage has chosen none: all three axes, then runs of one length, then of one model too.
LAWS = ("repetition", "joint", "model_data", "power")
AXES = ("encoder_params", "unique_images", "images_seen")
#: Refits behind advice and forecasts.
REFITS = 500


def chosen_law(fitted: Mapping[str, Any], objective: str) -> str | None:
    """The law that the fit stage chose for the validation loss of an objective, by ``fit.json``; None if there is no such choice."""
    entries = fitted.get("laws", {}).get(" ".join(VAL_LOSS), [])
    found = [one["chosen"] for one in entries if (one["scope"], one["objective"]) == ("objective", objective)]
    return found[0] if found else None


def fit_asked(rows: Observations, chosen: str | None, law: str | None = None, confidence: float = 0.9) -> Fit:
    """Fit the law that says what to run next, and what will come of it.

    Args:
        rows: all runs of one objective.
        chosen: what the fit stage chose; see ``chosen_law``.
        law: the one to take whatever was chosen.
        confidence: coverage of the intervals.

    Raises:
        UserError: the rows allow neither it nor, where none is given, any of ``LAWS``.
    """
    names = [law] if law else [*([chosen] if chosen else []), *LAWS]
    return fit_first(names, levelled(rows), {"bootstrap": REFITS, "confidence": confidence})


def fit_first(names: Sequence[str], rows: Observations, options: Mapping[str, Any]) -> Fit:
    """Fit the first of some laws that the rows allow.

    Raises:
        UserError: they allow none; why not, for each.
    """
    reasons = []
    for name in dict.fromkeys(names):
        try:
            return fit_levels(registry.load("law", name).Law(), rows, options)
        except UserError as error:
            reasons.append(str(error))
    if len(reasons) == 1:
        raise UserError(reasons[0])
    raise UserError(
        "\n".join(["no law can be fitted to these runs:", *(f"  {reason}" for reason in dict.fromkeys(reasons))])
    )


def held(fit: Fit) -> dict[str, float]:
    """Axes that the law says nothing of because all its runs share a value: what is asked must share it too."""
    asked = {v.name for v in fit.law.variables}
    values = fit.observations.variables
    return {name: float(values[name][0]) for name in AXES if name not in asked and np.ptp(values[name]) == 0}


def strangers(fit: Fit, variables: Mapping[str, Array]) -> list[str]:
    """Pools of which some runs are (``pool_NAME`` is 1), and none that the law was fitted to."""
    known = {pool for pool in fit.observations.columns.get(POOL, ()) if pool}
    named = (
        name.removeprefix(PREFIX) for name, values in variables.items() if name.startswith(PREFIX) and values.any()
    )
    return [pool for pool in named if known and pool not in known]


def answers(fit: Fit, variables: Mapping[str, Array]) -> Any:
    """Which of some runs ``(N,)`` the law can be asked of, as a mask."""
    mask = np.ones(len(next(iter(variables.values()))), dtype=bool)
    for name, value in held(fit).items():
        if name in variables:
            mask &= np.isclose(variables[name], value, rtol=1e-9)
    for pool in strangers(fit, variables):
        mask &= variables[PREFIX + pool] == 0
    return mask


def refuse_strangers(fit: Fit, variables: Mapping[str, Array], labels: Sequence[str], where: str) -> None:
    """Refuse runs that the law cannot be asked of.

    Raises:
        UserError: the first of them, and the value that it would need.
    """
    wrong = ~answers(fit, variables)
    if not wrong.any():
        return
    first = int(np.argmax(wrong))
    for pool in strangers(fit, variables):
        if variables[PREFIX + pool][first]:
            raise UserError(
                f"{where}: {labels[first]} is on images of pool '{pool}', and none of the {len(fit.observations)} runs that were made is, "
                "so that no law says at which level its loss lies; make a run of it, or set 'pools: alike' under 'fit'."
            )
    name, value = next((n, v) for n, v in held(fit).items() if not np.isclose(variables[n][first], v, rtol=1e-9))
    raise UserError(
        f"{where}: {labels[first]} has {name} {variables[name][first]:,.0f}, and all {len(fit.observations)} runs that were made "
        f"have {value:,.0f}, so that no law says what it does; name a run with that, or make runs that differ in it."
    )
