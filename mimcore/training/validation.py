"""Validation loss: fixed images, fixed masks, no augmentation."""

import contextlib
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from mimcore.models.encoder import Encoder
from mimcore.training.randomness import generator


class ImageTable(Protocol):
    """What is needed of a table of images."""

    def __len__(self) -> int: ...

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
    batch_size: int = 256,
) -> float:
    """Mean loss over all of ``images``, each under a mask that depends on its position alone.

    The masks are the same for every run, seed and number of images seen, so that two losses differ by their models only.
    """
    objective.eval()
    total = 0.0
    for start in range(0, len(images), batch_size):
        positions = np.arange(start, min(start + batch_size, len(images)))
        batch = torch.from_numpy(images.get(positions)).to(device)
        drawn = objective.draw(len(positions), generator("validation", "mask", start))
        with autocast(device, precision):
            loss = objective(encoder.normalize(batch), drawn)["loss"]
        total += float(loss) * len(positions)
    objective.train()
    return total / len(images)
