"""Zero-shot classification: each image is of the class whose name, put into prompts, lies nearest (Radford et al. 2021, section 3.1).

The vectors of a class's prompts are averaged, and the mean is brought to length 1 (section 3.1.4, an ensemble in the space of
the vectors). Only test images are looked at.
"""

import torch
from pydantic import field_validator

from mimcore.errors import UserError
from mimcore.evaluation.frozen import Frozen, ProbeConfig
from mimcore.evaluation.prompts import name_vectors, one_place_each, text_tower
from mimcore.evaluation.task import Context, Metric, Needs, Value, accuracy, class_count, labels_of

METRICS = {
    "top1": Metric("Top-1 accuracy without training images"),
    "top5": Metric("Top-5 accuracy without training images"),
}
PIXELS = False
NEEDS: Needs = "labels"


class Config(ProbeConfig):
    """Options of zero-shot classification."""

    #: Prompts with '{}' where the name stands. These seven, chosen one after the other on ImageNet, did a little better there than
    #: all eighty (CLIP's released notebook on prompts; section 3.1.4 says why prompts help).
    templates: tuple[str, ...] = (
        "itap of a {}.",
        "a bad photo of the {}.",
        "a origami {}.",
        "a photo of the large {}.",
        "a {} in a video game.",
        "art of the {}.",
        "a photo of the small {}.",
    )
    #: Names of the classes, in the order of their numbers; the pool's own if not given.
    names: tuple[str, ...] | None = None

    @field_validator("templates")
    @classmethod
    def _with_a_place(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not one_place_each(value):
            raise ValueError("at least one is needed, and each must have '{}' once, where the name stands")
        return value


def probe(features: Frozen, config: Config, context: Context) -> dict[str, Value]:
    """Top-1 accuracy and, with more than five classes, top-5 accuracy on the test images.

    Raises:
        NotApplicable: the run has no text tower.
        UserError: the classes have no names, or fewer than there are labels.
    """
    tower = text_tower(context)
    names = config.names or features.classes
    if not names:
        raise UserError(f"{context.where}.names: the pool does not name its classes; give their names here.")
    if len(names) < (labels := class_count(features, context.where)):
        raise UserError(f"{context.where}.names: there are {len(names)} names, and labels up to {labels - 1}.")
    classes = name_vectors(tower, names, config.templates, context)
    images = torch.tensor(features.test.arrays["projected"], device=context.device)
    nearest = (images @ classes.T).topk(min(5, len(names)), dim=1).indices.cpu()
    hits = nearest == labels_of(features.test)[:, None]
    found = {"top1": accuracy(hits[:, 0])}
    return found if len(names) <= 5 else found | {"top5": accuracy(hits.any(dim=1))}
