"""Linear probe: multinomial logistic regression on standardised frozen features.

Features are standardised as by MAE's batch norm without affine (He et al. 2022, appendix A.1). The recipe there, LARS
on augmented images for 90 epochs, is not used: on features computed once the problem is convex, and L-BFGS solves it in
seconds, the same way each time, with one penalty to choose (as the probes of Kornblith et al. 2019, and of
CLIP, Radford et al. 2021, appendix A.3). Numbers are a little below those of a probe trained with augmentation.
"""

import math

from torch.nn import functional as F

from mimcore.errors import UserError
from mimcore.evaluation.frozen import Frozen, PooledConfig
from mimcore.evaluation.logistic import LogisticOptions, choose, fit, logits, standardize
from mimcore.evaluation.task import Context, Metric, Needs, Value, accuracy, class_count, labels_of

METRICS = {
    "top1": Metric("Top-1 accuracy of a linear probe"),
    "cross_entropy": Metric("Test loss of a linear probe", higher_is_better=False, unit="nats", ceiling=None),
}
PIXELS = True
NEEDS: Needs = "labels"


class Config(PooledConfig, LogisticOptions):
    """Options of the linear probe."""


def probe(features: Frozen, config: Config, context: Context) -> dict[str, Value]:
    """Top-1 accuracy and cross-entropy on the test images.

    Raises:
        UserError: features are not finite, or there are too few training images to hold some out.
    """
    if len(features.train) < 2:
        raise UserError(
            f"{context.where}: a linear probe needs at least 2 training images; raise train_images of features.{config.features}."
        )
    classes = class_count(features, context.where)
    train, test = standardize(*features.pooled(config.pooling, context.device, context.where))
    labels = labels_of(features.train).to(context.device)
    l2 = choose(train, labels, classes, config, context.seed)
    solution = fit(train, labels, l2, train.new_zeros(train.shape[1] + 1, classes), config.max_iterations)
    scores, truth = logits(test, solution).cpu(), labels_of(features.test)
    losses = F.cross_entropy(scores, truth, reduction="none").double()
    error = float(losses.std(correction=0)) / math.sqrt(len(losses))
    return {"top1": accuracy(scores.argmax(dim=1) == truth), "cross_entropy": Value(float(losses.mean()), error)}
