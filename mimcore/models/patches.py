"""Images to patches and back, and a timm encoder where some of the patches are hidden: left out, or mask tokens."""

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


def window_statistics(images: Tensor, window: int) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the square around each pixel, as far as it lies in the image, channel by channel.

    The variance is unbiased, and 1e-6 is added to it (SimMIM's released code for SwinV2, its ``NORM_TARGET``). The mean of a
    square is the mean of its rows' means, so that a pixel costs two sums of ``window`` values.

    Args:
        images: float ``(B, C, H, W)``.
        window: side of the square, pixels, odd.

    Returns:
        Mean and standard deviation, each ``(B, C, H, W)``.
    """
    mean = _window_mean(images, window)
    rows, columns = (_inside(side, window, images) for side in images.shape[-2:])
    count = rows.unsqueeze(1) * columns
    variance = (_window_mean(images.square(), window) - mean.square()).clamp(min=0) * (count / (count - 1))
    return mean, (variance + 1e-6).sqrt()


def _window_mean(images: Tensor, window: int) -> Tensor:
    for kernel in ((window, 1), (1, window)):
        padding = (kernel[0] // 2, kernel[1] // 2)
        images = functional.avg_pool2d(images, kernel, stride=1, padding=padding, count_include_pad=False)
    return images


def _inside(side: int, window: int, like: Tensor) -> Tensor:
    """How many pixels of the window around each of ``side`` pixels in a row lie in the image, ``(side,)``."""
    at = torch.arange(side, device=like.device)
    last, first = (at + window // 2).clamp(max=side - 1), (at - window // 2).clamp(min=0)
    return (last - first + 1).to(like.dtype)


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
    positions = _patch_positions(encoder).expand(patches.shape[0], -1, -1)
    return run_blocks(encoder, tokens + positions.gather(1, index.expand(-1, -1, positions.shape[-1])))


def encode_hidden(encoder: VisionTransformer, images: Tensor, hidden: Tensor, mask_token: Tensor) -> Tensor:
    """Run a timm vision transformer on all patches, a mask token in the place of each hidden one's embedding.

    Xie et al. 2022, section 3.2: the mask token enters at the patch embedding, and is given its patch's position.

    Args:
        encoder: timm model with absolute positions.
        images: ``(B, C, H, W)``.
        hidden: which patches are hidden, bool ``(B, rows, columns)``.
        mask_token: ``(D,)``.

    Returns:
        What the encoder says of each patch, ``(B, D, rows, columns)``, after its last norm.
    """
    tokens = encoder.patch_embed(images)
    tokens = torch.where(hidden.flatten(1).unsqueeze(-1), mask_token.to(tokens.dtype), tokens)
    encoded = run_blocks(encoder, tokens + _patch_positions(encoder))
    return encoded[:, encoder.num_prefix_tokens :].mT.reshape(len(images), -1, *hidden.shape[1:])


def run_blocks(encoder: VisionTransformer, tokens: Tensor) -> Tensor:
    """Put the class token and registers ahead of embedded patches, and run the rest of the encoder.

    Args:
        encoder: timm model with absolute positions.
        tokens: embedded patches, their positions added, ``(B, K, D)``.

    Returns:
        ``(B, prefix + K, D)`` after the encoder's last norm.
    """
    prefix: list[Tensor] = [token for token in (encoder.cls_token, encoder.reg_token) if token is not None]
    if prefix:
        first = torch.cat(prefix, dim=1)
        if not encoder.no_embed_class:
            first = first + _positions(encoder)[:, : encoder.num_prefix_tokens]
        tokens = torch.cat([first.to(tokens.dtype).expand(tokens.shape[0], -1, -1), tokens], dim=1)
    tokens = encoder.norm_pre(tokens)
    for block in encoder.blocks:
        tokens = block(tokens)
    encoded: Tensor = encoder.norm(tokens)
    return encoded


def _patch_positions(encoder: VisionTransformer) -> Tensor:
    return _positions(encoder)[:, 0 if encoder.no_embed_class else encoder.num_prefix_tokens :]


def _positions(encoder: VisionTransformer) -> Tensor:
    if encoder.pos_embed is None:
        raise ValueError("the encoder has no absolute positions")
    return encoder.pos_embed
