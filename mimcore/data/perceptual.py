"""A perceptual hash: 64 bits that resizing and re-encoding change little, so that few bits differ between copies.

The image in grey levels is resampled to 32 x 32 without regard to its aspect; of its discrete cosine transform (type
II) the 8 x 8 lowest frequencies are compared with their median, row by row, the first in the highest bit. Zauner (2010),
"Implementation and Benchmarking of Perceptual Image Hash Functions", section 3.2.1; written in hexadecimal it is the
``phash`` of the ImageHash library, as which COYO-700M ships it, but for bits whose frequency is next to the median.
"""

import io

import numpy as np
from PIL import Image, ImageOps

from mimcore.data.decode import to_rgb
from mimcore.data.header import BrokenImageError

#: Pixels of the grey thumbnail on each side, and frequencies that are kept on each side.
_SIDE, _KEPT = 32, 8
#: Rows of the transform in whole numbers, so that no processor rounds differently; sums stay below 2^63.
_COSINES = np.rint(
    4096 * np.cos(np.pi / _SIDE * np.outer(np.arange(_KEPT), np.arange(_SIDE) + 0.5)),
).astype(np.int64)


def perceptual_hash(data: bytes) -> int:
    """Hash an encoded image; all blank ones have the same hash, black aside.

    Args:
        data: an image that ``mimcore.data.header.inspect`` accepts.

    Returns:
        from 0 to 2^64 - 1.

    Raises:
        BrokenImageError: its pixels cannot be decoded.
    """
    try:
        with Image.open(io.BytesIO(data)) as image:
            if image.format == "JPEG":
                # The decoder scales by eighths and leaves the colours out; twice the side is left for resampling.
                image.draft("L", (2 * _SIDE, 2 * _SIDE))
            upright = ImageOps.exif_transpose(image)
            return hash_of(upright)
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error, ...
        raise BrokenImageError(f"cannot be decoded: {error}") from error


def hash_of(image: Image.Image) -> int:
    """Hash an image that is decoded and upright; as ``perceptual_hash``."""
    grey = image if image.mode == "L" else to_rgb(image).convert("L")
    small = grey.resize((_SIDE, _SIDE), Image.Resampling.LANCZOS)
    pixels = np.asarray(small, np.int64)  # (32, 32)
    frequencies = (_COSINES @ pixels @ _COSINES.T).ravel()  # (64,)
    middle = np.partition(frequencies, (31, 32))[31:33]
    # Twice the median is the sum of the two in the middle.
    return int.from_bytes(np.packbits(2 * frequencies > middle.sum()).tobytes(), "big")
