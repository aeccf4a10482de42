"""The runs of a study as rows that a law is fitted to."""

from collections.abc import Sequence

import numpy as np

from mimcore.scaling.law import Variable
from mimcore.scaling.observations import Link, Observations
from mimcore.scaling.table import POOL, VAL_LOSS, Measure, Run, Setting

#: The axes of a study, each with the unit of its law; the largest value of each is held out in turn.
AXES = (
    Variable("unique_images", "images"),
    Variable("encoder_params", "parameters"),
    Variable("images_seen", "images"),
)


def observations(runs: Sequence[Run], measure: Measure, guess: float | None = None) -> Observations | None:
    """The runs that have a measure, as rows: their axes and their validation loss; None if there are none.

    A metric of which more is better has a ceiling of 1: its error, 1 - metric, is what the laws are of.

    Args:
        runs: in any order.
        measure: what is to be explained.
        guess: of a metric of which more is better, the score of a guess; the laws are then of the odds.
    """
    key = (measure.task, measure.metric)
    having = [run for run in runs if key in run.values]
    if not having:
        return None
    variables = {axis.name: np.array([float(getattr(run, axis.name)) for run in having]) for axis in AXES}
    losses = np.array([run.values.get(VAL_LOSS, np.nan) for run in having])
    texts = {name: [getattr(run.setting, name) for run in having] for name in Setting._fields}
    texts |= {name: [getattr(run, name) for run in having] for name in ("subset", "seed", "source")}
    texts[POOL] = [run.pool or "" for run in having]
    names = tuple(run.name for run in having)
    columns = {name: np.array(values, dtype=object) for name, values in {**texts, "run": names}.items()}
    return Observations(
        {**variables, "val_loss": losses},
        np.array([run.values[key] for run in having]),
        names,
        measure.metric,
        Link(1.0, guess) if measure.higher_is_better else Link(),
        {**variables, "val_loss": losses, **columns},
    )
