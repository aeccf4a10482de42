"""Encodes small videos by PyAV."""

import io
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest


def encode(
    frames: Sequence[np.ndarray],
    codec: str = "libx264",
    container: str = "mp4",
    options: Mapping[str, str] | None = None,
    times: Sequence[int] | None = None,
) -> bytes:
    """Encode frames, uint8 ``(H, W, 3)`` each.

    Args:
        frames: of the video, H and W even.
        codec: FFmpeg's name; the test is skipped where PyAV has no such encoder.
        container: FFmpeg's name of the format.
        options: of the encoder.
        times: when each frame is shown, in fiftieths of a second; every other one by default.
    """
    av = pytest.importorskip("av", reason="needs PyAV, the extra 'video'")
    if codec not in av.codecs_available:
        pytest.skip(f"this PyAV has no {codec}")
    file = io.BytesIO()
    with av.open(file, "w", format=container) as output:
        stream: Any = output.add_stream(codec, rate=25, options=dict(options or {}))
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = stream.time_base = Fraction(1, 50)
        stream.codec_context.thread_count = 1
        for number, frame in enumerate(frames):
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
            picture.pts = 2 * number if times is None else times[number]
            picture.time_base = Fraction(1, 50)
            output.mux(stream.encode(picture))
        output.mux(stream.encode())
    return file.getvalue()


def decoded(data: bytes) -> np.ndarray:
    """All frames one after the other, as PyAV gives them, uint8 ``(N, H, W, 3)``."""
    av = pytest.importorskip("av")
    with av.open(io.BytesIO(data)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def damaged(data: bytes, number: int) -> bytes:
    """A video with zeros in the place of a packet, counted in the order of decoding: a frame that no decoder can make up."""
    av = pytest.importorskip("av")
    with av.open(io.BytesIO(data)) as container:
        packet = [bytes(packet) for packet in container.demux(video=0)][number]
    start = data.index(packet)
    return data[:start] + bytes(len(packet)) + data[start + len(packet) :]


def noisy(count: int, height: int = 48, width: int = 64) -> list[np.ndarray]:
    """A texture that moves, so that no two frames are equal and each is predicted from others."""
    ground = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8) // 2
    return [np.roll(ground, (time, 2 * time), (0, 1)) + np.uint8(time % 100) for time in range(count)]


def square(going: int, start: int, count: int = 12, side: int = 32) -> list[np.ndarray]:
    """A bright square on grey that moves by two pixels a frame, to the right if ``going`` is 1 and to the left if -1."""
    frames = []
    for time in range(count):
        frame = np.full((side, side, 3), 64, np.uint8)
        columns = (start + 2 * going * time + np.arange(8)) % side
        frame[12:20, columns] = 240
        frames.append(frame)
    return frames


def write_classes(folder: Path, counts: Mapping[str, int]) -> None:
    """Write ``<split>/left/*.mp4`` and ``<split>/right/*.mp4``, so many videos of each class in each split."""
    for split, count in counts.items():
        random = np.random.default_rng([*split.encode()])
        for name, going in (("left", -1), ("right", 1)):
            (folder / split / name).mkdir(parents=True)
            for number in range(count):
                frames = square(going, int(random.integers(32)))
                (folder / split / name / f"{number:03d}.mp4").write_bytes(
                    encode(frames, options={"g": "6", "preset": "ultrafast"})
                )
