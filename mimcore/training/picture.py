"""A picture of what the model fills in."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mimcore.models.encoder import Encoder
from mimcore.models.objective import drawn_for, moved
from mimcore.training.randomness import generator
from mimcore.training.validation import ImageTable

#: Images in the picture.
PICTURE_IMAGES = 8


@torch.no_grad()
def save_reconstructions(
    file: Path, objective: Any, encoder: Encoder, validation: ImageTable, device: torch.device
) -> None:
    """Save a sheet of three rows: the images, what the encoder saw of them, and the reconstruction.

    Args:
        file: where to write the PNG.
        objective: has ``reconstruct(images, drawn)``, which returns the input with the hidden part blank, and filled in;
            normalised, ``(B, C, H, W)`` each.
        encoder: normalises, and says how to undo it.
        validation: the first of its images are shown.
        device: where to compute.
    """
    objective.train(False)
    shown = min(PICTURE_IMAGES, len(validation))
    images = torch.from_numpy(validation.get(np.arange(shown))).to(device)
    rows = validation.rows.slice(0, shown) if objective.columns else None
    normalized = encoder.normalize(images)
    drawn = moved(drawn_for(objective, shown, generator("picture", "mask"), rows), device)
    hidden, filled = objective.reconstruct(normalized, drawn)
    pictures = [_to_uint8(part, encoder) for part in (normalized, hidden, filled)]
    scale = max(1, 96 // max(images.shape[-2:]))
    gap = 4
    height, width = images.shape[-2] * scale, images.shape[-1] * scale
    sheet = Image.new("RGB", (len(images) * (width + gap) - gap, 3 * (height + gap) - gap), "white")
    for r, row in enumerate(pictures):
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
