"""Validation loss: fixed images, fixed masks, no augmentation."""

import contextlib
import math
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from mimcore.errors import UserError
from mimcore.models.encoder import Encoder
from mimcore.models.objective import drawn_for, moved
from mimcore.training.randomness import generator
from mimcore.training.ranks import ALONE, Ranks
from mimcore.training.state import Run


class ImageTable(Protocol):
    """What is needed of a table of images."""

    def __len__(self) -> int: ...

    @property
    def rows(self) -> pa.Table:
        """Rows of the index."""
        ...

    def get(self, positions: NDArray[np.int64], /) -> NDArray[np.uint8]:
        """Images at these positions, uint8 ``(B, 3, H, W)``."""
        ...


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager[None]:
    """Matrix products in the schedule's precision; weights, norms and losses stay float32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")


@torch.no_grad()
def fixed_loss(
    objective: Any,
    encoder: Encoder,
    images: ImageTable,
    device: torch.device,
    precision: str,
    ranks: Ranks = ALONE,
    batch_size: int = 256,
) -> float:
    """Mean loss over all of ``images``, each under a mask that depends on its position alone.

    The masks are the same for every run, seed and number of images seen, so that two losses differ by their models only.
    Ranks take batches in turn.
    """
    objective.eval()
    total = 0.0
    starts = range(0, len(images), batch_size)
    # Each rank as often as any other, for the sake of those that hold parts of the weights: the last ones once more for nothing.
    for turn in range(0, len(starts), ranks.world_size):
        mine = turn + ranks.rank
        start = starts[min(mine, len(starts) - 1)]
        positions = np.arange(start, min(start + batch_size, len(images)))
        batch = torch.from_numpy(images.get(positions)).to(device)
        rows = images.rows.slice(start, len(positions)) if objective.columns else None
        drawn = moved(drawn_for(objective, len(positions), generator("validation", "mask", start), rows), device)
        with autocast(device, precision):
            loss = objective(encoder.normalize(batch), drawn)["loss"]
        total += float(loss) * len(positions) * (mine < len(starts))
    objective.train()
    return ranks.sum(total)[0] / len(images)


def validate(run: Run, tables: Mapping[str, ImageTable]) -> None:
    """Add a point to each curve; every rank must come here.

    Raises:
        UserError: a loss is not finite.
    """
    seen, ranks = run.images_seen, run.ranks
    rate = run.schedule.learning_rate(max(run.step - 1, 0))
    losses = {}
    if run.step:
        losses["train"] = ranks.sum(float(run.loss_sum / run.loss_steps))[0] / ranks.world_size
    with run.averaged():
        for split, images in tables.items():
            losses[split] = fixed_loss(run.objective, run.encoder, images, run.device, run.schedule.precision, ranks)
    for split, loss in losses.items():
        if not math.isfinite(loss):
            raise UserError(
                f"the {split} loss is {loss} after {seen} images seen; lower base_learning_rate or lengthen warmup_images "
                "in the run's schedule (nothing was written)."
            )
        norm = float(run.gradient_norm) if split == "train" else None
        rate_ = rate if split == "train" else None
        run.curve.append({"images_seen": seen, "split": split, "loss": loss, "learning_rate": rate_, "grad_norm": norm})
    run.loss_sum, run.loss_steps = torch.zeros_like(run.loss_sum), torch.zeros_like(run.loss_steps)
