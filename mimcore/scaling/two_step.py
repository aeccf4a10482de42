"""A forecast in two steps, as one fit: the validation loss from the scale, and a task from the loss."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from mimcore.scaling.estimate import Fit
from mimcore.scaling.law import Numbers, ScalingLaw, Variables
from mimcore.scaling.observations import Link, Observations
from mimcore.scaling.pools import fit_levels
from mimcore.scaling.table import VAL_LOSS, Array

#: The law of a task in the validation loss: it says nothing of runs whose loss is not known, unless another law forecasts that.
TASK = "task"


class Chained(ScalingLaw):
    """A law of the validation loss and a law of a task in that loss, taken as one law of the task; see ``chain``."""

    def __init__(self, loss: ScalingLaw, task: ScalingLaw) -> None:
        self.loss, self.task = loss, task
        known = (VAL_LOSS[1], *(variable.name for variable in loss.variables))
        # The class variables of a law, here of one that is made: names of instances hide those of the class.
        for name, value in {
            "name": f"{loss.name}, then {task.name}",
            "formula": f"{task.formula}, of val_loss = {loss.formula}",
            "source": task.source,
            "variables": (*loss.variables, *(v for v in task.variables if v.name not in known)),
            "parameters": (
                *(p._replace(name=f"val_loss_{p.name}", of_value=False) for p in loss.parameters),
                *task.parameters,
            ),
        }.items():
            setattr(self, name, value)

    def predict(self, parameters: Numbers, variables: Variables) -> Numbers:
        """See ``ScalingLaw``; each set of parameters has a loss of its own, ``(R, N)``."""
        own = len(self.loss.parameters)
        losses = self.loss.predict(parameters[:, :own], variables)
        return self.task.predict(parameters[:, own:], {**variables, VAL_LOSS[1]: losses})

    def starts(self, variables: Variables, y: Array) -> Array:
        """Not to be had: the steps are fitted to two metrics."""
        raise NotImplementedError

    def rescaled(self, parameters: Array, factors: Mapping[str, float]) -> Array:
        """See ``starts``."""
        raise NotImplementedError


def chain(loss: Fit, task: Fit) -> Fit:
    """Forecast a task through the validation loss; both steps' uncertainties are carried on.

    The two ensembles are paired in their order, as independent: the steps are fitted to residuals of different metrics. Give them
    seeds that differ.

    Args:
        loss: a law of the validation loss.
        task: the law ``task`` of the task's metric, whose rows have the variables of ``loss`` too.

    Returns:
        the fit of a law of the metric in the variables of ``loss``; its ``residuals`` and ``noise`` are of both steps, ``delta`` and
        ``loss`` those of the second.
    """
    law, rows = Chained(loss.law, task.law), task.observations
    parameters = np.concatenate([loss.parameters, task.parameters])
    count = min(len(loss.ensemble), len(task.ensemble))
    residuals = np.log(rows.y) - np.log(law.predict(parameters[None], rows.variables)[0])
    freedom = min(loss.freedom, task.freedom)
    return replace(
        task,
        law=law,
        parameters=parameters,
        ensemble=np.hstack([loss.ensemble[:count], task.ensemble[:count]]),
        residuals=residuals,
        noise=float(np.sqrt(np.sum(residuals**2) / max(freedom, 1))),
        freedom=freedom,
    )


def fit_in_two(loss: ScalingLaw, task: ScalingLaw, rows: Observations, options: Mapping[str, Any]) -> Fit:
    """Fit both steps to the same runs, and chain them.

    Args:
        loss: of the validation loss.
        task: of the task's metric in the validation loss.
        rows: of the metric, with the variables of both; levelled where they are of several pools.
        options: see ``estimate.Options``.

    Raises:
        UserError: see ``pools.fit_levels``.
    """
    losses = replace(rows, metric=rows.variables[VAL_LOSS[1]], name="validation loss", link=Link())
    second = {**options, "seed": options.get("seed", 0) + 1}
    return chain(fit_levels(loss, losses, options), fit_levels(task, rows, second))
