"""CLIP's loss: which text belongs to which image of a batch."""

from contextlib import nullcontext

import torch
from torch import Tensor
from torch.nn import functional


def contrastive_loss(images: Tensor, texts: Tensor, scale: Tensor, known: Tensor) -> Tensor:
    """Mean cross-entropy of finding each image's text, and each text's image (Radford et al. 2021, section 2.3, figure 3).

    A pair without a caption is left out, as an answer and as a choice.

    Args:
        images: vectors of length 1, float32 ``(B, D)``.
        texts: likewise; row i belongs to image i.
        scale: what cosines are multiplied by, the same for each pair, ``(B,)``.
        known: 1 where the image has a caption, ``(B,)``.

    Returns:
        float32 scalar; 0 where no image has a caption.
    """
    in_full = nullcontext() if images.is_meta else torch.autocast(images.device.type, enabled=False)
    with in_full:
        cosines = images.float() @ texts.float().mT
    left_out = (known == 0).unsqueeze(0)
    lowest = torch.finfo(cosines.dtype).min
    answers = torch.arange(len(cosines), device=cosines.device)
    both = torch.zeros((), device=cosines.device)
    # Each pair comes with a scale of its own, so that the gradient of the one weight behind them is the sum over pairs.
    for logits in (cosines * scale.unsqueeze(1), cosines.mT * scale.unsqueeze(1)):
        each = functional.cross_entropy(logits.masked_fill(left_out, lowest), answers, reduction="none")
        both = both + torch.where(known > 0, each, 0.0).sum()
    return both / (2 * known.sum().clamp(min=1))
