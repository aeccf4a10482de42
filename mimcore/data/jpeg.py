"""JPEG by libjpeg-turbo: decoded at a part of its size, and no further down than is needed."""

import io
from typing import NamedTuple

import numpy as np
import simplejpeg
from PIL import Image

from mimcore.data.decode import MAX_PIXELS, U8

#: What stands in a JPEG that may have to be turned: EXIF, or the XMP that Pillow reads in its place.
_TURNED = (b"Exif\x00\x00", b"tiff:Orientation")
#: What sets a stored picture upright, by EXIF orientation (tag 0x0112): flip down, flip across, transpose.
_UPRIGHT = {
    2: (False, True, False),
    3: (True, True, False),
    4: (True, False, False),
    5: (False, False, True),
    6: (True, False, True),
    7: (True, True, True),
    8: (False, True, True),
}
#: Rows that are decoded below the last one that is asked for: they take part in the upsampling of colour.
_MARGIN = 16


class _Frame(NamedTuple):
    """Where a baseline JPEG says how high it is (ITU-T T.81, B.2.2), and what it says."""

    place: int
    height: int


def decode_jpeg(data: bytes, divisor: int, channels: int, rows: int | None = None) -> U8 | None:
    """Decode a plain JPEG (YCbCr, RGB or grey, eight bits), upright, at ``1 / divisor`` of its size.

    Args:
        data: the encoded bytes.
        divisor: 1, 2, 4 or 8, for which libjpeg-turbo has vector code.
        channels: 3 for RGB, 1 for luma.
        rows: how many from the top are needed, in pixels of the whole image; None for all. Those below may be missing.

    Returns:
        uint8 ``(ceil(height / divisor), ceil(width / divisor), channels)`` or fewer rows; None if this is no such image, or
        a damaged or an enormous one.
    """
    turned = may_be_turned(data)
    frame = None if turned or rows is None else _baseline(data)
    whole = frame is None or rows is None or rows + _MARGIN >= frame.height
    coded: bytes | bytearray = data
    if frame is not None and rows is not None and not whole:
        # A lower height ends the decoding early: what is left of the scan is skipped, with a warning.
        coded = bytearray(data)
        coded[frame.place : frame.place + 2] = (rows + _MARGIN).to_bytes(2, "big")
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(coded)
        if height * width > MAX_PIXELS or colours not in ("YCbCr", "RGB", "Gray"):
            return None
        pixels: U8 = simplejpeg.decode_jpeg(
            coded,
            "RGB" if channels == 3 else "GRAY",
            min_height=-(-height // divisor),
            min_width=-(-width // divisor),
            strict=whole,
        )
    except ValueError:
        return None
    return _upright(pixels, data) if turned else pixels


def may_be_turned(data: bytes) -> bool:
    """Whether a JPEG holds what may ask for it to be turned."""
    return any(mark in data for mark in _TURNED)


def _baseline(data: bytes) -> _Frame | None:
    """The frame of a JPEG whose one scan follows it, row by row; None for any other."""
    place = 2
    frame = None
    while place + 10 <= len(data) and data[place] == 0xFF:
        marker = data[place + 1]
        if marker in (0xC0, 0xC1):
            frame, components = _Frame(place + 5, int.from_bytes(data[place + 5 : place + 7], "big")), data[place + 9]
        elif marker == 0xDA:
            whole = frame is not None and data[place + 4] == components and data.endswith(b"\xff\xd9")
            return frame if whole else None
        elif 0xC2 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            return None
        place += 2 + int.from_bytes(data[place + 2 : place + 4], "big")
    return None


def _upright(pixels: U8, data: bytes) -> U8:
    with Image.open(io.BytesIO(data)) as image:
        orientation = image.getexif().get(0x0112, 1)
    if orientation not in _UPRIGHT:
        return pixels
    down, across, transposed = _UPRIGHT[orientation]
    pixels = pixels[:: -1 if down else 1, :: -1 if across else 1]
    return np.ascontiguousarray(pixels.transpose(1, 0, 2) if transposed else pixels)
