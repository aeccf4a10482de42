"""Images to patches and back, and a timm encoder on a part of the patches."""

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor
from torch.nn import functional


def patchify(images: Tensor, patch_size: int, inverse: tuple[int, int] | torch.Size | None = None) -> Tensor:
    """Cut images into patches, or with ``inverse=(H, W)`` put them together again.

    Args:
        images: ``(B, C, H, W)``; with ``inverse`` the patches ``(B, N, patch_size**2 * C)``.
        patch_size: height and width of a patch, pixels.
        inverse: height and width of the images to make.

    Returns:
        ``(B, N, patch_size**2 * C)``, patches row by row, each ordered (row, column, channel) as in the code of
        He et al. 2022; with ``inverse`` the images.
    """
    p = patch_size
    if inverse is None:
        batch, channels, height, width = images.shape
        grid = images.reshape(batch, channels, height // p, p, width // p, p)
        return grid.permute(0, 2, 4, 3, 5, 1).reshape(batch, -1, p * p * channels)
    height, width = inverse
    grid = images.reshape(images.shape[0], height // p, width // p, p, p, -1)
    return grid.permute(0, 5, 1, 3, 2, 4).reshape(images.shape[0], -1, height, width)


def normalize_patches(patches: Tensor) -> Tensor:
    """Standardise each patch by its own mean and unbiased variance, plus 1e-6 (He et al. 2022, section 3; released code)."""
    mean = patches.mean(dim=-1, keepdim=True)
    variance = patches.var(dim=-1, keepdim=True)
    return (patches - mean) / (variance + 1e-6).sqrt()


def encode_patches(encoder: VisionTransformer, patches: Tensor, kept: Tensor) -> Tensor:
    """Run a timm vision transformer on a part of the patches, without mask tokens.

    Only the kept patches are projected: the convolution of a patch is a linear map of its pixels.

    Args:
        encoder: timm model with absolute positions.
        patches: ``(B, N, P)`` from ``patchify``.
        kept: indices of the patches to encode, int64 ``(B, K)``.

    Returns:
        ``(B, prefix + K, D)`` after the encoder's last norm.
    """
    projection = encoder.patch_embed.proj
    index = kept.unsqueeze(-1)
    visible = patches.gather(1, index.expand(-1, -1, patches.shape[-1]))
    weight = projection.weight.permute(0, 2, 3, 1).reshape(projection.out_channels, -1)
    tokens = encoder.patch_embed.norm(functional.linear(visible, weight, projection.bias))
    positions = encoder.pos_embed
    if positions is None:
        raise ValueError("the encoder has no absolute positions")
    prefix_positions = 0 if encoder.no_embed_class else encoder.num_prefix_tokens
    patch_positions = positions[:, prefix_positions:].expand(patches.shape[0], -1, -1)
    tokens = tokens + patch_positions.gather(1, index.expand(-1, -1, positions.shape[-1]))
    prefix: list[Tensor] = [token for token in (encoder.cls_token, encoder.reg_token) if token is not None]
    if prefix:
        first = torch.cat(prefix, dim=1)
        first = first + positions[:, :prefix_positions] if prefix_positions else first
        tokens = torch.cat([first.to(tokens.dtype).expand(patches.shape[0], -1, -1), tokens], dim=1)
    tokens = encoder.norm_pre(tokens)
    for block in encoder.blocks:
        tokens = block(tokens)
    encoded: Tensor = encoder.norm(tokens)
    return encoded
