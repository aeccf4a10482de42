"""Encoded bytes to uint8 pixels, by one rule for every kind of image.

* The orientation of EXIF is applied.
* Colours become RGB: grey is repeated, palettes are looked up, CMYK and the rest go through Pillow's conversion.
* Sixteen bits keep their high byte. Floating-point pixels have no range of their own and are refused.
* What is transparent is laid on white.
* Of an animation the first frame is taken.
"""

import io

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

#: Twice Pillow's own limit (``Image.MAX_IMAGE_PIXELS``), where it refuses by itself; about 179 megapixels.
MAX_PIXELS = 178_956_970

U8 = npt.NDArray[np.uint8]


class DecodeError(ValueError):
    """These bytes are no image that can be used; the message is the reason, in a few words."""


def decode(data: bytes, image_size: int | None = None) -> U8:
    """Decode one image.

    Args:
        data: the encoded bytes.
        image_size: side of the square, pixels: the largest centred square, resampled (bicubic with antialiasing,
            which at the edges takes in what lies beyond them) unless it has this side already. In pixels of
            the image, the square begins at ``((width - side) // 2, (height - side) // 2)``, where
            ``side = min(width, height)``.
            None keeps the image whole.

    Returns:
        uint8 ``(3, height, width)``.

    Raises:
        DecodeError: the bytes are no image, cut short, too large or of a kind that is refused.
    """
    try:
        with Image.open(io.BytesIO(data)) as image:
            if image.width * image.height > MAX_PIXELS:
                raise DecodeError(f"decompression bomb: {image.width}x{image.height} pixels")
            if image_size is not None and image.format == "JPEG":
                # The JPEG decoder halves for free; twice the size is left for the antialiased resampling.
                image.draft(None, (2 * image_size, 2 * image_size))
            upright = ImageOps.exif_transpose(image)
            rgb = to_rgb(upright)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DecodeError(f"decompression bomb: {error}") from error
    except DecodeError:
        raise
    except UnidentifiedImageError as error:
        raise DecodeError("not an image that Pillow knows") from error
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error, ...
        raise DecodeError(f"cannot be decoded: {error}") from error
    if image_size is not None:
        rgb = _square(rgb, image_size)
    return np.ascontiguousarray(np.asarray(rgb, np.uint8).transpose(2, 0, 1))


def to_rgb(image: Image.Image) -> Image.Image:
    """Eight bits of red, green and blue, by the rules above."""
    if image.mode == "RGB":
        return image
    if image.mode == "F":
        raise DecodeError("floating-point pixels")
    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.int64).clip(0, 65535) >> 8
        return Image.fromarray(values.astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def _square(image: Image.Image, image_size: int) -> Image.Image:
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    box = (left, top, left + side, top + side)
    if side == image_size:
        return image.crop(box)
    return image.resize((image_size, image_size), Image.Resampling.BICUBIC, box=box)
