"""Few-shot: logistic regression on a few images of each class, over several draws of them (Singh et al. 2023, section 4.4).

The mean over draws is what is reported, as there (5 splits, 5 seeds). Features are standardised by all training images, whose labels that
does not need.
"""

import numpy as np
import torch
from pydantic import Field

from mimcore.evaluation.frozen import Frozen, PooledConfig
from mimcore.evaluation.logistic import fit, logits, standardize
from mimcore.evaluation.shots import ShotsOptions, metrics, over_draws
from mimcore.evaluation.task import Context, Needs, Value, class_count, labels_of

METRICS = metrics()
PIXELS = True
NEEDS: Needs = "labels"


class Config(PooledConfig, ShotsOptions):
    """Options of few-shot classification."""

    #: The penalty: l2 / 2 times the squared norm of the weights is added to the mean cross-entropy. So few images leave none to
    #: choose it on; ours, not the paper's.
    l2: float = Field(1e-2, gt=0)
    #: Iterations of L-BFGS; it ends earlier once it has converged.
    max_iterations: int = Field(200, ge=1)


def probe(features: Frozen, config: Config, context: Context) -> dict[str, Value]:
    """Top-1 accuracy on the test images for each number of shots: mean over the draws and its standard error.

    Raises:
        UserError: features are not finite, or no class has as many training images as the least number of shots.
    """
    classes = class_count(features, context.where)
    labels, truth = labels_of(features.train), labels_of(features.test)
    train, test = standardize(*features.pooled(config.pooling, context.device, context.where))

    def share(positions: np.ndarray, shots: int, number: int) -> float:
        rows = torch.from_numpy(positions).to(train.device)
        start = train.new_zeros(train.shape[1] + 1, classes)
        solution = fit(train[rows], labels.to(train.device)[rows], config.l2, start, config.max_iterations)
        return float((logits(test, solution).argmax(dim=1).cpu() == truth).double().mean())

    return over_draws(config, labels.numpy(), share, context, f"features.{config.features}")
