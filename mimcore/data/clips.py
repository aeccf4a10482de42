"""Frames of encoded clips: animated WebP, PNG and GIF by Pillow; MP4, WebM and the like by PyAV (``mimcore.data.videos``)."""

import io
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from mimcore.data.decode import U8, DecodeError, to_rgb
from mimcore.data.videos import explained, open_video

_ANIMATED = (b"RIFF", b"\x89PNG", b"GIF8")


class About(NamedTuple):
    """What a clip is: pixels of a frame, and how many frames it has."""

    width: int
    height: int
    frames: int


def about(data: bytes) -> About:
    """Look at an encoded clip, of which no more than the first frame is decoded.

    Raises:
        DecodeError: it is none.
        UserError: it takes PyAV, which is missing.
    """
    if _is_animation(data):
        with explained(), Image.open(io.BytesIO(data)) as image:
            return About(image.width, image.height, getattr(image, "n_frames", 1))
    with open_video(data) as video:
        height, width, _ = video.read([0])[0].shape
        return About(width, height, video.frames)


def read_frames(data: bytes, numbers: Sequence[int]) -> U8:
    """Decode frames of a clip: an animation from its start to the last that is wanted, a video as ``Video.read`` does.

    Args:
        data: the encoded clip.
        numbers: of the frames, from 0, rising; one may be named more than once.

    Returns:
        uint8 ``(T, 3, H, W)``.

    Raises:
        DecodeError: it is no clip, is cut short, or has fewer frames.
        UserError: it takes PyAV, which is missing.
    """
    if not _is_animation(data):
        with open_video(data) as video:
            return video.read(numbers).transpose(0, 3, 1, 2)
    wanted, found = set(numbers), dict[int, U8]()
    for number, picture in enumerate(_animation(data, wanted)):
        if picture is not None:
            found[number] = picture
        if len(found) == len(wanted):
            return np.stack([found[one] for one in numbers]).transpose(0, 3, 1, 2)
    raise DecodeError(f"frame {max(wanted)} is asked for, and the clip ends before it")


def animate(frames: Sequence[U8], milliseconds: int = 40) -> bytes:
    """Encode frames, uint8 ``(H, W, 3)`` each, as a lossless animated WebP; equal neighbours are to be avoided, as they merge."""
    first, *rest = [Image.fromarray(frame) for frame in frames]
    file = io.BytesIO()
    first.save(
        file, "WEBP", save_all=True, append_images=rest, duration=milliseconds, lossless=True, quality=0, method=0
    )
    return file.getvalue()


def _is_animation(data: bytes) -> bool:
    # AVI files are RIFF too.
    return data.startswith(_ANIMATED) and data[8:12] != b"AVI "


def _animation(data: bytes, wanted: set[int]) -> Iterator[U8 | None]:
    with explained(), Image.open(io.BytesIO(data)) as image:
        for number in range(getattr(image, "n_frames", 1)):
            image.seek(number)
            yield np.asarray(to_rgb(image), np.uint8) if number in wanted else None
