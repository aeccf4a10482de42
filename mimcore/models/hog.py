"""Histograms of oriented gradients, the target of MaskFeat."""

import math
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from mimcore.definition import Definition
from mimcore.models.patches import patchify


class HogOptions(Definition):
    """The defaults are MaskFeat's (Wei et al. 2022, 'Masked Feature Prediction', 'Target features'; ``HOGLayerC`` of SlowFast)."""

    kind: Literal["hog"]
    #: Bins of the histogram over half a turn.
    orientations: int = Field(9, ge=2)
    #: Side of a cell, pixels: each has a histogram of its own.
    cell: int = Field(8, ge=2)
    #: A histogram of each channel; without it one of their mean.
    colour: bool = True


class Hog(nn.Module):
    """Histograms of the gradients' directions, each gradient counting with its length.

    Gradients are Sobel's over an image that is mirrored at its edges, a direction belongs to one bin whole, and the histogram of
    each cell and channel has a Euclidean norm of 1 (or is zero, where there is no gradient).

    Args:
        options: what is declared.
        patch: side of a patch, pixels, a multiple of the cell.
        channels: of the images.
    """

    def __init__(self, options: HogOptions, patch: int, channels: int) -> None:
        super().__init__()
        self.options, self.patch = options, patch
        self.width = (patch // options.cell) ** 2 * options.orientations * (channels if options.colour else 1)

    def forward(self, images: Tensor) -> Tensor:
        """Histograms of ``(B, C, H, W)``, float32 ``(B, N, width)``, each patch's in the order (cell, channel, bin)."""
        bins, cell = self.options.orientations, self.options.cell
        pixels = images.float() if self.options.colour else images.float().mean(1, keepdim=True)
        across, down = gradients(pixels)
        at = (torch.atan2(across, down) / math.pi * bins).floor().long() % bins
        length = torch.stack([across, down]).norm(dim=0)
        votes = length.unsqueeze(2) * (at.unsqueeze(2) == torch.arange(bins, device=at.device).view(-1, 1, 1))
        cells = functional.avg_pool2d(votes.flatten(0, 1), cell)  # a sum, but for a factor that the norm takes out
        cells = functional.normalize(cells, dim=1).unflatten(0, pixels.shape[:2]).flatten(1, 2)
        return patchify(cells, self.patch // cell)


def gradients(pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Sobel's differences across and down, each ``(B, C, H, W)``; sums of slices, so that no autocast makes them coarse."""
    padded = functional.pad(pixels, (1, 1, 1, 1), mode="reflect")
    rows = padded[..., :-2, :] + 2 * padded[..., 1:-1, :] + padded[..., 2:, :]
    columns = padded[..., :-2] + 2 * padded[..., 1:-1] + padded[..., 2:]
    return rows[..., :-2] - rows[..., 2:], columns[..., :-2, :] - columns[..., 2:, :]
