"""Encoded videos by PyAV (FFmpeg): what one is, and any of its frames, of which no more are decoded than these need.

The packets of a video are looked at without decoding them. They tell when each frame is shown, whatever order they are
stored in, at whatever rate, and where decoding may begin: a frame is decoded from the last keyframe shown before it.

PyAV is an optional extra (``pip install 'mimcore[video]'``): images need none of it.
"""

import io
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from operator import itemgetter
from typing import Any, NamedTuple

import numpy as np

from mimcore.data.decode import MAX_PIXELS, U8, DecodeError
from mimcore.errors import UserError

#: How the names of videos end, in lower case.
VIDEO_SUFFIXES = frozenset({"mp4", "mkv", "webm", "avi", "mov"})
#: The element of Matroska that holds all of a video, and how its length reads where it is not known.
_SEGMENT, _UNKNOWN = b"\x18\x53\x80\x67", (1 << 56) - 1


class _Packets(NamedTuple):
    """What is stored of the frames that can be shown.

    Attributes:
        stored: all packets, in the order of decoding.
        shown: when each frame is shown, in units of the stream, rising; None where the file does not tell.
        keys: when each keyframe is shown, rising, and the place of its packet.
    """

    stored: list[Any]
    shown: list[int] | None
    keys: list[tuple[int, int]]


class Video:
    """A video in memory; made by ``open_video``, and of use within its block."""

    def __init__(self, data: bytes, container: Any, stream: Any) -> None:
        """Look at every packet, and decode none.

        Raises:
            DecodeError: it has no frame, or is cut short.
        """
        self._data, self._stream = data, stream
        # Clips are decoded side by side already.
        stream.codec_context.thread_count = 1
        self._packets = _look(container, stream)
        if "mov" in container.format.name and stream.frames > len(self._packets.stored):
            raise DecodeError("truncated")
        if "matroska" in container.format.name and _cut_short(data):
            raise DecodeError("truncated")
        shown = self._packets.shown
        #: How many frames it has.
        self.frames = len(shown) if shown else sum(1 for _ in self._from_start())
        if not self.frames:
            raise DecodeError("no frame")

    @property
    def seconds(self) -> float | None:
        """How long it is shown; None where the file does not tell."""
        return self.frames / self.fps if self.fps else None

    @property
    def fps(self) -> float | None:
        """Frames a second, on average; None where the file does not tell."""
        shown, rate = self._packets.shown, self._stream.average_rate
        if shown and len(shown) > 1:
            return float((len(shown) - 1) / ((shown[-1] - shown[0]) * self._stream.time_base))
        return float(rate) if rate else None

    def read(self, numbers: Sequence[int]) -> U8:
        """Decode frames, upright.

        Args:
            numbers: of T frames from 0, in the order in which they are shown; one may be named more than once.

        Returns:
            uint8 ``(T, H, W, 3)``.

        Raises:
            DecodeError: it has fewer frames, or one of them cannot be decoded.
        """
        if max(numbers) >= self.frames:
            raise DecodeError(f"frame {max(numbers)} is asked for, and the clip ends before it")
        shown, wanted = self._packets.shown, set(numbers)
        found: dict[int, U8] = {}
        if shown is None:
            for number, frame in enumerate(self._from_start()):
                if number in wanted:
                    found[number] = _pixels(frame)
                if len(found) == len(wanted):
                    break
        else:
            # By the packet that decoding begins at.
            groups: dict[int, dict[int, int]] = defaultdict(dict)
            for number in sorted(wanted):
                _, start = self._packets.keys[bisect_right(self._packets.keys, shown[number], key=itemgetter(0)) - 1]
                groups[start][shown[number]] = number
            for start, group in groups.items():
                found |= self._decode(start, group)
        if missing := wanted - found.keys():
            raise DecodeError(f"frame {min(missing)} cannot be decoded")
        pictures = [found[number] for number in numbers]
        if len({picture.shape for picture in pictures}) > 1:
            raise DecodeError("its frames are of several sizes")
        return np.stack(pictures)

    def check(self) -> None:
        """Decode everything.

        Raises:
            DecodeError: the video is damaged somewhere.
        """
        if sum(1 for _ in self._from_start()) < self.frames:
            raise DecodeError("some of its frames cannot be decoded")

    def _decode(self, start: int, wanted: dict[int, int]) -> dict[int, U8]:
        """Decode from a packet on until all frames are there whose times are named: pixels by number."""
        context = self._stream.codec_context
        context.flush_buffers()
        found: dict[int, U8] = {}
        for packet in [*self._packets.stored[start:], None]:  # None asks for the frames that the decoder holds back.
            for frame in context.decode(packet):
                if frame.pts in wanted:
                    found[wanted[frame.pts]] = _pixels(frame)
            if len(found) == len(wanted):
                break
        return found

    def _from_start(self) -> Iterator[Any]:
        """All frames as a player shows them, one after the other."""
        with _opened(self._data) as (container, stream):
            yield from container.decode(stream)


@contextmanager
def open_video(data: bytes) -> Iterator[Video]:
    """Open an encoded video.

    Raises:
        DecodeError: it is none, or is cut short; or what happens within the block is an error of FFmpeg's.
        UserError: PyAV is missing.
    """
    with explained(), _opened(data) as (container, stream):
        yield Video(data, container, stream)


@contextmanager
def explained() -> Iterator[None]:
    """Turn the many errors of decoders inside the block into a ``DecodeError``."""
    try:
        yield
    except (DecodeError, UserError):
        raise
    except Exception as error:  # Pillow's and FFmpeg's are of many kinds
        raise DecodeError(f"cannot be decoded: {error}") from error


@contextmanager
def _opened(data: bytes) -> Iterator[tuple[Any, Any]]:
    try:
        import av
    except ImportError:
        raise UserError(
            "a clip is no animation, and PyAV, which decodes videos, is missing; pip install 'mimcore[video]'."
        ) from None
    with av.open(io.BytesIO(data), "r") as container:
        stream: Any = container.streams.best("video")
        if stream is None:
            raise DecodeError("no video stream")
        if stream.width * stream.height > MAX_PIXELS:
            raise DecodeError(f"decompression bomb: {stream.width}x{stream.height} pixels")
        yield container, stream


def _look(container: Any, stream: Any) -> _Packets:
    # The last packet is an empty one, and what an AVI repeats is empty too.
    stored = [packet for packet in container.demux(stream) if packet.size]
    if any(packet.is_corrupt for packet in stored):
        raise DecodeError("truncated")
    # What an edit list cuts away is decoded, but never shown.
    times = [packet.pts for packet in stored if not packet.is_discard]
    keys = [(packet.pts, place) for place, packet in enumerate(stored) if packet.is_keyframe]
    if not keys or None in times or any(time is None for time, _ in keys) or len(set(times)) < len(times):
        return _Packets(stored, None, [])
    keys.sort()
    # Frames before the first keyframe lean on what is not there.
    return _Packets(stored, sorted(time for time in times if time >= keys[0][0]), keys)


def _cut_short(matroska: bytes) -> bool:
    """Whether a Matroska or WebM file is shorter than it says."""
    start = matroska.find(_SEGMENT, 0, 4096) + len(_SEGMENT)
    if start < len(_SEGMENT) or start >= len(matroska):
        return False
    # A number of 1 to 8 bytes, whose leading zeros say how many; all ones if the length was not known.
    length = 9 - matroska[start].bit_length()
    value = int.from_bytes(matroska[start : start + length]) & ((1 << 7 * length) - 1)
    return value != _UNKNOWN >> 7 * (8 - length) and start + length + value > len(matroska)


def _pixels(frame: Any) -> U8:
    """Eight bits of red, green and blue, ``(H, W, 3)``, turned as the file asks for."""
    pixels: U8 = frame.to_ndarray(format="rgb24")
    # Degrees counterclockwise.
    return np.rot90(pixels, round(frame.rotation / 90))
