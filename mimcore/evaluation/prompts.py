"""Classes as vectors: names put into prompts, and what a text tower makes of them (Radford et al. 2021, section 3.1.4)."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from mimcore.evaluation.task import Context, NotApplicable
from mimcore.models.text import DESCRIPTION, TextTower, load_text

#: Texts that go through the tower at a time.
BATCH = 256


def text_tower(context: Context) -> TextTower:
    """The text tower of the run, on the device.

    Raises:
        NotApplicable: the subject is no run, or the run has no text tower.
    """
    if context.run is None or not (context.run / DESCRIPTION).is_file():
        raise NotApplicable("the run has no text tower")
    return load_text(context.run).to(context.device)


def prompts(names: Sequence[str], templates: Sequence[str]) -> list[str]:
    """Every template with every name, a name's templates side by side."""
    return [template.replace("{}", name) for name in names for template in templates]


def ensemble(vectors: Tensor, templates: int) -> Tensor:
    """One vector of length 1 for each class.

    Args:
        vectors: of length 1, ``(C * templates, D)``, a class's prompts side by side.
        templates: prompts of a class.

    Returns:
        ``(C, D)``.
    """
    return F.normalize(vectors.unflatten(0, (-1, templates)).mean(dim=1), dim=-1)


def name_vectors(tower: TextTower, names: Sequence[str], templates: Sequence[str], context: Context) -> Tensor:
    """One vector of length 1 for each name, ``(C, D)``: the mean over the templates, an ensemble in the space of the vectors."""
    texts = prompts(names, templates)
    parts = []
    for start in range(0, len(texts), BATCH):
        parts.append(tower.encode(texts[start : start + BATCH]))
        context.progress("prompts", min(start + BATCH, len(texts)), len(texts))
    return ensemble(torch.cat(parts), len(templates))


def one_place_each(templates: Sequence[str]) -> bool:
    """Whether there are templates, and each has ``{}`` once, where the name stands."""
    return bool(templates) and all(template.count("{}") == 1 for template in templates)
