import numpy as np
import pytest
import torch
from scipy import stats
from torchvision.transforms import RandomResizedCrop

from mimcore.data.draws import draw_boxes, uniform

SCALE, RATIO = (0.2, 1.0), (3 / 4, 4 / 3)


def drawn(count: int, height: int, width: int, scale: tuple[float, float] = SCALE, seed: str = "s0") -> np.ndarray:
    full = np.full(count, 1)
    return draw_boxes(seed, np.arange(count), height * full, width * full, scale, RATIO)


@pytest.mark.parametrize(("height", "width"), [(300, 400), (500, 120)])
@pytest.mark.parametrize("scale", [SCALE, (0.08, 1.0)])
def test_crops_have_torchvisions_distribution(height: int, width: int, scale: tuple[float, float]) -> None:
    """Edges, height, width, area and ratio, each against draws of ``RandomResizedCrop.get_params``."""
    count = 4000
    torch.manual_seed(1)
    image = torch.zeros(1, 1, 1).expand(1, height, width)
    theirs = np.array([RandomResizedCrop.get_params(image, list(scale), list(RATIO)) for _ in range(count)]).T
    ours = drawn(count, height, width, scale).T

    def measures(boxes: np.ndarray) -> list[np.ndarray]:
        top, left, rows, columns = boxes
        return [top, left, rows, columns, rows * columns, columns / rows, top + rows, left + columns]

    for mine, other in zip(measures(ours), measures(theirs), strict=True):
        assert stats.ks_2samp(mine, other).pvalue > 0.001
    assert (ours >= 0).all()
    assert (ours[0] + ours[2] <= height).all()
    assert (ours[1] + ours[3] <= width).all()


@pytest.mark.parametrize(("height", "width"), [(10, 1000), (1000, 10), (97, 1000)])
def test_an_impossible_crop_is_torchvisions_central_one(height: int, width: int) -> None:
    image = torch.zeros(1, height, width)
    expected = RandomResizedCrop.get_params(image, [1.0, 1.0], list(RATIO))
    assert drawn(3, height, width, (1.0, 1.0)).tolist() == [list(expected)] * 3


def test_a_crop_depends_on_its_own_sample_and_the_seed_alone() -> None:
    whole = drawn(100, 300, 400)
    some = np.array([7, 99, 3])
    of_some = draw_boxes("s0", some, np.full(3, 300), np.full(3, 400), SCALE, RATIO)
    assert np.array_equal(of_some, whole[some])
    assert (drawn(100, 300, 400, seed="s1") != whole).any(axis=1).mean() > 0.9


def test_numbers_are_uniform_and_independent() -> None:
    numbers = uniform("s0", np.arange(20_000), 8)
    assert numbers.min() >= 0
    assert numbers.max() < 1
    for column in numbers.T:
        assert stats.kstest(column, "uniform").pvalue > 0.001
    # 28 pairs of columns, and each column with its successor: a correlation of 20,000 has a deviation of 0.007.
    correlations = np.corrcoef(np.hstack([numbers[:-1], numbers[1:]]).T)
    assert np.abs(correlations - np.eye(16)).max() < 0.03


def test_the_draws_do_not_change() -> None:
    """Golden values: another version that draws otherwise would change every study."""
    assert drawn(3, 300, 400).tolist() == GOLDEN


GOLDEN = [[1, 78, 175, 207], [54, 82, 242, 256], [19, 5, 210, 240]]
