"""Floating-point operations of a training step, counted from what it runs."""

from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from mimcore.models.encoder import Encoder
from mimcore.training.randomness import generator


def training_flops_per_image(objective: Any, encoder: Encoder, images: torch.Tensor) -> float:
    """Count the matrix products of forward and backward for one image (a multiply-add counts as two).

    Element-wise work and the optimiser are left out. Attention counts with its matrix products.

    Args:
        objective: is run once; its gradients are cleared.
        encoder: normalises.
        images: uint8 ``(B, 3, H, W)``; two are enough, as the count is linear in the batch.
    """
    drawn = objective.draw(len(images), generator("flops", "mask"))
    with FlopCounterMode(display=False) as counter:
        objective(encoder.normalize(images), drawn)["loss"].backward()
    objective.zero_grad(set_to_none=True)
    return float(counter.get_total_flops() / len(images))
