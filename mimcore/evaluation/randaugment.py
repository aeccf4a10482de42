"""RandAugment and random erasing, by timm, as functions of a seed."""

import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from PIL import Image
from timm.data import auto_augment, random_erasing
from timm.data.auto_augment import rand_augment_transform
from timm.data.random_erasing import RandomErasing
from torch import Tensor

#: Magnitudes end just below timm's 10, at which its 'posterize' keeps no bit of a pixel, and Pillow refuses.
LARGEST_MAGNITUDE = 9.99

#: timm draws from numpy's global generator, and from ``random`` in these modules, which all threads share.
_SHARED = threading.RLock()
_DRAWING: tuple[Any, ...] = (auto_augment, random_erasing)


@contextmanager
def seeded_timm(seed: int) -> Iterator[None]:
    """Let timm draw by this seed inside the block, for one thread at a time.

    Python's generator is one of its own: what other threads draw from the global one (botocore, how long to wait before
    it asks again) neither changes an augmentation nor follows from its seed.
    """
    own = random.Random(seed)
    with _SHARED:
        state = np.random.get_state()  # noqa: NPY002
        np.random.seed(seed % 2**32)  # noqa: NPY002
        for module in _DRAWING:
            module.random = own
        try:
            yield
        finally:
            for module in _DRAWING:
                module.random = random
            np.random.set_state(state)  # noqa: NPY002


class RandAugment:
    """Random photometric and geometric operations on each image (Cubuk et al. 2020).

    Args:
        policy: in timm's words: ``rand-m9-mstd0.5-inc1`` is MAE's RandAug (9, 0.5) (He et al. 2022, table 9).
        image_size: the shorter side, pixels; a shift is at most 0.45 of it (timm's training transform).
        mean: of each channel, for pixels in [0, 1]: what comes in from outside the image is filled with it.
    """

    def __init__(self, policy: str, image_size: int, mean: tuple[float, ...]) -> None:
        fill = tuple(min(255, round(255 * channel)) for channel in mean)
        options = {"translate_const": int(image_size * 0.45), "img_mean": fill, "magnitude_max": LARGEST_MAGNITUDE}
        self._transform = rand_augment_transform(policy, options)

    def __call__(self, images: np.ndarray, seed: int) -> np.ndarray:
        """Augment uint8 ``(B, 3, H, W)``; the result depends on the images and the seed alone."""
        with seeded_timm(seed):
            changed = [np.asarray(self._transform(Image.fromarray(image.transpose(1, 2, 0)))) for image in images]
        return np.ascontiguousarray(np.stack(changed).transpose(0, 3, 1, 2))


def erase(images: Tensor, probability: float, seed: int) -> Tensor:
    """Replace a random rectangle of each image by noise, with a probability (Zhong et al. 2020), in place.

    Mode and count are those of MAE's released fine-tuning (``--remode pixel --recount 1``). The noise itself is drawn
    from torch's global generator.

    Args:
        images: normalised, float ``(B, 3, H, W)``.
        probability: of each image.
        seed: of which images, and which rectangles.
    """
    eraser = RandomErasing(probability, mode="pixel", max_count=1, device=images.device)
    with seeded_timm(seed):
        erased: Tensor = eraser(images)
    return erased
