"""Random resized crop and flip of a whole batch on its device, as two matrix products."""

import math
from typing import Literal

import torch
from torch import Generator, Tensor

#: Filters that crops are resampled with.
Interpolation = Literal["bicubic", "bilinear"]

#: How often a crop is drawn before the centre is taken (torchvision's RandomResizedCrop).
TRIES = 10


def random_resized_crop(
    images: Tensor,
    scale: tuple[float, float],
    ratio: tuple[float, float],
    flip: bool,
    generator: Generator,
    drawn: int | None = None,
    first: int = 0,
    interpolation: Interpolation = "bicubic",
) -> Tensor:
    """Crop each image at random, resize to its full size, flip every other one.

    Equals torchvision's ``RandomResizedCrop`` (Szegedy et al. 2015) followed by ``RandomHorizontalFlip``, one draw per image. Resampling is
    separable: rows and columns are each a sparse matrix, so a crop, a resize and a flip are two products.

    Args:
        images: uint8 ``(B, C, H, W)``.
        scale: least and greatest area of the crop, part of the image.
        ratio: least and greatest width over height.
        flip: mirror with probability one half.
        generator: a CPU generator; the draws are the same on every device.
        drawn: images to draw for, where ``images`` are a part of a batch; B if None.
        first: which of the ``drawn`` the first of ``images`` is.
        interpolation: the filter.

    Returns:
        float32 ``(B, C, H, W)``, in [0, 255] (clamped, as bicubic interpolation overshoots).
    """
    batch, channels, height, width = images.shape
    drawn, mine = drawn or batch, slice(first, first + batch)
    crops = draw_crops(drawn, height, width, scale, ratio, generator)
    top, left, rows, columns = (side[mine] for side in crops)
    mirrored = torch.rand(drawn, generator=generator)[mine] < 0.5 if flip else torch.zeros(batch, dtype=torch.bool)
    upright = torch.zeros_like(mirrored)
    vertical = resampling_matrix(top, rows, height, upright, images.device, interpolation)  # (B, H, H)
    horizontal = resampling_matrix(left, columns, width, mirrored, images.device, interpolation)  # (B, W, W)
    with torch.autocast(images.device.type, enabled=False):
        # Both products take the channels together: far faster than a small product for each channel.
        pixels = torch.bmm(images.float().reshape(batch, channels * height, width), horizontal.transpose(1, 2))
        pixels = pixels.view(batch, channels, height, width).transpose(1, 2).reshape(batch, height, channels * width)
        pixels = torch.bmm(vertical, pixels).view(batch, height, channels, width).transpose(1, 2)
    return pixels.clamp_(0, 255)


def random_flip(images: Tensor, generator: Generator, drawn: int | None = None, first: int = 0) -> Tensor:
    """Mirror each of B images ``(B, C, H, W)`` with probability one half; a CPU generator draws the same for every device.

    ``drawn`` and ``first`` are those of ``random_resized_crop``.
    """
    draws = torch.rand(drawn or len(images), generator=generator)[first : first + len(images)]
    mirrored = (draws < 0.5).to(images.device)
    return torch.where(mirrored.view(-1, 1, 1, 1), images.flip(3), images)


def draw_crops(
    batch: int, height: int, width: int, scale: tuple[float, float], ratio: tuple[float, float], generator: Generator
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Draw crops as torchvision's ``RandomResizedCrop.get_params`` does.

    Returns:
        Top, left, height and width in pixels, int64 ``(B,)`` each.
    """
    uniform = torch.rand(4, batch, TRIES, generator=generator, dtype=torch.float64)
    area = height * width * (scale[0] + (scale[1] - scale[0]) * uniform[0])
    low, high = math.log(ratio[0]), math.log(ratio[1])
    aspect = torch.exp(low + (high - low) * uniform[1])
    columns = (area * aspect).sqrt().round().long()
    rows = (area / aspect).sqrt().round().long()
    fits = (columns >= 1) & (columns <= width) & (rows >= 1) & (rows <= height)
    first = fits.long().argmax(dim=1, keepdim=True)
    top = (uniform[2] * (height - rows + 1)).long()
    left = (uniform[3] * (width - columns + 1)).long()
    chosen = [part.gather(1, first).squeeze(1) for part in (top, left, rows, columns)]
    fallback = _central_crop(height, width, ratio)
    found = fits.any(dim=1)
    top, left, rows, columns = (torch.where(found, c, torch.tensor(f)) for c, f in zip(chosen, fallback, strict=True))
    return top, left, rows, columns


def resampling_matrix(
    start: Tensor,
    length: Tensor,
    size: int,
    mirrored: Tensor,
    device: torch.device,
    interpolation: Interpolation = "bicubic",
) -> Tensor:
    """Weights that resample the pixels ``[start, start + length)`` of a line of ``size`` pixels to ``size`` pixels.

    Bicubic with a = -0.5 or linear, normalised over the pixels inside the crop: the filters of Pillow and of torchvision's
    ``resize(antialias=True)``. A crop is never larger than its result, so that no more than four pixels reach each result.

    Args:
        start: first pixel of the crop, int64 ``(B,)``.
        length: pixels of the crop, int64 ``(B,)``.
        size: pixels of the line, and of the result.
        mirrored: reverse the result, bool ``(B,)``.
        device: where to compute.
        interpolation: the filter.

    Returns:
        float32 ``(B, size, size)``: result by source.
    """
    start_, length_ = (part.to(device).view(-1, 1, 1) for part in (start, length))
    out = torch.arange(size, device=device).view(1, -1, 1)
    out = torch.where(mirrored.to(device).view(-1, 1, 1), size - 1 - out, out)
    center = start_ + (out + 0.5) * (length_.float() / size) - 0.5
    taps = center.floor().long() + torch.arange(-1, 3, device=device)  # (B, size, 4)
    distance = (center - taps).abs_()
    if interpolation == "bilinear":
        weights = (1 - distance).clamp_(min=0)
    else:
        near = (1.5 * distance - 2.5) * distance * distance + 1
        far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
        weights = torch.where(distance < 1, near, torch.where(distance < 2, far, 0.0))
    weights = weights * ((taps >= start_) & (taps < start_ + length_))
    weights = weights / weights.sum(dim=2, keepdim=True)
    dense = weights.new_zeros(len(start), size, size)
    return dense.scatter_add_(2, taps.clamp_(0, size - 1), weights)


def _central_crop(height: int, width: int, ratio: tuple[float, float]) -> tuple[int, int, int, int]:
    rows, columns = height, width
    if width / height < ratio[0]:
        rows = round(width / ratio[0])
    elif width / height > ratio[1]:
        columns = round(height * ratio[1])
    return (height - rows) // 2, (width - columns) // 2, rows, columns
