"""Clips: their frames are what was encoded, and what cannot be decoded is said."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from mimcore.data.clips import about, animate, read_frames
from mimcore.data.decode import DecodeError
from mimcore.data.formats._motion import DIRECTIONS, MotionRenderer
from mimcore.data.loader import Images


def test_animations_keep_every_frame_bit_for_bit() -> None:
    frames = list(np.random.default_rng(0).integers(0, 256, (5, 12, 20, 3), np.uint8))
    data = animate(frames)
    assert about(data) == (20, 12, 5)
    found = read_frames(data, [0, 2, 2, 4])
    assert np.array_equal(found, np.stack([frames[0], frames[2], frames[2], frames[4]]).transpose(0, 3, 1, 2))
    with pytest.raises(DecodeError, match="frame 5 is asked for, and the clip ends before it"):
        read_frames(data, [5])
    with pytest.raises(DecodeError):
        about(data[:40])


def test_videos_are_read_by_pyav() -> None:
    av = pytest.importorskip("av", reason="needs PyAV, the extra 'video'")
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(8):
            picture = np.full((48, 64, 3), 30 * number, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    data = file.getvalue()
    assert about(data) == (64, 48, 8)
    found = read_frames(data, [1, 6])
    assert found.shape == (2, 3, 48, 64)
    assert np.abs(found.mean((1, 2, 3)) - [30, 180]).max() < 8
    with pytest.raises(DecodeError, match="cannot be decoded"):
        about(b"no clip at all")


def test_a_digit_moves_in_the_direction_that_is_told() -> None:
    """What is bright, as a phase of the lowest wave of each axis: it turns with the direction, across the edges too."""
    renderer = MotionRenderer(32, 0, "train", 6)
    seen = set()
    for number in range(60):
        data, truth = renderer.scene(number)
        frames = read_frames(data, range(6)).max(1).astype(float)
        wave = np.exp(2j * np.pi * np.arange(32) / 32)
        bright = frames - frames.min(0)
        turns = [np.angle((line[1:] @ wave) / (line[:-1] @ wave)).mean() for line in (bright.sum(1), bright.sum(2))]
        told = list(DIRECTIONS.values())[truth["label"]]
        seen.add(truth["label"])
        assert [int(np.sign(round(turn / 0.1))) for turn in turns] == list(told), (number, turns)
        assert truth["caption"].endswith(list(DIRECTIONS)[truth["label"]])
    assert len(seen) == 8


def test_the_pool_of_moving_digits(tmp_path: Path, indexed: Any) -> None:
    options = {"format": "moving_digits", "images": 12, "val_images": 4, "images_per_shard": 5, "frames": 4}
    card = indexed(tmp_path, "m", options)
    assert (card["train"], card["val"], card["classes"]) == (8, 4, list(DIRECTIONS))
    rows = pq.read_table(tmp_path / "artifacts/index/m/index.parquet")
    assert rows["frames"].to_pylist() == [4] * 12
    images = Images(options, rows, 32, tmp_path)
    ((_, data),) = images.encoded(np.array([3]))
    assert np.array_equal(images.raw(3), read_frames(data, [0])[0])
