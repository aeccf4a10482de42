"""Maps of an encoder at several resolutions, for heads that read a pyramid."""

import math
from typing import Any

from timm.layers.norm import LayerNorm2d
from torch import Tensor, nn

from mimcore.evaluation.features import autocast
from mimcore.evaluation.task import Precision
from mimcore.models import families
from mimcore.models.encoder import Encoder


class Levels(nn.Module):
    """Maps of an encoder, finest first, each half as fine as the one before.

    A plain ViT gives four: blocks at 1/3, 1/2, 2/3 and the end of its depth (3, 5, 7 and 11 of 12, from 0), at 4, 2, 1 and
    1/2 times its resolution by deconvolutions and max-pooling, as in BEiT's released segmentation (Bao et al. 2021) and
    OpenMMLab's for MAE. A Swin gives its own stages, each under a norm (Liu et al. 2021, released segmentation).

    Attributes:
        channels: of each map.
    """

    def __init__(self, encoder: Encoder, precision: Precision) -> None:
        super().__init__()
        self.encoder = encoder.module
        self.precision: Precision = precision
        if isinstance(self.encoder, families.Hierarchical):
            stages: Any = self.encoder.feature_info
            self.channels = [int(stage["num_chs"]) for stage in stages]
            self.blocks = list(range(len(self.channels)))
            self.branches = nn.ModuleList(LayerNorm2d(channels) for channels in self.channels)
            return
        depth, width = len(self.encoder.blocks), int(self.encoder.num_features)
        self.blocks = [math.ceil(depth * part / 6) - 1 for part in (2, 3, 4, 6)]
        self.channels = [width] * 4
        self.branches = nn.ModuleList(
            [_quadruple(width), nn.ConvTranspose2d(width, width, 2, 2), nn.Identity(), nn.MaxPool2d(2)]
        )

    def forward(self, images: Tensor) -> list[Tensor]:
        """Map normalised ``(B, C, S, S)`` to float32 maps ``(B, channels, h, w)``."""
        with autocast(images.device, self.precision):
            wanted = sorted(set(self.blocks))  # a shallow ViT gives one block twice
            maps: Any = self.encoder.forward_intermediates(images, indices=wanted, intermediates_only=True)
            parts = [
                branch(maps[wanted.index(block)]) for branch, block in zip(self.branches, self.blocks, strict=True)
            ]
        return [part.float() for part in parts]


def _quadruple(width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.ConvTranspose2d(width, width, 2, 2), nn.BatchNorm2d(width), nn.GELU(), nn.ConvTranspose2d(width, width, 2, 2)
    )
