"""Losses that compare the images of a batch with each other: what each image brings to the comparison, and the comparison."""

from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from mimcore.models.objective import Trained

#: Rows of what images bring, by name, each ``(B, ...)``.
Embedded = dict[str, Tensor]


class WholeBatch(Trained):
    """An objective whose loss is a function of a few numbers of each image, and of nothing else that is trained.

    ``embed`` has all the weights and takes all the time, image by image; ``compare`` has none. So the loss of a whole batch, and
    its gradient, are had from parts of it (Gao et al. 2021, 'Scaling Deep Contrastive Learning Batch Size under Memory
    Limited Setup', section 3: gradient caching), and from the parts of several ranks.
    """

    whole_batch = True
    gathers = True
    #: Train against the images of the other ranks as well; a run of several ranks sets it.
    gathering = False

    def embed(self, images: Tensor, drawn: Any) -> Embedded:
        """What each image brings; each row is a function of its own image and row of ``drawn``."""
        raise NotImplementedError

    def compare(self, embedded: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """``{"loss": float32 scalar}`` of all rows together, and parts of it; it uses no weight."""
        raise NotImplementedError

    def forward(self, images: Tensor, drawn: Any, weights: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """The loss of a batch, or a step of having it from parts.

        Args:
            images: normalised, float ``(B, C, H, W)``.
            drawn: rows of what was drawn and read.
            weights: None for the loss; empty for what ``embed`` returns; else gradients of the loss by what was embedded, and
                the ``loss`` is the sum of the products with it, which has the loss's gradient by the weights.
        """
        embedded = self.embed(images, drawn)
        if weights is None:
            return self.compare_all(embedded)
        if not weights:
            return embedded
        return {"loss": torch.stack([(embedded[name] * weight).sum() for name, weight in weights.items()]).sum()}

    def compare_all(self, embedded: Embedded) -> dict[str, Tensor]:
        """``compare`` over the ranks, in training; validation batches are each rank's own."""
        if self.gathering and self.training:
            embedded = {name: gathered(rows) for name, rows in embedded.items()}
        return self.compare(embedded)


class _Gathered(torch.autograd.Function):
    """All ranks' rows; every rank computes the same of them, so that each knows the gradient of its own."""

    @staticmethod
    def forward(context: Any, rows: Tensor) -> Tensor:
        parts = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, rows.contiguous())
        context.batch = len(rows)
        return torch.cat(parts)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> Tensor:
        first = dist.get_rank() * context.batch
        # Gradients of the weights are averaged over the ranks, and each has its own rows' part of the sum.
        return gradients[0][first : first + context.batch] * dist.get_world_size()


def gathered(rows: Tensor) -> Tensor:
    """The rows of all ranks in order, ``(ranks * B, ...)``; gradients come back to this rank's own."""
    found: Tensor = _Gathered.apply(rows)
    return found
