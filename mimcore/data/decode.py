"""Encoded bytes to uint8 pixels, by one rule for every kind of image.

* The orientation of EXIF is applied.
* Colours become RGB: grey is repeated, palettes are looked up, CMYK and the rest go through Pillow's conversion.
* Sixteen bits keep their high byte. Floating-point pixels have no range of their own and are refused.
* What is transparent is laid on white.
* Of an animation the first frame is taken.
* With one channel the RGB of this rule becomes luma (ITU-R BT.601), which a colour JPEG holds as it is.

``decode`` gives an image whole, or its largest centred part of a shape. ``mimcore.data.views`` gives crops by the same rule.
"""

import io

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

#: Twice Pillow's own limit (``Image.MAX_IMAGE_PIXELS``), where it refuses by itself; about 179 megapixels.
MAX_PIXELS = 178_956_970

U8 = npt.NDArray[np.uint8]

#: Height and width, pixels.
Shape = tuple[int, int]


class DecodeError(ValueError):
    """These bytes are no image that can be used; the message is the reason, in a few words."""


def shape_of(image_size: int | Shape) -> Shape:
    """Height and width of an image size, which is a pair or, for a square, one number."""
    return (image_size, image_size) if isinstance(image_size, int) else (image_size[0], image_size[1])


def decode(data: bytes, image_size: int | Shape | None = None, channels: int = 3) -> U8:
    """Decode one image.

    Args:
        data: the encoded bytes.
        image_size: height and width, pixels, or the side of a square: the largest centred part of that shape, resampled
            (bicubic with antialiasing, which at the edges takes in what lies beyond them) unless it has this size
            already. In pixels of the image, a square begins at ``((width - side) // 2, (height - side) // 2)``, where
            ``side = min(width, height)``.
            None keeps the image whole.
        channels: 3 for RGB, 1 for luma.

    Returns:
        uint8 ``(channels, height, width)``.

    Raises:
        DecodeError: the bytes are no image, cut short, too large or of a kind that is refused.
    """
    try:
        with Image.open(io.BytesIO(data)) as image:
            if image.width * image.height > MAX_PIXELS:
                raise DecodeError(f"decompression bomb: {image.width}x{image.height} pixels")
            if image_size is not None and image.format == "JPEG":
                # The JPEG decoder halves for free; twice the size is left for the antialiased resampling.
                longest = max(shape_of(image_size))
                image.draft(None, (2 * longest, 2 * longest))
            upright = ImageOps.exif_transpose(image)
            pixels = to_rgb(upright) if channels == 3 else to_rgb(upright).convert("L")
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DecodeError(f"decompression bomb: {error}") from error
    except DecodeError:
        raise
    except UnidentifiedImageError as error:
        raise DecodeError("not an image that Pillow knows") from error
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error, ...
        raise DecodeError(f"cannot be decoded: {error}") from error
    if image_size is not None:
        pixels = _centre(pixels, *shape_of(image_size))
    array = np.asarray(pixels, np.uint8)
    return np.array(array[None] if channels == 1 else array.transpose(2, 0, 1), order="C")


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


def _centre(image: Image.Image, height: int, width: int) -> Image.Image:
    """The largest centred part with the ratio of ``height`` to ``width``, resampled to these."""
    # Whole numbers throughout: a square takes min(width, height) of both.
    if image.width * height <= image.height * width:
        across, down = image.width, max(1, image.width * height // width)
    else:
        across, down = max(1, image.height * width // height), image.height
    left, top = (image.width - across) // 2, (image.height - down) // 2
    box = (left, top, left + across, top + down)
    if (down, across) == (height, width):
        return image.crop(box)
    return image.resize((width, height), Image.Resampling.BICUBIC, box=box)
