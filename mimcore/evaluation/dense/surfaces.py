"""Images with a class for every pixel, cropped for training and whole for testing."""

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as T

from mimcore.evaluation.augment import resize, resize_nearest
from mimcore.evaluation.dense.masks import IGNORED, class_map
from mimcore.evaluation.scenes import pad
from mimcore.evaluation.task import Images

#: Crops that are tried for one that no class fills (OpenMMLab's ``RandomCrop``).
TRIES = 10
#: Numbers that a training image is drawn by: mirror, factor, places of crops, and photometric changes.
DRAWS = 2 + 2 * TRIES + 8
#: Longest side of an image relative to its shortest, beyond which it is resized by the longest: 2048 to 512 pixels in
#: OpenMMLab's configuration of ADE20K.
LONGEST = 4
#: Ranges of torchvision's ``RandomPhotometricDistort``, after SSD (Liu et al. 2016): factors, and turns of the hue.
BRIGHTNESS, CONTRAST, SATURATION, HUE = (0.875, 1.125), (0.5, 1.5), (0.5, 1.5), (-0.05, 0.05)


class Surfaces:
    """Images with the map of classes that their instance masks make; kept in memory as far as that suffices."""

    def __init__(self, images: Images, image_size: int, where: str, background: bool, cache_mib: int) -> None:
        """Read nothing yet.

        Args:
            images: with ``masks`` and ``box_labels`` in their rows.
            image_size: side of a crop, pixels.
            where: dotted path of the task's options, for error messages.
            background: whether pixels of no instance are a class.
            cache_mib: memory for decoded images and maps, MiB.
        """
        self.images, self.image_size = images, image_size
        self._where, self._background = where, background
        self._columns = images.rows.select(["key", "width", "height", "masks", "box_labels"])
        self._room = cache_mib << 20
        self._cache: dict[int, tuple[Tensor, Tensor]] = {}

    def __len__(self) -> int:
        return len(self.images)

    def truth(self, position: int) -> Tensor:
        """Classes of an image's pixels, int16 ``(H, W)``."""
        return class_map(self._columns.slice(position, 1).to_pylist()[0], self._where, self._background)

    def whole(self, position: int) -> tuple[Tensor, Tensor]:
        """An image, uint8 ``(3, H, W)``, and its classes, int16 ``(H, W)``, as they are in the pool."""
        found = self._cache.get(position)
        if found is None:
            found = torch.from_numpy(self.images.raw(position)), self.truth(position)
            needed = sum(part.numel() * part.element_size() for part in found)
            if needed <= self._room:
                self._room -= needed
                self._cache[position] = found
        return found

    def training(
        self,
        position: int,
        draws: Tensor,
        jitter: tuple[float, float],
        most: float,
        mirror: bool,
        photometric: bool,
        mean: tuple[float, ...],
    ) -> tuple[Tensor, Tensor]:
        """One random crop: resized, cropped, mirrored, changed in its colours and padded, in OpenMMLab's order.

        Args:
            position: of the image.
            draws: ``DRAWS`` numbers in [0, 1).
            jitter: least and greatest factor of the shorter side.
            most: greatest share of the crop that one class may have, if one of ``TRIES`` crops is so.
            mirror: whether half of the images are mirrored.
            photometric: whether colours are changed.
            mean: colour of the padding.

        Returns:
            uint8 ``(3, S, S)``; classes, int16 ``(S, S)``, ``IGNORED`` where it is padded.
        """
        image, truth = self.whole(position)
        flip, part, *places = draws[: 2 + 2 * TRIES].tolist()
        shape = self._fitted(truth.shape, jitter[0] + (jitter[1] - jitter[0]) * part)
        image, truth = resize(image, *shape), resize_nearest(truth, *shape)
        for down, across in zip(places[::2], places[1::2], strict=True):
            rows, columns = (
                slice(start := int(place * (max(0, side - self.image_size) + 1)), start + self.image_size)
                for place, side in ((down, shape[0]), (across, shape[1]))
            )
            if _filled_by_one(truth[rows, columns]) <= most:
                break
        image, truth = image[:, rows, columns], truth[rows, columns]
        if mirror and flip < 0.5:
            image, truth = image.flip(2), truth.flip(1)
        if photometric:
            image = distort(image, draws[2 + 2 * TRIES :])
        square = torch.full((self.image_size, self.image_size), IGNORED, dtype=torch.int16)
        square[: truth.shape[0], : truth.shape[1]] = truth
        return pad(image, self.image_size, mean), square

    def testing(self, position: int, mean: tuple[float, ...]) -> Tensor:
        """One whole image whose shorter side is ``image_size``, uint8 ``(3, h, w)``; a much longer one is padded to it."""
        image = torch.from_numpy(self.images.raw(position))
        image = resize(image, *self._fitted(image.shape[1:], 1.0))
        missing = self.image_size - min(image.shape[1:])
        if missing <= 0:
            return image
        height, width = (max(side, self.image_size) for side in image.shape[1:])
        colour = (torch.tensor(mean) * 255).round().byte().view(3, 1, 1).repeat(1, height, width)
        colour[:, : image.shape[1], : image.shape[2]] = image
        return colour

    def _fitted(self, shape: torch.Size, factor: float) -> tuple[int, int]:
        """Height and width with the shorter side ``factor`` times ``image_size``, the longer no more than ``LONGEST`` times that."""
        scale = factor * self.image_size * min(1 / min(shape), LONGEST / max(shape))
        return max(1, round(shape[0] * scale)), max(1, round(shape[1] * scale))


def distort(image: Tensor, draws: Tensor) -> Tensor:
    """Change brightness, contrast, saturation and hue of uint8 ``(3, H, W)``, each with a chance of one half, by 8 draws."""
    chance, amount = draws[:4].tolist(), draws[4:].tolist()
    changes = (
        (T.adjust_brightness, BRIGHTNESS),
        (T.adjust_contrast, CONTRAST),
        (T.adjust_saturation, SATURATION),
        (T.adjust_hue, HUE),
    )
    for (change, (low, high)), turn, part in zip(changes, chance, amount, strict=True):
        if turn < 0.5:
            image = change(image, low + (high - low) * part)
    return image


def _filled_by_one(truth: Tensor) -> float:
    """Share of the classified pixels that the most frequent class has; 1 where there is none."""
    _, counts = truth[truth >= 0].unique(return_counts=True)
    return float(counts.max() / counts.sum()) if len(counts) else 1.0
