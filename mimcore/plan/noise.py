"""Noise in the shape of what stages read: images, examples of tasks, and features."""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from mimcore.evaluation.features import Pixels, batch_features
from mimcore.evaluation.frozen import Frozen, Split
from mimcore.models import encoder as encoders

#: Frames of a clip of noise.
_FRAMES = 16
CLASSES = [str(number) for number in range(10)]


class Table:
    """Images in memory, as a task wants them."""

    def __init__(self, images: np.ndarray, columns: Mapping[str, Any]) -> None:
        self.images = images
        side = {"width": [images.shape[3]] * len(images), "height": [images.shape[2]] * len(images)}
        self.rows = pa.table({"key": [str(i) for i in range(len(images))], **side, **columns})

    def __len__(self) -> int:
        return len(self.images)

    def get(self, positions: np.ndarray) -> np.ndarray:
        """uint8 ``(N, C, H, W)``."""
        return np.asarray(self.images[positions])

    def raw(self, position: int) -> np.ndarray:
        """uint8 ``(C, H, W)``."""
        return np.asarray(self.images[position])


class _Clips(Table):
    """One short clip, as often as it is asked for."""

    def __init__(self, image: np.ndarray, columns: Mapping[str, Any]) -> None:
        from mimcore.data.clips import animate

        frame = image.transpose(1, 2, 0)
        self.data = animate([np.roll(frame, number, axis=0) for number in range(_FRAMES)])
        super().__init__(np.broadcast_to(image, (len(columns["frames"]), *image.shape)), columns)

    def encoded(self, positions: np.ndarray) -> Iterator[tuple[int, bytes]]:
        for position in positions.tolist():
            yield position, self.data

    def explained(self, position: int) -> AbstractContextManager[None]:
        return nullcontext()


def images(count: int, image_size: int | tuple[int, int], channels: int) -> np.ndarray:
    """uint8 ``(count, channels, height, width)``."""
    height, width = encoders.sides(image_size)
    return np.random.default_rng(0).integers(0, 256, (count, channels, height, width), np.uint8)


def examples(count: int, encoder: encoders.Encoder, needs: str) -> Any:
    """Noise with labels, or with two boxes to an image and, where they are needed, their masks."""
    pixels = images(count, encoder.image_size, encoder.channels)
    height, width = pixels.shape[2:]
    random = np.random.default_rng(1)
    if needs == "clips":
        labels = pa.array(random.integers(0, len(CLASSES), count), pa.int64())
        return _Clips(pixels[0], {"label": labels, "frames": [_FRAMES] * count})
    if needs == "labels":
        return Table(pixels, {"label": pa.array(random.integers(0, len(CLASSES), count), pa.int64())})
    corners = random.uniform(0, 0.5, (count, 2, 2))
    boxes = np.concatenate([corners, corners + 0.4], axis=2) * [width, height, width, height]
    areas = (0.4 * width) * (0.4 * height)
    columns = {
        "boxes": pa.array(boxes.tolist(), pa.list_(pa.list_(pa.float32()))),
        "box_labels": pa.array(random.integers(0, len(CLASSES), (count, 2)).tolist(), pa.list_(pa.int32())),
        "box_areas": pa.array([[areas] * 2] * count, pa.list_(pa.float32())),
        "box_crowd": pa.array([[False] * 2] * count, pa.list_(pa.bool_())),
    }
    if needs == "masks":
        columns["masks"] = [_rectangles(two, height, width) for two in boxes]
    return Table(pixels, columns)


def _rectangles(boxes: np.ndarray, height: int, width: int) -> list[str]:
    from mimcore.evaluation.dense.masks import encode_masks

    masks = np.zeros((len(boxes), height, width), np.uint8)
    for mask, (x0, y0, x1, y1) in zip(masks, boxes.round().astype(int), strict=True):
        mask[y0:y1, x0:x1] = 1
    return [code["counts"] for code in encode_masks(masks)]


def vectors(train: int, test: int, width: int) -> Frozen:
    """Noise in the place of features, of images with labels and tags.

    A random walk, whose spectrum falls as that of natural images does (with the square of the frequency: Field 1987): on white
    noise a solver is done after a fifth of the iterations.
    """
    parts = []
    for seed, count in enumerate((train, test)):
        random = np.random.default_rng(seed)
        numbers = np.cumsum(random.standard_normal((count, width), np.float32), axis=1)
        labels = random.integers(0, len(CLASSES), count)
        rows = pa.table({"label": pa.array(labels, pa.int64()), "tags": [[CLASSES[label]] for label in labels]})
        parts.append(Split(rows, {"mean": numbers, "cls": numbers, "projected": numbers}))
    return Frozen(parts[0], parts[1], CLASSES, CLASSES)


def pixel_numbers(pixels: Pixels) -> int:
    """Width of the features of pixels."""
    blank = torch.zeros(1, pixels.channels, *encoders.sides(pixels.image_size), dtype=torch.uint8)
    return batch_features(pixels, blank, "float32")["pixels"].shape[1]
