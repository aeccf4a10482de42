"""Weighted nearest neighbours on frozen features (Wu et al. 2018, section 3.4; used by DINO, Caron et al. 2021)."""

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from mimcore.errors import UserError
from mimcore.evaluation.frozen import Frozen, PooledConfig
from mimcore.evaluation.task import Context, Metric, Needs, Value, accuracy, class_count, labels_of

METRICS = {"top1": Metric("Top-1 accuracy of nearest neighbours")}
PIXELS = True
NEEDS: Needs = "labels"


class Config(PooledConfig):
    """Options of the nearest-neighbour classifier."""

    #: Neighbours that vote; 20 mostly is the best of DINO's 10, 20, 100 and 200 (its released ``eval_knn.py``); Wu et al. took 200.
    neighbors: int = Field(20, ge=1)
    #: A neighbour of cosine similarity s votes with the weight exp(s / temperature) (Wu et al. 2018, section 3.4).
    temperature: float = Field(0.07, gt=0)


def vote(train: Tensor, labels: Tensor, test: Tensor, classes: int, config: Config) -> Tensor:
    """Class of each test feature by the weighted vote of its nearest training features.

    Args:
        train: float ``(N, D)``.
        labels: int64 ``(N,)``.
        test: float ``(M, D)``.
        classes: number of classes C.
        config: neighbours and temperature.

    Returns:
        int64 ``(M,)``.
    """
    train, test = F.normalize(train, dim=1), F.normalize(test, dim=1)
    answers = []
    for part in torch.split(test, 1024):
        similarity, nearest = (part @ train.T).topk(config.neighbors, dim=1)
        # The largest exponent is taken out: the vote is the same, and no temperature overflows.
        weights = ((similarity - similarity[:, :1]) / config.temperature).exp()
        votes = F.one_hot(labels[nearest], classes) * weights[:, :, None]
        answers.append(votes.sum(dim=1).argmax(dim=1))
    return torch.cat(answers)


def probe(features: Frozen, config: Config, context: Context) -> dict[str, Value]:
    """Top-1 accuracy on the test images.

    Raises:
        UserError: fewer training images than neighbours.
    """
    if config.neighbors > len(features.train):
        raise UserError(
            f"{context.where}.neighbors: {config.neighbors} neighbours are asked for among {len(features.train)} training "
            "images; ask for fewer."
        )
    classes = class_count(features, context.where)
    train, test = features.pooled(config.pooling, context.device, context.where)
    answers = vote(train, labels_of(features.train).to(context.device), test, classes, config)
    return {"top1": accuracy(answers.cpu() == labels_of(features.test))}
