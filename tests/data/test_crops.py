import math

import pytest
import torch
from scipy import stats
from torchvision.transforms import RandomResizedCrop
from torchvision.transforms.v2.functional import resized_crop

from mimcore.data.crops import Interpolation, draw_crops, random_resized_crop

SCALE, RATIO = (0.2, 1.0), (3 / 4, 4 / 3)


@pytest.mark.parametrize(("interpolation", "code"), [("bicubic", 3), ("bilinear", 2)])
@pytest.mark.parametrize("shape", [(32, 32), (48, 64)])
def test_pixels_equal_torchvision(shape: tuple[int, int], interpolation: Interpolation, code: int) -> None:
    height, width = shape
    images = torch.randint(0, 256, (6, 3, height, width), dtype=torch.uint8)
    generator = torch.Generator().manual_seed(1)
    ours = random_resized_crop(images, SCALE, RATIO, False, generator.manual_seed(1), interpolation=interpolation)
    crops = torch.stack(draw_crops(6, height, width, SCALE, RATIO, generator.manual_seed(1)), dim=1).tolist()
    for image, pixels, (top, left, rows, columns) in zip(images, ours, crops, strict=True):
        theirs = resized_crop(image.float(), top, left, rows, columns, [height, width], code, antialias=True)
        torch.testing.assert_close(pixels, theirs.clamp(0, 255), rtol=0, atol=1e-3)


def test_crops_have_torchvisions_distribution() -> None:
    """Top, left, height and width, each against 3,000 draws of ``RandomResizedCrop.get_params``."""
    ours = torch.stack(draw_crops(3000, 60, 80, SCALE, RATIO, torch.Generator().manual_seed(0)))
    image = torch.zeros(3, 60, 80)
    theirs = torch.tensor([RandomResizedCrop.get_params(image, list(SCALE), list(RATIO)) for _ in range(3000)]).T
    for mine, other in zip(ours, theirs, strict=True):
        assert stats.ks_2samp(mine.numpy(), other.numpy()).pvalue > 0.001


def test_impossible_crops_fall_back_to_the_centre() -> None:
    """An image far wider than any allowed crop of its area: torchvision takes the largest central crop of the ratio."""
    top, left, rows, columns = draw_crops(4, 10, 1000, (1.0, 1.0), RATIO, torch.Generator().manual_seed(0))
    assert rows.tolist() == [10] * 4
    assert columns.tolist() == [round(10 * 4 / 3)] * 4
    assert left.tolist() == [(1000 - 13) // 2] * 4
    assert top.tolist() == [0] * 4


def test_flip_mirrors_half_of_the_images() -> None:
    images = torch.randint(0, 256, (400, 3, 8, 8), dtype=torch.uint8)
    pixels = random_resized_crop(images, (1.0, 1.0), (1.0, 1.0), True, torch.Generator().manual_seed(0))
    same = (pixels - images).abs().amax(dim=(1, 2, 3)) < 1e-3
    mirrored = (pixels - images.flip(3)).abs().amax(dim=(1, 2, 3)) < 1e-3
    assert bool((same ^ mirrored).all())
    assert abs(int(mirrored.sum()) - 200) < 4 * math.sqrt(100)
