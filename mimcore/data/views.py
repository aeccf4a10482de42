"""Random views of images: each crop is decoded at the scale it needs and resampled once, to uint8.

A JPEG is decoded at 1, 1/2, 1/4 or 1/8 of its size, the smallest that leaves every crop of it at least the output's
height and width: the inverse DCT does the halving (libjpeg-turbo, whose other scales have no vector code). All other
kinds of image, and JPEGs of other colours than YCbCr, RGB and grey, go through ``mimcore.data.decode`` at full size; the
rule for what becomes of an image is the one that is written there.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch.nn import functional

from mimcore.data.crops import Interpolation
from mimcore.data.decode import U8, Shape, decode
from mimcore.data.draws import I64, draw_boxes
from mimcore.data.jpeg import decode_jpeg
from mimcore.data.loader import Encoded


@dataclass(frozen=True)
class RandomCrops:
    """Random resized crops taken from whole images, as MAE's (He et al. 2022, table 8) and torchvision's are.

    Attributes:
        seed: of the crops.
        scale: least and greatest area of a crop, part of the image.
        ratio: least and greatest width over height of a crop.
        interpolation: the filter that crops are resampled with.
    """

    seed: int | str
    scale: tuple[float, float]
    ratio: tuple[float, float]
    interpolation: Interpolation = "bicubic"

    def get(self, images: Encoded, positions: I64, samples: I64, repeats: int = 1) -> U8:
        """Decode the crops of n samples.

        Args:
            images: the table.
            positions: image of each sample, ``(n,)``.
            samples: number of each sample, ``(n,)``; those of one image stand together.
            repeats: samples ``k * repeats .. (k + 1) * repeats - 1`` show the same image, which is decoded once.

        Returns:
            uint8 ``(n, C, H, W)``, channels last in memory.

        Raises:
            UserError: as in ``Images.get``.
        """
        height, width = images.shape
        pixels = np.empty((len(samples), height, width, images.channels), np.uint8)
        plan = self.plan(images, positions, samples, repeats)
        lowest = plan.lowest.tolist()
        for k, (position, data) in enumerate(images.encoded(positions[plan.starts])):
            places, shown = plan.shown(k)
            with images.explained(position):
                crops = crops_of(
                    data,
                    shown.tolist(),
                    int(plan.shrinks[k]),
                    images.channels,
                    images.shape,
                    lowest[k],
                    self.interpolation,
                )
            for place, crop in zip(places, crops, strict=True):
                pixels[place] = crop
        return pixels.transpose(0, 3, 1, 2)

    def plan(self, images: Encoded, positions: I64, samples: I64, repeats: int) -> "Plan":
        """Draw the boxes of n samples; arguments as in ``get``."""
        starts = np.flatnonzero(np.r_[True, samples[1:] // repeats != samples[:-1] // repeats])
        tall, wide = images.sizes(positions[starts])
        # All repeats of an image decide on its scale, so that it is the same wherever a batch is cut in two.
        family = (samples[starts] // repeats)[:, None] * repeats + np.arange(repeats)
        boxes = draw_boxes(
            self.seed, family.ravel(), np.repeat(tall, repeats), np.repeat(wide, repeats), self.scale, self.ratio
        ).reshape(-1, repeats, 4)
        ends = np.r_[starts[1:], len(samples)]
        return Plan(starts, ends, samples[starts] % repeats, boxes, shrink(boxes, images.shape))


class Plan(NamedTuple):
    """What is shown of n different images, each by R crops at most.

    Attributes:
        starts: the first sample of each image, ``(n,)``.
        ends: the sample after its last, ``(n,)``.
        first: which of its R crops the first sample shows, ``(n,)``.
        boxes: top, left, height and width of all crops, pixels of the whole image, ``(n, R, 4)``.
        shrinks: by how much each image may be shrunk, ``(n,)``.
    """

    starts: I64
    ends: I64
    first: I64
    boxes: I64
    shrinks: I64

    @property
    def lowest(self) -> I64:
        """The row below the lowest crop of each image, ``(n,)``."""
        found: I64 = (self.boxes[..., 0] + self.boxes[..., 2]).max(axis=1)
        return found

    def shown(self, k: int) -> tuple[range, I64]:
        """The samples of image k, and their m boxes, ``(m, 4)``."""
        places, first = range(self.starts[k], self.ends[k]), self.first[k]
        return places, self.boxes[k, first : first + len(places)]


def crops_of(
    data: bytes,
    boxes: Sequence[Sequence[int]],
    divisor: int,
    channels: int,
    shape: Shape,
    rows: int | None = None,
    interpolation: Interpolation = "bicubic",
) -> list[U8]:
    """Decode an image once and resample crops of it: uint8 ``(*shape, channels)`` each.

    Args:
        data: the encoded bytes.
        boxes: top, left, height and width of each crop, pixels of the whole image.
        divisor: as ``rows``, of ``decode_scaled``.
        channels: 3 for RGB, 1 for luma.
        shape: height and width of the results.
        rows: how many from the top are needed.
        interpolation: the filter.

    Raises:
        DecodeError: as in ``decode``.
    """
    whole, divisor = decode_scaled(data, divisor, channels, rows)
    return [resample(cut(whole, box, divisor), shape, interpolation) for box in boxes]


def shrink(boxes: I64, shape: Shape) -> I64:
    """By how much each of n images may be shrunk before its R crops are cut out: 1, 2, 4 or 8; int64 ``(n,)``.

    Args:
        boxes: top, left, height and width, ``(n, R, 4)``.
        shape: height and width that each crop is resampled to.
    """
    room = np.minimum(boxes[..., 2] // shape[0], boxes[..., 3] // shape[1]).min(axis=1)
    return np.select([room >= 8, room >= 4, room >= 2], [8, 4, 2], 1).astype(np.int64)


def decode_scaled(data: bytes, divisor: int, channels: int, rows: int | None = None) -> tuple[U8, int]:
    """Decode an image, at ``1 / divisor`` of its size where it is a plain JPEG.

    Args:
        data: the encoded bytes.
        divisor: 1, 2, 4 or 8.
        channels: 3 for RGB, 1 for luma.
        rows: how many from the top are needed, in pixels of the whole image; those below may be missing.

    Returns:
        uint8 ``(ceil(height / d), ceil(width / d), channels)``, upright, and ``d``: the divisor, or 1.

    Raises:
        DecodeError: as in ``decode``.
    """
    if data[:2] == b"\xff\xd8":
        pixels = decode_jpeg(data, divisor, channels, rows)
        if pixels is not None:
            return pixels, divisor
    return np.ascontiguousarray(decode(data, channels=channels).transpose(1, 2, 0)), 1


def cut(pixels: U8, box: Sequence[int], divisor: int) -> U8:
    """The part of a shrunken image that a box of the whole one covers, to the nearest pixel; a view."""
    top, left, height, width = box
    first, last = (_nearest(place, divisor) for place in (top, top + height))
    begin, end = (_nearest(place, divisor) for place in (left, left + width))
    return pixels[first : max(last, first + 1), begin : max(end, begin + 1)]


def resample(pixels: U8, shape: Shape, interpolation: Interpolation = "bicubic") -> U8:
    """Resample ``(h, w, C)`` to ``(*shape, C)`` with antialiasing: the filters of Pillow and torchvision."""
    if pixels.shape[:2] == shape:
        return pixels
    # In this order torch sees that the channels are last, for which it has vector code; a view of three dimensions hides it.
    tensor = torch.from_numpy(pixels).unsqueeze(0).permute(0, 3, 1, 2)
    found = functional.interpolate(tensor, shape, mode=interpolation, antialias=True)
    resampled: U8 = found[0].permute(1, 2, 0).numpy()
    return resampled


def _nearest(place: int, divisor: int) -> int:
    return (2 * place + divisor) // (2 * divisor)
