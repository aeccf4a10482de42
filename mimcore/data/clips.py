"""Frames of encoded clips: animated WebP, PNG and GIF by Pillow; MP4, WebM and the like by PyAV, where that is installed.

PyAV is an optional extra (``pip install 'mimcore[video]'``): images need none of it.
"""

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from mimcore.data.decode import U8, DecodeError, to_rgb
from mimcore.errors import UserError

#: How the names of clips end, in lower case: the animations of Pillow, then what PyAV is asked for.
ANIMATIONS = frozenset({"webp", "gif", "apng"})
VIDEOS = frozenset({"mp4", "webm", "mkv", "avi", "mov"})

_ANIMATED = (b"RIFF", b"\x89PNG", b"GIF8")


class About(NamedTuple):
    """What a clip is: pixels of a frame, and how many frames it has."""

    width: int
    height: int
    frames: int


def about(data: bytes) -> About:
    """Look at an encoded clip.

    Raises:
        DecodeError: it is none.
        UserError: it takes PyAV, which is missing.
    """
    if _is_animation(data):
        with _explained(), Image.open(io.BytesIO(data)) as image:
            return About(image.width, image.height, getattr(image, "n_frames", 1))
    frames = 0
    width = height = 0
    for frame in _video(data):
        width, height, frames = frame.width, frame.height, frames + 1
    return About(width, height, frames)


def read_frames(data: bytes, numbers: Sequence[int]) -> U8:
    """Decode frames of a clip; a clip is read from its start to the last frame that is wanted.

    Args:
        data: the encoded clip.
        numbers: of the frames, from 0, rising; one may be named more than once.

    Returns:
        uint8 ``(T, 3, H, W)``.

    Raises:
        DecodeError: it is no clip, is cut short, or has fewer frames.
        UserError: it takes PyAV, which is missing.
    """
    wanted, found = set(numbers), dict[int, U8]()
    pictures = (
        _animation(data, wanted)
        if _is_animation(data)
        else (
            frame.to_ndarray(format="rgb24") if number in wanted else None for number, frame in enumerate(_video(data))
        )
    )
    for number, picture in enumerate(pictures):
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
    with _explained(), Image.open(io.BytesIO(data)) as image:
        for number in range(getattr(image, "n_frames", 1)):
            image.seek(number)
            yield np.asarray(to_rgb(image), np.uint8) if number in wanted else None


def _video(data: bytes) -> Iterator[Any]:
    """The frames of the first video stream, as PyAV's."""
    try:
        import av
    except ImportError:
        raise UserError(
            "a clip is no animation, and PyAV, which decodes videos, is missing; pip install 'mimcore[video]'."
        ) from None
    with _explained(), av.open(io.BytesIO(data), "r") as container:
        if not container.streams.video:
            raise DecodeError("no video stream")
        yield from container.decode(container.streams.video[0])


@contextmanager
def _explained() -> Iterator[None]:
    """Turn the many errors of decoders inside the block into a ``DecodeError``."""
    try:
        yield
    except (DecodeError, UserError):
        raise
    except Exception as error:  # Pillow's and FFmpeg's are of many kinds
        raise DecodeError(f"cannot be decoded: {error}") from error
