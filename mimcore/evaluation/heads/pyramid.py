"""The simple feature pyramid of ViTDet."""

from collections import OrderedDict
from typing import Literal

from timm.layers.norm import LayerNorm2d
from torch import Tensor, nn

from mimcore.evaluation.features import autocast
from mimcore.evaluation.task import Precision
from mimcore.models import families
from mimcore.models.encoder import Encoder

#: Resolution of a map relative to the encoder's.
Scale = Literal["4", "2", "1", "1/2", "1/4"]

#: The number that each name stands for.
FACTORS: dict[Scale, float] = {"4": 4.0, "2": 2.0, "1": 1.0, "1/2": 0.5, "1/4": 0.25}


class SimplePyramid(nn.Module):
    """Maps of several resolutions, all from the last map of the encoder (Li et al. 2022, section 3).

    Deconvolutions double the resolution, max-pooling halves it; then come a 1x1 and a 3x3 convolution, each followed
    by a layer norm over the channels. ``forward`` maps ``(B, C, h, w)`` to one ``(B, width, h * scale, w * scale)`` for
    each scale, finest first.
    """

    def __init__(self, channels: int, width: int, scales: tuple[Scale, ...]) -> None:
        super().__init__()
        self.branches = nn.ModuleList(_branch(channels, width, scale) for scale in scales)

    def forward(self, features: Tensor) -> list[Tensor]:
        """Make the maps."""
        return [branch(features) for branch in self.branches]


def _branch(channels: int, width: int, scale: Scale) -> nn.Sequential:
    layers: list[nn.Module]
    if scale == "4":
        middle = channels // 2
        layers = [nn.ConvTranspose2d(channels, middle, 2, 2), LayerNorm2d(middle), nn.GELU()]
        layers.append(nn.ConvTranspose2d(middle, channels // 4, 2, 2))
        channels //= 4
    elif scale == "2":
        layers = [nn.ConvTranspose2d(channels, channels // 2, 2, 2)]
        channels //= 2
    else:
        layers = [] if scale == "1" else [nn.MaxPool2d(2 if scale == "1/2" else 4)]
    return nn.Sequential(
        *layers,
        nn.Conv2d(channels, width, 1, bias=False),
        LayerNorm2d(width),
        nn.Conv2d(width, width, 3, padding=1, bias=False),
        LayerNorm2d(width),
    )


class Backbone(nn.Module):
    """An encoder under a pyramid, as torchvision's detectors want it.

    Attention is global in every block: ViTDet's windows, with four global blocks, save memory at 1024 pixels and lose 0.5 points of
    box AP with ViT-L (Li et al. 2022, table 2d), but gain 0.8 with ViT-B (table 8d). The last map is taken after the encoder's final
    norm, as the decoder read it in pretraining.
    """

    def __init__(self, encoder: Encoder, width: int, scales: tuple[Scale, ...], precision: Precision) -> None:
        super().__init__()
        self.encoder = encoder.module
        self.pyramid = SimplePyramid(encoder.module.num_features, width, scales)
        self.precision: Precision = precision
        self.out_channels = width

    def forward(self, images: Tensor) -> "OrderedDict[str, Tensor]":
        """Map normalised ``(B, 3, S, S)`` to float32 maps, finest first."""
        with autocast(images.device, self.precision):
            maps = self.pyramid(families.patch_map(self.encoder, images))
        return OrderedDict((str(level), part.float()) for level, part in enumerate(maps))
