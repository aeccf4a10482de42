"""Images with boxes, resized and padded to a square."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import masks_to_boxes

from mimcore.errors import UserError
from mimcore.evaluation.augment import jitter_masks, large_scale_jitter, resize
from mimcore.evaluation.dense.masks import codes_of, instance_masks
from mimcore.evaluation.task import Images


@dataclass(frozen=True)
class Truth:
    """The annotated boxes of one image, in pixels of the original.

    Attributes:
        boxes: float32 ``(N, 4)``, xyxy.
        labels: int64 ``(N,)``, 0-based classes.
        areas: float32 ``(N,)``, COCO's areas.
        crowd: bool ``(N,)``, COCO's ``iscrowd``.
        masks: COCO's run-length codes of each, where the pool has them.
    """

    boxes: np.ndarray
    labels: np.ndarray
    areas: np.ndarray
    crowd: np.ndarray
    masks: tuple[dict[str, Any], ...] | None = None


def truths_of(images: Images) -> list[Truth]:
    """Read the boxes of all images from their rows."""
    names = [
        name
        for name in ("boxes", "box_labels", "box_areas", "box_crowd", "masks", "width", "height")
        if name in images.rows.column_names
    ]
    found = []
    for row in images.rows.select(names).to_pylist():
        boxes = np.asarray(row["boxes"], np.float32).reshape(-1, 4)
        labels = np.asarray(row["box_labels"], np.int64)
        # A pool without COCO's extras has the areas of its boxes, and no crowds.
        sides = boxes[:, 2:] - boxes[:, :2]
        areas = sides.prod(axis=1) if row.get("box_areas") is None else np.asarray(row["box_areas"], np.float32)
        crowd = np.zeros(len(boxes), bool) if row.get("box_crowd") is None else np.asarray(row["box_crowd"], bool)
        masks = None if row.get("masks") is None else codes_of(row)
        found.append(Truth(boxes, labels, areas, crowd, masks))
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

    def __init__(
        self, images: Images, image_size: int, cache_mib: int, one_class: bool = False, masks_of: str | None = None
    ) -> None:
        """Read the boxes of all images, and no image yet.

        Args:
            images: with boxes in their rows.
            image_size: side of the square, pixels.
            cache_mib: memory for resized images, MiB.
            one_class: whether all objects are of class 0.
            masks_of: dotted path of the task's options, for error messages, where masks are trained on too.
        """
        self.images = images
        self._masks_of = masks_of
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
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """One image for training, jittered (``large_scale_jitter``) and padded, without crowds.

        Returns:
            uint8 ``(3, S, S)``; and its truth: ``boxes``, float32 ``(N, 4)`` in its pixels, ``labels``, int64 ``(N,)``, and
            with masks ``masks``, uint8 ``(N, S, S)``, which the boxes are then drawn around anew.
        """
        image, truth = self.fitted(position), self.truths[position]
        single = ~truth.crowd
        boxes = torch.from_numpy(truth.boxes[single] * self.ratio(position, image))
        labels = torch.from_numpy(truth.labels[single])
        fitted = (image.shape[1], image.shape[2])
        image, boxes, kept = large_scale_jitter(image, boxes, draws, self.image_size, scale, mirror)
        truth_there = {"boxes": boxes, "labels": labels[kept]}
        if self._masks_of is not None:
            masks = self._masks(position)[torch.from_numpy(single)][kept]
            masks = jitter_masks(masks, fitted, draws, self.image_size, scale, mirror)
            seen = masks.bool().flatten(1).any(dim=1)
            masks = F.pad(masks[seen], (0, self.image_size - masks.shape[2], 0, self.image_size - masks.shape[1]))
            boxes = masks_to_boxes(masks) + boxes.new_tensor([0, 0, 1, 1])
            truth_there = {"boxes": boxes, "labels": truth_there["labels"][seen], "masks": masks}
        return pad(image, self.image_size, mean), truth_there

    def _masks(self, position: int) -> Tensor:
        """Masks of an image at its own size, uint8 ``(N, H, W)``."""
        row = self.images.rows.select(["key", "width", "height", "masks"]).slice(position, 1).to_pylist()[0]
        return torch.from_numpy(instance_masks(row, str(self._masks_of)))

    def testing(self, position: int, mean: tuple[float, ...]) -> tuple[Tensor, np.ndarray]:
        """One image for testing, padded, uint8 ``(3, S, S)``, with its ``ratio``."""
        image = self.fitted(position)
        return pad(image, self.image_size, mean), self.ratio(position, image)


def pad(image: Tensor, image_size: int, mean: tuple[float, ...]) -> Tensor:
    """Fill uint8 ``(3, h, w)`` up to ``(3, S, S)`` at the right and below, with the mean colour: 0 once normalised."""
    square = (torch.tensor(mean) * 255).round().byte().view(3, 1, 1).repeat(1, image_size, image_size)
    square[:, : image.shape[1], : image.shape[2]] = image
    return square
