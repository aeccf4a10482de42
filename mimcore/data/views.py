"""Random views of images: each crop is decoded at the scale it needs and resampled once, to uint8.

A JPEG is decoded at 1, 1/2, 1/4 or 1/8 of its size, the smallest that leaves every crop of it at least the output's
height and width: the inverse DCT does the halving (libjpeg-turbo, whose other scales have no vector code). All other
kinds of image, and JPEGs of other colours than YCbCr, RGB and grey, go through ``mimcore.data.decode`` at full size; the
rule for what becomes of an image is the one that is written there.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import simplejpeg
import torch
from PIL import Image
from torch.nn import functional

from mimcore.data.decode import MAX_PIXELS, U8, DecodeError, Shape, decode
from mimcore.data.draws import I64, draw_boxes
from mimcore.data.loader import Encoded

#: What stands in a JPEG that may have to be turned: EXIF, or the XMP that Pillow reads in its place.
_TURNED = (b"Exif\x00\x00", b"tiff:Orientation")
#: Views of a stored picture that set it upright, by EXIF orientation (tag 0x0112): flip down, flip across, transpose.
_UPRIGHT = {
    2: (False, True, False),
    3: (True, True, False),
    4: (True, False, False),
    5: (False, False, True),
    6: (True, False, True),
    7: (True, True, True),
    8: (False, True, True),
}


@dataclass(frozen=True)
class RandomCrops:
    """Random resized crops taken from whole images, as MAE's (He et al. 2022, table 8) and torchvision's are.

    Attributes:
        seed: of the crops.
        scale: least and greatest area of a crop, part of the image.
        ratio: least and greatest width over height of a crop.
    """

    seed: int | str
    scale: tuple[float, float]
    ratio: tuple[float, float]

    def get(self, images: Encoded, positions: I64, samples: I64, repeats: int = 1) -> U8:
        """Decode the crops of n samples.

        Args:
            images: the table.
            positions: image of each sample, ``(n,)``.
            samples: number of each sample, ``(n,)``; those of one image stand together.
            repeats: samples ``k * repeats .. (k + 1) * repeats - 1`` show the same image, which is decoded once.

        Returns:
            uint8 ``(n, C, H, W)``.

        Raises:
            UserError: as in ``Images.get``.
        """
        height, width = images.shape
        pixels = np.empty((len(samples), images.channels, height, width), np.uint8)
        starts = np.flatnonzero(np.r_[True, samples[1:] // repeats != samples[:-1] // repeats])
        ends = np.r_[starts[1:], len(samples)]
        tall, wide = images.sizes(positions[starts])
        # All repeats of an image decide on its scale, so that it is the same wherever a batch is cut in two.
        family = (samples[starts] // repeats)[:, None] * repeats + np.arange(repeats)
        boxes = draw_boxes(
            self.seed, family.ravel(), np.repeat(tall, repeats), np.repeat(wide, repeats), self.scale, self.ratio
        ).reshape(-1, repeats, 4)
        shrinks = shrink(boxes, (height, width))
        for k, (position, data) in enumerate(images.encoded(positions[starts])):
            with images.explained(position):
                whole, divisor = decode_scaled(data, int(shrinks[k]), images.channels)
            shown = boxes[k, int(samples[starts[k]]) % repeats :].tolist()
            for place, box in zip(range(starts[k], ends[k]), shown, strict=False):
                pixels[place] = resample(cut(whole, box, divisor), (height, width))
        return pixels


def shrink(boxes: I64, shape: Shape) -> I64:
    """By how much each of n images may be shrunk before its R crops are cut out: 1, 2, 4 or 8; int64 ``(n,)``.

    Args:
        boxes: top, left, height and width, ``(n, R, 4)``.
        shape: height and width that each crop is resampled to.
    """
    room = np.minimum(boxes[..., 2] // shape[0], boxes[..., 3] // shape[1]).min(axis=1)
    return np.select([room >= 8, room >= 4, room >= 2], [8, 4, 2], 1).astype(np.int64)


def decode_scaled(data: bytes, divisor: int, channels: int) -> tuple[U8, int]:
    """Decode an image, at ``1 / divisor`` of its size where it is a plain JPEG.

    Returns:
        uint8 ``(ceil(height / d), ceil(width / d), channels)``, upright, and ``d``: the divisor, or 1.

    Raises:
        DecodeError: as in ``decode``.
    """
    if data[:2] == b"\xff\xd8":
        try:
            height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
            if height * width > MAX_PIXELS:
                raise DecodeError(f"decompression bomb: {width}x{height} pixels")
            if colours in ("YCbCr", "RGB", "Gray"):
                pixels = simplejpeg.decode_jpeg(
                    data,
                    "RGB" if channels == 3 else "GRAY",
                    min_height=-(-height // divisor),
                    min_width=-(-width // divisor),
                )
                return _upright(pixels, data), divisor
        except DecodeError:
            raise
        except ValueError:
            pass  # Pillow decides, which forgives what can be shown.
    return np.ascontiguousarray(decode(data, channels=channels).transpose(1, 2, 0)), 1


def _upright(pixels: U8, data: bytes) -> U8:
    if not any(mark in data for mark in _TURNED):
        return pixels
    with Image.open(io.BytesIO(data)) as image:
        orientation = image.getexif().get(0x0112, 1)
    if orientation not in _UPRIGHT:
        return pixels
    down, across, transposed = _UPRIGHT[orientation]
    pixels = pixels[:: -1 if down else 1, :: -1 if across else 1]
    return pixels.transpose(1, 0, 2) if transposed else pixels


def cut(pixels: U8, box: Sequence[int], divisor: int) -> U8:
    """The part of a shrunken image that a box of the whole one covers, to the nearest pixel; a view."""
    top, left, height, width = box
    first, last = (_nearest(place, divisor) for place in (top, top + height))
    begin, end = (_nearest(place, divisor) for place in (left, left + width))
    return pixels[first : max(last, first + 1), begin : max(end, begin + 1)]


def resample(pixels: U8, shape: Shape) -> U8:
    """Resample ``(h, w, C)`` to ``(C, *shape)``: bicubic with antialiasing, the filter of Pillow and torchvision."""
    if pixels.shape[:2] == shape:
        return pixels.transpose(2, 0, 1)
    if min(pixels.strides) < 0:  # turned, which torch does not know
        pixels = np.ascontiguousarray(pixels)
    tensor = torch.from_numpy(pixels).permute(2, 0, 1).unsqueeze(0)
    resampled: U8 = functional.interpolate(tensor, shape, mode="bicubic", antialias=True)[0].numpy()
    return resampled


def _nearest(place: int, divisor: int) -> int:
    return (2 * place + divisor) // (2 * divisor)
