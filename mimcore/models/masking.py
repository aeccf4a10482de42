"""Which patches are hidden."""

import math

import torch
from torch import Generator, Tensor


def kept_patches(patches: int, mask_ratio: float) -> int:
    """How many of an image's patches are kept: ``int(N * (1 - mask_ratio))``, as in MAE's released code, at least one."""
    return max(1, int(patches * (1 - mask_ratio)))


def hidden_units(units: int, mask_ratio: float) -> int:
    """How many of an image's mask units are hidden: ``ceil(U * mask_ratio)``, as in SimMIM's released code."""
    return math.ceil(units * mask_ratio)


def random_order(batch: int, patches: int, generator: Generator) -> Tensor:
    """Order the patches at random, in each image anew (He et al. 2022, section 3, 'simple implementation').

    Args:
        batch: images, B.
        patches: patches of an image, N.
        generator: where the randomness comes from; the result lies on its device.

    Returns:
        A random order of the patches, int64 ``(B, N)``; whatever is kept comes first in it.
    """
    return torch.rand(batch, patches, generator=generator, device=generator.device).argsort(dim=1)
