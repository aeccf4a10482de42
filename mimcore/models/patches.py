"""Images to patches and back, and the means that targets are standardised by."""

import torch
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
