"""A forecast in two steps: the loss from the scale, and the task from the loss."""

import numpy as np

from mimcore.scaling.estimate import Fit, Prediction
from mimcore.scaling.law import Variables


def chain(loss: Fit, task: Fit, variables: Variables) -> Prediction:
    """Forecast a task through the validation loss; both steps' uncertainties are carried on.

    The two ensembles are paired in their order, as independent: the steps are fitted to residuals of different metrics.

    Args:
        loss: a law of the validation loss in ``variables``.
        task: the law ``task`` of the task's metric in the validation loss.
        variables: each float64 ``(N,)``.
    """
    first = loss.predict(variables)
    mean = task.predict({"val_loss": first.mean}).mean
    count = min(len(first.ensemble), len(task.ensemble))
    link = task.observations.link
    members = [task.law.predict(task.ensemble[i : i + 1], {"val_loss": first.ensemble[i]}) for i in range(count)]
    if not members:
        return Prediction(mean, np.full_like(mean, np.nan), np.full_like(mean, np.nan), np.empty((0, len(mean))))
    ensemble = link.metric(np.concatenate(members))
    low, high = np.quantile(ensemble, [0.5 - task.confidence / 2, 0.5 + task.confidence / 2], axis=0)
    return Prediction(mean, low, high, ensemble)
