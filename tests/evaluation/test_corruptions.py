import colorsys
import io

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage
from sklearn.datasets import load_sample_images
from torch.nn import functional as F

from mimcore.evaluation import corruptions
from mimcore.evaluation.corruptions import NAMES, SEVERITIES, corrupt

GENERATOR = torch.Generator()


def photograph(side, count=2):
    image = torch.tensor(load_sample_images().images[0]).permute(2, 0, 1)[None].float()
    return F.interpolate(image, (side, side), mode="bilinear", antialias=True).byte().repeat(count, 1, 1, 1)


def change(images, name, severity):
    return float((corrupt(images, name, severity).float() - images.float()).abs().mean())


@pytest.mark.parametrize("name", NAMES)
def test_every_corruption_changes_images_of_any_shape_and_is_the_same_again(name):
    images = photograph(32)[:, :, :24]
    for severity in SEVERITIES:
        found = corrupt(images, name, severity, 3)
        assert (found.shape, found.dtype) == (images.shape, torch.uint8)
        assert torch.equal(found, corrupt(images, name, severity, 3))
        assert not torch.equal(found, images)


@pytest.mark.parametrize(
    "name",
    ["gaussian_noise", "shot_noise", "impulse_noise", "brightness", "contrast", "zoom_blur", "motion_blur"],
)
@pytest.mark.parametrize("side", [32, 80])
def test_more_is_more(name, side):
    found = [change(photograph(side), name, severity) for severity in SEVERITIES]
    assert found[-1] == max(found)
    assert found[-1] > 1.2 * found[0]


def test_small_images_have_the_small_table():
    assert change(photograph(32), "gaussian_noise", 5) < 0.5 * change(photograph(80), "gaussian_noise", 5)


@pytest.mark.parametrize("name", ["gaussian_noise", "snow", "elastic_transform", "glass_blur"])
def test_the_draw_is_of_the_batch_number(name):
    images = photograph(32)
    assert not torch.equal(corrupt(images, name, 3, 0), corrupt(images, name, 3, 1))
    state = torch.get_rng_state()
    corrupt(images, name, 3)
    assert torch.equal(torch.get_rng_state(), state)


def test_noise_has_the_moments_of_its_kind():
    grey = torch.full((1, 3, 200, 200), 0.5)
    normal = corruptions.gaussian_noise(grey, 0.1, GENERATOR.manual_seed(0))
    assert float(normal.std()) == pytest.approx(0.1, rel=0.02)
    shot = corruptions.shot_noise(grey, 60, GENERATOR.manual_seed(0))
    assert float(shot.var()) == pytest.approx(0.5 / 60, rel=0.03)  # Poisson: as large as the mean
    struck = corruptions.impulse_noise(grey, 0.2, GENERATOR.manual_seed(0))
    assert [float((struck == v).float().mean()) for v in (0, 1)] == pytest.approx([0.1, 0.1], rel=0.05)


@pytest.mark.parametrize(("mirror", "mode"), [(True, "reflect"), (False, "nearest")])
@pytest.mark.parametrize("sigma", [0.05, 0.7, 2.5, 20.0])
def test_the_gaussian_is_scipys(mirror, mode, sigma):
    x = torch.rand(20, 15, generator=GENERATOR.manual_seed(0))
    expected = ndimage.gaussian_filter(x.double().numpy(), sigma, mode=mode, truncate=3.0)
    np.testing.assert_allclose(corruptions._smooth(x, sigma, 3.0, mirror).numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("factor", [1.05, 1.25, 3.0])
def test_the_zoom_is_scipys(factor):
    x = torch.rand(1, 1, 33, 33, generator=GENERATOR.manual_seed(0))
    side = int(np.ceil(33 / factor))
    top = (33 - side) // 2
    large = ndimage.zoom(x[0, 0, top : top + side, top : top + side].numpy(), factor, order=1)
    trim = (large.shape[0] - 33) // 2
    np.testing.assert_allclose(
        corruptions._zoomed(x, factor)[0, 0].numpy(), large[trim : trim + 33, trim : trim + 33], atol=1e-5
    )


@pytest.mark.parametrize("kept", [0.25, 0.6, 0.95])
def test_pixels_are_pillows_boxes(kept):
    images = photograph(48, 1)
    small = int(48 * kept)
    picture = Image.fromarray(images[0].permute(1, 2, 0).numpy())
    expected = picture.resize((small, small), Image.Resampling.BOX).resize((48, 48), Image.Resampling.BOX)
    found = corruptions.pixelate(images.float() / 255, kept, GENERATOR)[0].permute(1, 2, 0) * 255
    assert np.abs(found.numpy() - np.asarray(expected)).max() < 1.01  # Pillow rounds twice


def test_jpeg_is_pillows():
    images, file = photograph(80, 1), io.BytesIO()
    Image.fromarray(images[0].permute(1, 2, 0).numpy()).save(file, "JPEG", quality=10)
    assert np.array_equal(
        corrupt(images, "jpeg_compression", 4)[0].permute(1, 2, 0).numpy(), np.asarray(Image.open(file))
    )


def test_brightness_is_the_value_of_hsv():
    x = torch.rand(1, 3, 5, 6, generator=GENERATOR.manual_seed(0))
    x[0, :, 0, 0] = 0
    found = corruptions.brightness(x, 0.3, GENERATOR)
    for row in range(5):
        for column in range(6):
            hue, saturation, value = colorsys.rgb_to_hsv(*x[0, :, row, column].tolist())
            expected = colorsys.hsv_to_rgb(hue, saturation, min(1, value + 0.3))
            assert found[0, :, row, column].tolist() == pytest.approx(expected, abs=1e-5)


def test_blurs_keep_a_plain_image_and_a_streak_goes_one_way():
    plain = torch.full((2, 3, 40, 40), 0.4)
    for found in (
        corruptions.defocus_blur(plain, (6, 0.5), GENERATOR),
        corruptions.motion_blur(plain, (10, 3), GENERATOR),
        corruptions.zoom_blur(plain, (1.2, 0.02), GENERATOR),
    ):
        torch.testing.assert_close(found, plain)
    dot = torch.zeros(1, 1, 21, 21)
    dot[0, 0, 10, 10] = 1
    (streak,) = corruptions._streak(dot, 4, 2.0, torch.zeros(1))[:, 0]
    weights = np.exp(-(np.arange(9.0) ** 2) / 8)
    np.testing.assert_allclose(streak[10].numpy()[10:1:-1], weights / weights.sum(), atol=1e-6)
    assert float(streak.sum()) == pytest.approx(1)


def test_glass_only_moves_pixels():
    x = torch.rand(2, 3, 20, 20, generator=GENERATOR.manual_seed(0))
    found = corruptions.glass_blur(x, (0.05, 2, 2), GENERATOR.manual_seed(1))
    quantised = (x * 255).floor() / 255
    assert torch.equal(found.flatten(2).sort().values, quantised.flatten(2).sort().values)
    assert not torch.equal(found, quantised)


def test_elastic_moves_a_point_by_the_affine_map():
    x = torch.rand(1, 3, 24, 24, generator=GENERATOR.manual_seed(0))
    still = corruptions.elastic_transform(x, (0.0, 0.0, 0.0), GENERATOR)
    torch.testing.assert_close(still, x, atol=1e-4, rtol=0)


def test_height_maps_are_rougher_with_less_decay():
    smooth, rough = (corruptions.plasma(8, 64, decay, GENERATOR.manual_seed(0)) for decay in (3.0, 1.4))
    assert (float(smooth.min()), float(smooth.max())) == (0.0, 1.0)
    steps = [float((field[:, 1:] - field[:, :-1]).abs().mean()) for field in (smooth, rough)]
    assert steps[1] > 2 * steps[0]
