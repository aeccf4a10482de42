"""What an image is, from its header and its end alone: its size, or why it cannot be used."""

import io
import warnings
from typing import NamedTuple

from PIL import Image, UnidentifiedImageError

from mimcore.data.decode import MAX_PIXELS

#: An image with a shorter side carries nothing to learn from: tracking pixels and spacers.
MIN_SIDE = 8


class Header(NamedTuple):
    """Size in pixels after EXIF orientation."""

    width: int
    height: int


class BrokenImageError(ValueError):
    """The image cannot be used; the message is the reason that the card shows."""


def inspect(data: bytes) -> Header:
    """Read the size of an encoded image, and check that it is whole.

    JPEG and WebP are checked by their end, PNG by its checksums, which takes microseconds; other kinds are decoded.

    Raises:
        BrokenImageError: it cannot be used.
    """
    if not data:
        raise BrokenImageError("empty file")
    try:
        # What Pillow only warns of (odd metadata, mostly) makes no image unusable.
        with warnings.catch_warnings(action="ignore"), Image.open(io.BytesIO(data)) as image:
            width, height = image.size
            check_size(width, height)
            if image.mode == "F":
                raise BrokenImageError("floating-point pixels")
            if image.format == "TIFF":
                # Pillow turns these by itself, and then forgets the orientation.
                image.load()
            if _may_be_turned(image, data) and image.getexif().get(0x0112, 1) >= 5:
                width, height = height, width
            if not _is_whole(image, data):
                raise BrokenImageError("truncated")
    except BrokenImageError:
        raise
    except Image.DecompressionBombError as error:
        raise BrokenImageError("decompression bomb") from error
    except UnidentifiedImageError as error:
        raise BrokenImageError("not an image") from error
    except Exception as error:  # Pillow's readers raise OSError, SyntaxError, ValueError, struct.error, ...
        raise BrokenImageError(f"broken: {error}") from error
    return Header(width, height)


def check_size(width: int, height: int) -> None:
    """Refuse a size, in pixels, that no image of use has.

    Raises:
        BrokenImageError: it is too large or too small.
    """
    if width * height > MAX_PIXELS:
        raise BrokenImageError(f"decompression bomb: {width}x{height} pixels")
    if min(width, height) < MIN_SIDE:
        raise BrokenImageError(f"{width}x{height} pixels, and {MIN_SIDE} are needed on each side")


def _is_whole(image: Image.Image, data: bytes) -> bool:
    if image.format in ("JPEG", "MPO") and (start := _scan_start(data)):
        # Thumbnails in the header have an end marker of their own, so look behind the start of the scan.
        return data.find(b"\xff\xd9", start) >= 0
    if image.format == "PNG" and not _may_be_turned(image, data):
        image.verify()
        return b"IEND\xaeB`\x82" in data
    if image.format == "WEBP":
        return len(data) >= 8 + int.from_bytes(data[4:8], "little")
    image.load()
    return image.format != "PNG" or b"IEND\xaeB`\x82" in data


def _scan_start(data: bytes) -> int | None:
    """Where the compressed data of a JPEG begins: behind the segments, each with its length; None if there is none."""
    place = 2
    while place + 4 <= len(data) and data[place] == 0xFF:
        if data[place + 1] == 0xDA:
            return place
        if data[place + 1] == 0xFF:
            place += 1
            continue
        place += 2 + int.from_bytes(data[place + 2 : place + 4], "big")
    return None


def _may_be_turned(image: Image.Image, data: bytes) -> bool:
    """Pillow decodes a whole PNG to look for EXIF behind its pixels; most have none."""
    return image.format != "PNG" or any(mark in data for mark in (b"eXIf", b"exif", b"adobe.xmp"))
