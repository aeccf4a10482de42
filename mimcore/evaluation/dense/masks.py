"""Instance masks, from the run lengths of an index to pixels, and the map of classes that they make."""

from typing import Any

import numpy as np
import torch
from faster_coco_eval.core import mask as coco_mask
from torch import Tensor

from mimcore.errors import UserError

#: Class of the pixels that neither train nor test.
IGNORED = -1


def instance_masks(row: dict[str, Any], where: str) -> np.ndarray:
    """Decode the masks of an image, uint8 ``(N, H, W)`` of 0 and 1.

    Args:
        row: of the index, with ``key``, ``height``, ``width`` and ``masks``.
        where: dotted path of the task's options, for error messages.

    Raises:
        UserError: the run lengths are none of an image of this height and width.
    """
    height, width = row["height"], row["width"]
    found = np.zeros((len(row["masks"]), height, width), np.uint8)
    for number, code in enumerate(codes_of(row)):
        try:
            found[number] = coco_mask.decode({**code, "counts": code["counts"].encode()})
        except (ValueError, AttributeError) as error:
            raise UserError(
                f"{where}: mask {number} of image '{row['key']}' is no run-length code of {width}x{height} pixels"
                f" ({error}); mend the masks of the pool."
            ) from None
    return found


def codes_of(row: dict[str, Any]) -> tuple[dict[str, Any], ...]:
    """The masks of an image as COCO's run-length codes, with their size."""
    return tuple({"size": [row["height"], row["width"]], "counts": counts} for counts in row["masks"])


def encode_masks(masks: np.ndarray) -> list[dict[str, Any]]:
    """Encode bool or uint8 ``(N, H, W)`` as COCO's run-length codes, with their size."""
    if not len(masks):
        return []
    codes = coco_mask.encode(np.asfortranarray(masks.transpose(1, 2, 0), np.uint8))
    return [{"size": list(masks.shape[1:]), "counts": code["counts"].decode()} for code in codes]


def class_map(row: dict[str, Any], where: str, background: bool) -> Tensor:
    """Lay the masks of an image over each other in their order: the later instance is in front.

    Args:
        row: of the index, with ``box_labels`` beside what ``instance_masks`` reads.
        where: dotted path of the task's options, for error messages.
        background: whether pixels of no instance are a class, 0, before those of the instances; else they are ``IGNORED``.

    Returns:
        int16 ``(H, W)``.
    """
    found = torch.full((row["height"], row["width"]), 0 if background else IGNORED, dtype=torch.int16)
    for mask, label in zip(instance_masks(row, where), row["box_labels"], strict=True):
        found[torch.from_numpy(mask).bool()] = int(label) + int(background)
    return found
