"""A picture of what the model fills in."""

from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mimcore.models.encoder import Encoder
from mimcore.training.randomness import generator


class Reconstructs(Protocol):
    """An objective that can show what it predicts."""

    def draw(self, batch: int, generator: torch.Generator) -> Tensor:
        """The masks of a batch, a row per image."""
        ...

    def reconstruct(self, images: Tensor, drawn: Tensor) -> tuple[Tensor, Tensor]:
        """The input with the hidden part blank, and filled in; normalised, ``(B, C, H, W)``."""
        ...

    def train(self, mode: bool = True) -> Any:
        """Set training or evaluation mode."""
        ...


@torch.no_grad()
def save_reconstructions(file: Path, objective: Reconstructs, encoder: Encoder, images: Tensor) -> None:
    """Save a sheet of three rows: the images, what the encoder saw of them, and the reconstruction.

    Args:
        file: where to write the PNG.
        objective: has ``draw`` and ``reconstruct(images, drawn)``.
        encoder: normalises, and says how to undo it.
        images: uint8 ``(B, C, H, W)``.
    """
    objective.train(False)
    normalized = encoder.normalize(images)
    hidden, filled = objective.reconstruct(normalized, objective.draw(len(images), generator("picture", "mask")))
    rows = [_to_uint8(part, encoder) for part in (normalized, hidden, filled)]
    scale = max(1, 96 // max(images.shape[-2:]))
    gap = 4
    height, width = images.shape[-2] * scale, images.shape[-1] * scale
    sheet = Image.new("RGB", (len(images) * (width + gap) - gap, 3 * (height + gap) - gap), "white")
    for r, row in enumerate(rows):
        for c, picture in enumerate(row):
            tile = Image.fromarray(np.ascontiguousarray(picture)).resize((width, height), Image.Resampling.NEAREST)
            sheet.paste(tile, (c * (width + gap), r * (height + gap)))
    sheet.save(file)
    objective.train()


def _to_uint8(images: Tensor, encoder: Encoder) -> np.ndarray:
    mean = torch.tensor(encoder.mean, device=images.device).view(1, -1, 1, 1)
    std = torch.tensor(encoder.std, device=images.device).view(1, -1, 1, 1)
    pixels = ((images.float() * std + mean) * 255).round().clamp(0, 255).byte()
    return pixels.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).cpu().numpy()
