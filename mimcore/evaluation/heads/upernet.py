"""UPerNet: a feature pyramid whose coarsest map is pooled over several grids (Xiao et al. 2018, section 3.1)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mimcore.evaluation.heads.levels import Levels

#: Cells along a side of each grid of the pyramid pooling (Zhao et al. 2017, section 3.2).
GRIDS = (1, 2, 3, 6)
#: Dropout before both classifiers, width and weight in the loss of the auxiliary one: OpenMMLab's configuration of UPerNet.
DROPOUT, AUXILIARY_WIDTH, AUXILIARY_WEIGHT = 0.1, 256, 0.4


class UPerNet(nn.Module):
    """Classes of every place, from an encoder's maps; in training also from the second coarsest map alone.

    ``forward`` maps normalised ``(B, C, S, S)`` to float32 scores ``(B, classes, h, w)`` at the resolution of the finest map,
    and in training to the auxiliary scores as well.
    """

    def __init__(self, levels: Levels, width: int, classes: int) -> None:
        super().__init__()
        self.levels = levels
        *finer, last = levels.channels
        self.pooled = nn.ModuleList(_convolution(last, width, 1) for _ in GRIDS)
        self.bottleneck = _convolution(last + len(GRIDS) * width, width, 3)
        self.laterals = nn.ModuleList(_convolution(channels, width, 1) for channels in finer)
        self.smoothed = nn.ModuleList(_convolution(width, width, 3) for _ in finer)
        self.fused = _convolution(width * len(levels.channels), width, 3)
        self.classifier = _classifier(width, classes)
        self.auxiliary = nn.Sequential(
            _convolution(levels.channels[-2:][0], AUXILIARY_WIDTH, 3), _classifier(AUXILIARY_WIDTH, classes)
        )

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor] | Tensor:
        """Score the classes."""
        maps = self.levels(images)
        scores = self.classifier(self._fuse(maps))
        return (scores, self.auxiliary(maps[-2:][0])) if self.training else scores

    def _fuse(self, maps: list[Tensor]) -> Tensor:
        last = maps[-1]
        grids = [
            _like(pooled(F.adaptive_avg_pool2d(last, grid)), last)
            for pooled, grid in zip(self.pooled, GRIDS, strict=True)
        ]
        top = self.bottleneck(torch.cat([last, *grids], 1))
        paths = [top]
        for lateral, finer in zip(reversed(self.laterals), reversed(maps[:-1]), strict=True):
            side = lateral(finer)
            paths.insert(0, side + _like(paths[0], side))
        smoothed = [smooth(path) for smooth, path in zip(self.smoothed, paths[:-1], strict=True)]
        fused: Tensor = self.fused(torch.cat([_like(path, paths[0]) for path in [*smoothed, top]], 1))
        return fused


def segmentation_loss(scores: tuple[Tensor, Tensor], truth: Tensor, ignored: int) -> Tensor:
    """Cross-entropy over the places that count, of both classifiers; truth is int64 ``(B, S, S)``."""
    losses = []
    for part in scores:
        part = F.interpolate(part, truth.shape[1:], mode="bilinear", align_corners=False)
        each = F.cross_entropy(part, truth, ignore_index=ignored, reduction="sum")
        # Over all pixels, as OpenMMLab: those that are ignored count as zero.
        losses.append(each / truth.numel())
    return losses[0] + AUXILIARY_WEIGHT * losses[1]


def _like(small: Tensor, large: Tensor) -> Tensor:
    return F.interpolate(small, large.shape[2:], mode="bilinear", align_corners=False)


def _classifier(width: int, classes: int) -> nn.Sequential:
    last = nn.Conv2d(width, classes, 1)
    nn.init.normal_(last.weight, std=0.01)  # as OpenMMLab
    nn.init.zeros_(last.bias)  # type: ignore[arg-type]
    return nn.Sequential(nn.Dropout2d(DROPOUT), last)


def _convolution(channels: int, width: int, kernel: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, width, kernel, padding=kernel // 2, bias=False), nn.BatchNorm2d(width), nn.ReLU()
    )
