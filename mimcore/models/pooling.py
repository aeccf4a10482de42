"""One vector of an image from an encoder's tokens."""

from typing import Literal

import torch
from timm.layers.attention_pool import AttentionPoolLatent
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from mimcore.errors import UserError
from mimcore.models import families
from mimcore.models.encoding import encode_patches
from mimcore.models.families import Module
from mimcore.models.patches import patchify

#: ``map``: attention of a learned query (Zhai et al. 2022, 'Scaling Vision Transformers', section 3.2, with the encoder's number of heads;
#: Lee et al. 2019); ``gap``
#: and ``max``: mean and maximum over the patches; ``cls``: the class token.
Kind = Literal["map", "gap", "max", "cls"]


class Pooling(nn.Module):
    """Pools the last tokens of an encoder to ``(B, D)``.

    Args:
        kind: how.
        module: timm's encoder.

    Raises:
        UserError: it has no class token.
    """

    def __init__(self, kind: Kind, module: Module) -> None:
        super().__init__()
        if kind == "cls" and not families.has_class_token(module):
            raise UserError(
                "objectives.pooling: 'cls' needs a class token, and the encoder has none; take 'map' or 'gap'."
            )
        self.kind = kind
        self.attention: nn.Module | None = None
        if kind == "map":
            width = module.num_features
            heads = [part.num_heads for part in module.modules() if hasattr(part, "num_heads")]
            self.attention = AttentionPoolLatent(width, num_heads=heads[-1], norm_layer=nn.LayerNorm)  # type: ignore[arg-type]

    def forward(self, module: Module, images: Tensor, kept: Tensor | None = None) -> Tensor:
        """Encode and pool.

        Args:
            module: the encoder.
            images: normalised ``(B, C, H, W)``.
            kept: indices of the patches that are encoded, int64 ``(B, K)``; None for all.
        """
        if kept is not None:
            assert isinstance(module, VisionTransformer)
            return self.pool(encode_patches(module, patchify(images, families.patch_size(module)), kept), module)
        if isinstance(module, families.Hierarchical):
            return self.pool(families.patch_tokens(module, images), module)
        return self.pool(module.forward_features(images), module)

    def pool(self, tokens: Tensor, module: Module) -> Tensor:
        """Pool an encoder's last tokens, ``(B, prefix + N, D)``."""
        if self.kind == "cls":
            return tokens[:, 0]
        patches = tokens if isinstance(module, families.Hierarchical) else tokens[:, module.num_prefix_tokens :]
        if self.attention is not None:
            pooled: Tensor = self.attention(patches)
            return pooled
        return patches.mean(dim=1) if self.kind == "gap" else torch.amax(patches, dim=1)
