"""Features as colours, for a person to look at."""

import torch
from torch import Tensor


def colours(features: Tensor, *others: Tensor) -> list[Tensor]:
    """The three principal components of features as red, green and blue, from 0 to 1.

    0.5 is the mean of ``features``, and two standard deviations of a component reach 0 and 1. A component's sign is that of its
    largest weight, so that the colours are a function of the features.

    Args:
        features: ``(B, N, D)``, which the components are of.
        others: ``(B, M, D)``, shown in the same colours.

    Returns:
        ``(B, N, 3)``, and ``(B, M, 3)`` of each of the others.
    """
    flat = features.float().flatten(0, 1)
    mean = flat.mean(dim=0)
    _, spread, axes = torch.linalg.svd(flat - mean, full_matrices=False)
    kept = min(3, len(axes))
    axes, spread = axes[:kept], spread[:kept] / len(flat) ** 0.5
    largest = axes.gather(1, axes.abs().argmax(dim=1, keepdim=True))
    axes = axes * largest.sign()
    found = []
    for part in (features, *others):
        scaled = (part.float() - mean) @ axes.T / (4 * spread.clamp(min=1e-6)) + 0.5
        missing = scaled.new_full((*scaled.shape[:-1], 3 - kept), 0.5)
        found.append(torch.cat([scaled, missing], dim=-1).clamp(0, 1))
    return found
