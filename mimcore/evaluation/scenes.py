"""Images with boxes, resized and padded to a square."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from mimcore.errors import UserError
from mimcore.evaluation.augment import large_scale_jitter, resize
from mimcore.evaluation.task import Images


@dataclass(frozen=True)
class Truth:
    """The annotated boxes of one image, in pixels of the original.

    Attributes:
        boxes: float32 ``(N, 4)``, xyxy.
        labels: int64 ``(N,)``, 0-based classes.
        areas: float32 ``(N,)``, COCO's areas.
        crowd: bool ``(N,)``, COCO's ``iscrowd``.
        masks: COCO's compressed run lengths of each, where they are asked for.
    """

    boxes: np.ndarray
    labels: np.ndarray
    areas: np.ndarray
    crowd: np.ndarray
    masks: tuple[str, ...] | None = None


def truths_of(images: Images) -> list[Truth]:
    """Read the boxes of all images from their rows."""
    names = ("boxes", "box_labels", "box_areas", "box_crowd")
    found = []
    for row in images.rows.select(names).to_pylist():
        boxes = np.asarray(row["boxes"], np.float32).reshape(-1, 4)
        labels = np.asarray(row["box_labels"], np.int64)
        # A pool without COCO's extras has the areas of its boxes, and no crowds.
        sides = boxes[:, 2:] - boxes[:, :2]
        areas = sides.prod(axis=1) if row["box_areas"] is None else np.asarray(row["box_areas"], np.float32)
        crowd = np.zeros(len(boxes), bool) if row["box_crowd"] is None else np.asarray(row["box_crowd"], bool)
        found.append(Truth(boxes, labels, areas, crowd))
    return found


def box_class_count(truths: list[Truth], names: list[str] | None, where: str) -> int:
    """Count the classes of boxes: the pool's names, or one more than the largest label where it names none.

    Raises:
        UserError: there is no box, or a label has no name.
    """
    labels = np.concatenate([truth.labels for truth in truths])
    if not len(labels):
        raise UserError(f"{where}: no image of the pool has a box; choose a pool with boxes.")
    count = len(names) if names else int(labels.max()) + 1
    if labels.min() < 0 or labels.max() >= count:
        wrong = labels.min() if labels.min() < 0 else labels.max()
        raise UserError(f"{where}: box label {wrong} is outside 0 to {count - 1}; mend the box labels of the pool.")
    return count


class Scenes:
    """Images resized to fit a square by their longer side, and kept in memory as far as that suffices."""

    def __init__(self, images: Images, image_size: int, cache_mib: int, one_class: bool = False) -> None:
        self.images = images
        self.image_size = image_size
        self.truths = truths_of(images)
        if one_class:
            self.truths = [replace(truth, labels=np.zeros_like(truth.labels)) for truth in self.truths]
        self._room = cache_mib * 2**20 // (3 * image_size**2)
        self._cache: dict[int, Tensor] = {}

    def __len__(self) -> int:
        return len(self.images)

    def fitted(self, position: int) -> Tensor:
        """Read image ``position`` as uint8 ``(3, h, w)``, the longer of h and w being ``image_size``."""
        found = self._cache.get(position)
        if found is not None:
            return found
        image = torch.from_numpy(self.images.raw(position))
        scale = self.image_size / max(image.shape[1:])
        height, width = (max(1, round(side * scale)) for side in image.shape[1:])
        image = resize(image, height, width)
        if len(self._cache) < self._room:
            self._cache[position] = image
        return image

    def ratio(self, position: int, image: Tensor) -> np.ndarray:
        """Fitted pixels per original pixel, float32 ``(4,)`` for x, y, x, y."""
        row = self.images.rows.slice(position, 1)
        width, height = row["width"][0].as_py(), row["height"][0].as_py()
        return np.tile(np.array([image.shape[2] / width, image.shape[1] / height], np.float32), 2)

    def training(
        self, position: int, draws: Tensor, scale: tuple[float, float], mirror: bool, mean: tuple[float, ...]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One image for training, jittered (``large_scale_jitter``) and padded, without crowds.

        Returns:
            uint8 ``(3, S, S)``; boxes, float32 ``(N, 4)`` in its pixels; labels, int64 ``(N,)``.
        """
        image, truth = self.fitted(position), self.truths[position]
        single = ~truth.crowd
        boxes = torch.from_numpy(truth.boxes[single] * self.ratio(position, image))
        labels = torch.from_numpy(truth.labels[single])
        image, boxes, kept = large_scale_jitter(image, boxes, draws, self.image_size, scale, mirror)
        return pad(image, self.image_size, mean), boxes, labels[kept]

    def testing(self, position: int, mean: tuple[float, ...]) -> tuple[Tensor, np.ndarray]:
        """One image for testing, padded, uint8 ``(3, S, S)``, with its ``ratio``."""
        image = self.fitted(position)
        return pad(image, self.image_size, mean), self.ratio(position, image)


def pad(image: Tensor, image_size: int, mean: tuple[float, ...]) -> Tensor:
    """Fill uint8 ``(3, h, w)`` up to ``(3, S, S)`` at the right and below, with the mean colour: 0 once normalised."""
    square = (torch.tensor(mean) * 255).round().byte().view(3, 1, 1).repeat(1, image_size, image_size)
    square[:, : image.shape[1], : image.shape[2]] = image
    return square
