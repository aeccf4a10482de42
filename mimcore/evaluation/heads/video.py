"""An image encoder made to read clips."""

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from mimcore.evaluation.features import autocast
from mimcore.evaluation.task import Precision
from mimcore.models import families
from mimcore.models.encoder import Encoder

#: Layers over time of the factorised encoder (Arnab et al. 2021, 'ViViT', section 4.1: the temporal transformer has four).
TEMPORAL_DEPTH = 4


class Tubelets(nn.Module):
    """Patches of an image encoder that last ``length`` frames.

    The kernel is the image encoder's, repeated over time and divided by ``length`` (Carreira & Zisserman 2017, section 2.4): a clip
    that stands still gives what its frame gave. ``forward`` maps ``(B, T, C, H, W)`` to ``(B, T / length * patches, D)``, the patches
    of the first frames ahead.
    """

    def __init__(self, patches: nn.Module, length: int) -> None:
        super().__init__()
        image: nn.Conv2d = patches.proj  # type: ignore[assignment]
        patch: tuple[int, int] = (int(image.kernel_size[0]), int(image.kernel_size[1]))
        self.proj = nn.Conv3d(
            image.in_channels, image.out_channels, (length, *patch), (length, *patch), bias=image.bias is not None
        )
        with torch.no_grad():
            self.proj.weight.copy_(image.weight[:, :, None].expand_as(self.proj.weight) / length)
            if image.bias is not None and self.proj.bias is not None:
                self.proj.bias.copy_(image.bias)
        assert isinstance(patches.norm, nn.Module)
        self.norm = patches.norm

    def forward(self, clips: Tensor) -> Tensor:
        """Embed."""
        tokens: Tensor = self.norm(self.proj(clips.transpose(1, 2)).flatten(2).mT)
        return tokens


def inflate(encoder: Encoder, frames: int, length: int) -> None:
    """Turn a plain ViT into one of tubelets, with joint attention over space and time (Tong et al. 2022, 'VideoMAE', section 3.3).

    A position is the sum of the image encoder's own, in space, and of one in time (Feichtenhofer et al. 2022, section 4), which
    is sine-cosine about its mean, so that the positions are on average what they were; both are learned.
    """
    module = encoder.module
    assert isinstance(module, VisionTransformer)
    assert module.pos_embed is not None
    steps, width = frames // length, module.embed_dim
    patches = module.patch_embed.num_patches
    prefix, space = module.pos_embed.detach().split([module.pos_embed.shape[1] - patches, patches], dim=1)
    angles = torch.arange(steps)[:, None] * 10000 ** -(torch.arange(width // 2) / (width // 2))
    time = torch.cat([angles.sin(), angles.cos()], dim=1)
    table = space + (time - time.mean(dim=0))[:, None]
    module.patch_embed = Tubelets(module.patch_embed, length)
    module.pos_embed = nn.Parameter(torch.cat([prefix, table.reshape(1, -1, width)], dim=1))


class Factorised(nn.Module):
    """Frames encoded one by one, then a transformer over time (Arnab et al. 2021, 'ViViT', section 3.3, model 2), for any encoder.

    ``forward`` maps normalised ``(B, T, C, H, W)`` to scores ``(B, classes)``.
    """

    def __init__(self, encoder: Encoder, frames: int, classes: int) -> None:
        super().__init__()
        self.encoder = encoder.module
        width = int(encoder.module.num_features)
        self.positions = nn.Parameter(torch.zeros(1, frames, width))
        nn.init.trunc_normal_(self.positions, std=0.02)
        heads = next(number for number in range(max(1, width // 64), 0, -1) if width % number == 0)
        layer = nn.TransformerEncoderLayer(
            width, heads, 4 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.over_time = nn.TransformerEncoder(layer, TEMPORAL_DEPTH, nn.LayerNorm(width), enable_nested_tensor=False)
        self.head = nn.Linear(width, classes)

    def forward(self, clips: Tensor) -> Tensor:
        """Score the classes."""
        features = families.patch_tokens(self.encoder, clips.flatten(0, 1)).mean(dim=1).unflatten(0, clips.shape[:2])
        scores: Tensor = self.head(self.over_time(features + self.positions).mean(dim=1))
        return scores


class Classifier(nn.Module):
    """Either, from uint8 clips ``(B, T, C, H, W)`` or normalised ones to float32 scores ``(B, classes)``."""

    def __init__(self, model: nn.Module, tuned: Encoder, precision: Precision) -> None:
        super().__init__()
        self.model, self.tuned, self.precision = model, tuned, precision

    def normalize(self, clips: Tensor) -> Tensor:
        """Map uint8 ``(B, T, C, H, W)`` to float32 of zero mean and unit variance."""
        normalized: Tensor = self.tuned.normalize(clips.flatten(0, 1)).unflatten(0, clips.shape[:2])
        return normalized

    def forward(self, clips: Tensor) -> Tensor:
        """Score the classes of normalised clips."""
        with autocast(clips.device, self.precision):
            scores: Tensor = self.model(clips)
        return scores.float()
