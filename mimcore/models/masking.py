"""Which patches are hidden."""

import torch
from torch import Generator, Tensor


def random_masking(batch: int, patches: int, mask_ratio: float, generator: Generator) -> tuple[Tensor, int]:
    """Hide a random part of the patches, another one in each image (He et al. 2022, section 3, 'simple implementation').

    Args:
        batch: images, B.
        patches: patches of an image, N.
        mask_ratio: part that is hidden; ``int(N * (1 - mask_ratio))`` patches are kept, as in the released code.
        generator: where the randomness comes from; the result lies on its device.

    Returns:
        A random order of the patches, int64 ``(B, N)``, and how many of its first entries are kept.
    """
    kept = max(1, int(patches * (1 - mask_ratio)))
    noise = torch.rand(batch, patches, generator=generator, device=generator.device)
    return noise.argsort(dim=1), kept
