"""Histograms of oriented gradients against loops over pixels, and where they are known."""

import math

import numpy as np
import pytest
import torch

from mimcore.models.hog import Hog, HogOptions


def hog(**options: object) -> HogOptions:
    return HogOptions.model_validate({"kind": "hog"} | options)


def mirrored(channel: np.ndarray, y: int, x: int) -> float:
    height, width = channel.shape
    y, x = abs(y), abs(x)
    return float(channel[2 * height - 2 - y if y >= height else y, 2 * width - 2 - x if x >= width else x])


def histogram(channel: np.ndarray, top: int, left: int, cell: int, bins: int) -> np.ndarray:
    """Of a cell: each pixel votes for the bin of its edge's direction, from the vertical on, with its gradient's length."""
    found = np.zeros(bins)
    for y in range(top, top + cell):
        for x in range(left, left + cell):
            across = down = 0.0
            for step, weight in ((-1, 1), (0, 2), (1, 1)):
                across += weight * (mirrored(channel, y + step, x + 1) - mirrored(channel, y + step, x - 1))
                down += weight * (mirrored(channel, y + 1, x + step) - mirrored(channel, y - 1, x + step))
            turn = math.atan2(across, down) % math.pi / math.pi
            found[min(int(turn * bins), bins - 1)] += math.hypot(across, down)
    return found / max(np.linalg.norm(found), 1e-12)


@pytest.mark.parametrize(
    ("patch", "options", "channels"),
    [(8, {"cell": 4}, 3), (4, {"cell": 4, "orientations": 5}, 1), (8, {"cell": 8, "colour": False}, 3)],
)
def test_histograms_equal_a_loop(patch: int, options: dict[str, int], channels: int) -> None:
    images = torch.randn(2, channels, 16, 24, generator=torch.Generator().manual_seed(0))
    config = hog(**options)
    found = Hog(config, patch, channels)(images)
    shown = images.double().numpy() if config.colour else images.double().mean(1, keepdim=True).numpy()
    for b in range(2):
        for n, (row, column) in enumerate(np.ndindex(16 // patch, 24 // patch)):
            cells = [
                histogram(channel, row * patch + r, column * patch + c, config.cell, config.orientations)
                for r in range(0, patch, config.cell)
                for c in range(0, patch, config.cell)
                for channel in shown[b]
            ]
            np.testing.assert_allclose(found[b, n].numpy(), np.concatenate(cells), atol=1e-5)


def test_the_defaults_give_what_the_paper_predicts() -> None:
    """Wei et al. 2022, 'Target features': 2 x 2 cells of 9 bins in 3 channels for a patch of 16 pixels, 108 values."""
    target = Hog(hog(), 16, 3)
    assert target.width == 108
    assert target(torch.randn(2, 3, 32, 32)).shape == (2, 4, 108)


def test_edges_fall_into_the_bin_of_their_direction_whole() -> None:
    ramp = torch.arange(32.0).expand(1, 1, 32, 32)
    for image, at in ((ramp, 4), (-ramp, 4), (ramp.mT, 0), (-ramp.mT, 0)):
        inner = Hog(hog(), 8, 1)(image).unflatten(1, (4, 4))[0, 1:3, 1:3]
        assert torch.equal(inner, torch.eye(9)[at].expand(2, 2, 9))


def test_contrast_and_brightness_change_nothing_and_a_flat_cell_is_zero() -> None:
    images = torch.randn(2, 3, 16, 16)
    images[0, :, :10, :10] = 0.3
    target = Hog(hog(cell=4), 8, 3)
    found = target(images)
    torch.testing.assert_close(target(images * 3 + 1), found, atol=1e-5, rtol=1e-4)
    norms = found.unflatten(2, (2, 2, 3, 9)).norm(dim=-1)
    assert norms[0, 0, 0, 0].tolist() == [0, 0, 0]
    torch.testing.assert_close(norms[1], torch.ones_like(norms[1]))


def test_autocast_leaves_it_in_float32() -> None:
    images, target = torch.randn(1, 3, 16, 16), Hog(hog(), 8, 3)
    with torch.autocast("cpu", torch.bfloat16):
        found = target(images)
    assert found.dtype == torch.float32
    assert torch.equal(found, target(images))
