"""Frames of the videos of a pool, as images of their own."""

import io
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
from PIL import Image

from mimcore.data.loader import Images
from mimcore.data.videos import open_video

#: What a row says of a video and not of a frame.
_OF_VIDEOS = {"frames", "seconds", "fps", "phash"}


def frame_rows(rows: pa.Table, count: int) -> tuple[pa.Table, list[list[int]]]:
    """A row for each frame that is taken: of ``count`` equal parts of a video the middle of each, or all if it has fewer.

    Args:
        rows: of videos, N.
        count: frames of each at most.

    Returns:
        the rows, their keys ``KEY/00000`` with the number of the frame, and the numbers of the frames of each of N videos.
    """
    chosen = []
    for frames in rows["frames"].to_pylist():
        parts = min(count, frames)
        chosen.append([(2 * part + 1) * frames // (2 * parts) for part in range(parts)])
    found = rows.drop_columns([name for name in rows.column_names if name in _OF_VIDEOS])
    found = found.take(pa.array(np.repeat(np.arange(len(rows)), [len(numbers) for numbers in chosen])))
    keys, lengths = [], []
    for key, length, numbers in zip(rows["key"].to_pylist(), rows["length"].to_pylist(), chosen, strict=True):
        keys += [f"{key}/{number:05d}" for number in numbers]
        lengths += [length // len(numbers)] * len(numbers)
    for name, values in (("key", pa.array(keys, pa.string())), ("length", pa.array(lengths, pa.int64()))):
        found = found.set_column(found.column_names.index(name), name, values)
    return found, chosen


def encoded_frames(videos: Images, chosen: list[list[int]]) -> Iterator[tuple[int, bytes]]:
    """Yield the place of each row of ``frame_rows`` with its frame, encoded without loss.

    Raises:
        UserError: a video is missing, has changed, or is damaged at one of these frames.
    """
    place = 0
    for position, data in videos.encoded(np.arange(len(videos))):
        with videos.explained(position), open_video(data) as video:
            frames = video.read(chosen[position])
        for frame in frames:
            file = io.BytesIO()
            # No kind that a packed pool would keep as it is.
            Image.fromarray(frame).save(file, "PPM")
            yield place, file.getvalue()
            place += 1
