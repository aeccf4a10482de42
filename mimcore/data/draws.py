"""Random crops as a pure function of (seed, sample): no generator, no state, no order."""

import math

import numpy as np
import numpy.typing as npt

from mimcore.data.hashing import mix, seed64

#: How often a crop is drawn before the centre is taken (torchvision's ``RandomResizedCrop.get_params``).
TRIES = 10

I64 = npt.NDArray[np.int64]
F64 = npt.NDArray[np.float64]


def uniform(seed: int | str, samples: I64, count: int) -> F64:
    """``count`` numbers for each of n samples, uniform in [0, 1); float64 ``(n, count)``."""
    keys = mix(mix(samples.astype(np.uint64)) ^ np.uint64(seed64(seed)))
    bits = mix(keys[:, None] ^ mix(np.arange(count, dtype=np.uint64)))
    numbers: F64 = (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return numbers


def draw_boxes(
    seed: int | str,
    samples: I64,
    heights: I64,
    widths: I64,
    scale: tuple[float, float],
    ratio: tuple[float, float],
) -> I64:
    """Draw a crop for each sample, distributed as torchvision's ``RandomResizedCrop`` (Szegedy et al. 2015, section 6).

    Args:
        seed: any two give independent crops.
        samples: numbers of n samples.
        heights: of their images, pixels, ``(n,)``.
        widths: likewise.
        scale: least and greatest area of the crop, part of the image.
        ratio: least and greatest width over height.

    Returns:
        Top, left, height and width in pixels, int64 ``(n, 4)``.
    """
    numbers = uniform(seed, samples, 4 * TRIES).reshape(len(samples), 4, TRIES)
    tall, wide = heights[:, None], widths[:, None]
    area = tall * wide * (scale[0] + (scale[1] - scale[0]) * numbers[:, 0])
    low, high = math.log(ratio[0]), math.log(ratio[1])
    aspect = np.exp(low + (high - low) * numbers[:, 1])
    columns = np.rint(np.sqrt(area * aspect)).astype(np.int64)
    rows = np.rint(np.sqrt(area / aspect)).astype(np.int64)
    fits = (columns >= 1) & (columns <= wide) & (rows >= 1) & (rows <= tall)
    top = (numbers[:, 2] * (tall - rows + 1)).astype(np.int64)
    left = (numbers[:, 3] * (wide - columns + 1)).astype(np.int64)
    tried = np.stack([top, left, rows, columns], axis=2)
    first = np.take_along_axis(tried, np.argmax(fits, axis=1)[:, None, None], axis=1)[:, 0]
    return np.where(np.any(fits, axis=1, keepdims=True), first, _central(heights, widths, ratio))


def _central(heights: I64, widths: I64, ratio: tuple[float, float]) -> I64:
    """What torchvision falls back on: the largest central crop, narrowed to the nearest ratio that is allowed."""
    shape = widths / heights
    rows = np.where(shape < ratio[0], np.rint(widths / ratio[0]), heights).astype(np.int64)
    columns = np.where(shape > ratio[1], np.rint(heights * ratio[1]), widths).astype(np.int64)
    return np.stack([(heights - rows) // 2, (widths - columns) // 2, rows, columns], axis=1)
