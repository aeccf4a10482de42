"""The fifteen common corruptions of Hendrycks & Dietterich 2019, in five severities, of a batch of images.

The severities are those of the paper's released code (github.com/hendrycks/robustness at 8190fe3, ``make_imagenet_c.py`` and
``make_cifar_c.py``): one table made ImageNet-C, at 224 pixels, the other CIFAR-10-C, at 32. They are used as they stand, lengths in
pixels included: the latter up to 64 pixels of the shorter side, the former above. Three things differ from the released code. Its
photographs of frost are not ours to ship: a fractal texture as bright stands for them. The images of a batch share one shuffle of
``glass_blur``, in which neighbours change places, as the paper has it; the released code copies one over the other.
``elastic_transform`` interpolates once, not twice.
"""

import io
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Generator, Tensor
from torch.nn import functional as F

from mimcore.evaluation.task import seed_number

#: Images that are corrupted together; what is drawn depends on the number of the batch.
BATCH = 64
#: Shorter side, pixels, up to which the severities are those of CIFAR-10-C.
SMALL = 64

#: For each corruption the settings of the severities 1 to 5, on ImageNet-C and on CIFAR-10-C.
LARGE_TABLE: dict[str, list[Any]] = {
    "gaussian_noise": [0.08, 0.12, 0.18, 0.26, 0.38],
    "shot_noise": [60, 25, 12, 5, 3],
    "impulse_noise": [0.03, 0.06, 0.09, 0.17, 0.27],
    "defocus_blur": [(3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)],
    "glass_blur": [(0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2)],
    "motion_blur": [(10, 3), (15, 5), (15, 8), (15, 12), (20, 15)],
    "zoom_blur": [(1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03)],
    "snow": [
        (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
        (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
        (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
        (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
        (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
    ],
    "frost": [(1, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75)],
    "fog": [(1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4)],
    "brightness": [0.1, 0.2, 0.3, 0.4, 0.5],
    "contrast": [0.4, 0.3, 0.2, 0.1, 0.05],
    # 244 is what the released code has.
    "elastic_transform": [
        (244 * 2, 244 * 0.7, 244 * 0.1),
        (244 * 2, 244 * 0.08, 244 * 0.2),
        (244 * 0.05, 244 * 0.01, 244 * 0.02),
        (244 * 0.07, 244 * 0.01, 244 * 0.02),
        (244 * 0.12, 244 * 0.01, 244 * 0.02),
    ],
    "pixelate": [0.6, 0.5, 0.4, 0.3, 0.25],
    "jpeg_compression": [25, 18, 15, 10, 7],
}
SMALL_TABLE: dict[str, list[Any]] = {
    "gaussian_noise": [0.04, 0.06, 0.08, 0.09, 0.10],
    "shot_noise": [500, 250, 100, 75, 50],
    "impulse_noise": [0.01, 0.02, 0.03, 0.05, 0.07],
    "defocus_blur": [(0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)],
    "glass_blur": [(0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2)],
    "motion_blur": [(6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)],
    "zoom_blur": [(1.06, 0.01), (1.11, 0.01), (1.16, 0.01), (1.21, 0.01), (1.26, 0.01)],
    "snow": [
        (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
        (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
        (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
        (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
        (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
    ],
    "frost": [(1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45)],
    "fog": [(0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75)],
    "brightness": [0.05, 0.1, 0.15, 0.2, 0.3],
    "contrast": [0.75, 0.5, 0.4, 0.3, 0.15],
    "elastic_transform": [
        (0, 0, 32 * 0.08),
        (32 * 0.05, 32 * 0.2, 32 * 0.07),
        (32 * 0.08, 32 * 0.06, 32 * 0.06),
        (32 * 0.1, 32 * 0.04, 32 * 0.05),
        (32 * 0.1, 32 * 0.03, 32 * 0.03),
    ],
    "pixelate": [0.95, 0.9, 0.85, 0.75, 0.65],
    "jpeg_compression": [80, 65, 58, 50, 40],
}
NAMES = tuple(LARGE_TABLE)
SEVERITIES = (1, 2, 3, 4, 5)


def corrupt(images: Tensor, name: str, severity: int, batch: int = 0) -> Tensor:
    """Corrupt a batch; what is drawn depends on the corruption, the severity and the number of the batch alone.

    Args:
        images: uint8 ``(B, 3, H, W)``.
        name: one of ``NAMES``.
        severity: 1 to 5.
        batch: number of the batch.

    Returns:
        uint8 ``(B, 3, H, W)``, on the same device.
    """
    table = SMALL_TABLE if min(images.shape[-2:]) <= SMALL else LARGE_TABLE
    generator = Generator().manual_seed(seed_number(name, str(severity), str(batch)))
    found = _FUNCTIONS[name](images.float() / 255, table[name][severity - 1], generator)
    return (found.clamp(0, 1) * 255).byte()  # cut, not rounded, as the released code does


def _normal(shape: torch.Size | tuple[int, ...], generator: Generator, like: Tensor) -> Tensor:
    """Draw on the CPU, so that every device has the same."""
    return torch.randn(shape, generator=generator).to(like.device)


def _uniform(shape: tuple[int, ...], low: float, high: float, generator: Generator) -> Tensor:
    return low + (high - low) * torch.rand(shape, generator=generator)


def gaussian_noise(x: Tensor, scale: float, generator: Generator) -> Tensor:
    """Add normal noise."""
    return x + scale * _normal(x.shape, generator, x)


def shot_noise(x: Tensor, photons: float, generator: Generator) -> Tensor:
    """Count photons."""
    return torch.poisson((x * photons).cpu(), generator=generator).to(x.device) / photons


def impulse_noise(x: Tensor, amount: float, generator: Generator) -> Tensor:
    """Salt and pepper, of each channel by itself."""
    struck, salt = (torch.rand(x.shape, generator=generator).to(x.device) for _ in range(2))
    return torch.where(struck < amount, (salt < 0.5).float(), x)


def defocus_blur(x: Tensor, setting: tuple[float, float], generator: Generator) -> Tensor:
    """Convolve with a disk whose rim is softened."""
    radius, rim = setting
    reach, soft = (8, 1) if radius <= 8 else (int(radius), 2)
    line = torch.arange(-reach, reach + 1, dtype=torch.float32)
    disk = (line[:, None].square() + line.square() <= radius**2).float()
    edge = torch.exp(-(torch.arange(-soft, soft + 1).float() ** 2) / (2 * rim**2))
    edge = edge / edge.sum()
    padded = F.pad((disk / disk.sum())[None, None], [soft] * 4, mode="reflect")
    kernel = F.conv2d(padded, (edge[:, None] * edge)[None, None]).to(x.device)
    return F.conv2d(_mirrored(x, reach), kernel.expand(x.shape[1], 1, -1, -1), groups=x.shape[1])


def _mirrored(x: Tensor, reach: int) -> Tensor:
    """Pad by reflection about the border pixels, over and over where the image is smaller than the padding."""
    for axis in (-2, -1):
        n = x.shape[axis]
        places = (torch.arange(-reach, n + reach, device=x.device).abs()) % max(1, 2 * (n - 1))
        x = x.index_select(axis, torch.where(places < n, places, 2 * (n - 1) - places))
    return x


def _smooth(x: Tensor, sigma: float, truncate: float, mirror: bool) -> Tensor:
    """Blur by a Gaussian, cut at ``truncate`` deviations; beyond the border the image is mirrored, or its edge goes on."""
    reach = int(truncate * sigma + 0.5)
    if not reach:
        return x
    weights = torch.exp(-0.5 * (torch.arange(-reach, reach + 1).double() / sigma) ** 2)
    weights = weights / weights.sum()
    for axis in (-2, -1):
        n = x.shape[axis]
        places = torch.arange(n)[:, None] + torch.arange(-reach, reach + 1)
        folded = places % (2 * n)
        places = torch.where(folded < n, folded, 2 * n - 1 - folded) if mirror else places.clamp(0, n - 1)
        matrix = torch.zeros(n, n, dtype=torch.float64).scatter_add_(1, places, weights.expand(n, -1)).to(x)
        x = matrix @ x if axis == -2 else x @ matrix.T
    return x


def glass_blur(x: Tensor, setting: tuple[float, int, int], generator: Generator) -> Tensor:
    """Blur, let neighbouring pixels change places, blur again."""
    sigma, reach, rounds = setting
    height, width = x.shape[-2:]
    places = list(range(height * width))
    rows, columns = range(height - reach, reach, -1), range(width - reach, reach, -1)
    drawn = torch.randint(-reach, reach, (rounds, len(rows), len(columns), 2), generator=generator).tolist()
    for moves in drawn:
        for row, line in zip(rows, moves, strict=True):
            for column, (across, down) in zip(columns, line, strict=True):
                here, there = row * width + column, (row + down) * width + column + across
                places[here], places[there] = places[there], places[here]
    blurred = (_smooth(x, sigma, 4.0, mirror=False) * 255).floor() / 255
    shuffled = blurred.flatten(2)[:, :, torch.tensor(places, device=x.device)].view_as(x)
    return _smooth(shuffled, sigma, 4.0, mirror=False)


def _streak(x: Tensor, radius: int, sigma: float, angles: Tensor) -> Tensor:
    """Half a Gaussian along a line, as ImageMagick's motion blur: x ``(B, C, H, W)``, angles in radians ``(B,)``."""
    steps = torch.arange(2 * radius + 1)
    weights = torch.exp(-(steps.float() ** 2) / (2 * sigma**2))
    down = torch.ceil(steps * angles.cos()[:, None] - 0.5).long()
    across = torch.ceil(steps * angles.sin()[:, None] - 0.5).long()
    height, width = x.shape[-2:]
    images = torch.arange(len(x), device=x.device)[:, None, None]
    found = torch.zeros_like(x)
    for step, weight in enumerate((weights / weights.sum()).tolist()):
        rows = (torch.arange(height) + across[:, step, None]).clamp(0, height - 1).to(x.device)
        columns = (torch.arange(width) + down[:, step, None]).clamp(0, width - 1).to(x.device)
        found += weight * x.permute(0, 2, 3, 1)[images, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
    return found


def motion_blur(x: Tensor, setting: tuple[int, float], generator: Generator) -> Tensor:
    """Move along a line that leans by up to 45 degrees."""
    return _streak(x, *setting, angles=_uniform((len(x),), -math.pi / 4, math.pi / 4, generator))


def _zoomed(x: Tensor, factor: float) -> Tensor:
    """The centre, enlarged to the size of the image."""
    height, width = x.shape[-2:]
    rows, columns = math.ceil(height / factor), math.ceil(width / factor)
    top, left = (height - rows) // 2, (width - columns) // 2
    part = x[..., top : top + rows, left : left + columns]
    large = F.interpolate(part, (round(rows * factor), round(columns * factor)), mode="bilinear", align_corners=True)
    top, left = (large.shape[-2] - height) // 2, (large.shape[-1] - width) // 2
    return large[..., top : top + height, left : left + width]


def zoom_blur(x: Tensor, setting: tuple[float, float], generator: Generator) -> Tensor:
    """The mean of the image and of ever larger ones."""
    factors = np.arange(1, *setting)
    total: Tensor = sum((_zoomed(x, float(factor)) for factor in factors), x)
    return total / (len(factors) + 1)


def snow(x: Tensor, setting: tuple[float, ...], generator: Generator) -> Tensor:
    """Flakes that fall in streaks, before a whitened image."""
    mean, scale, zoom, least, radius, sigma, kept = setting
    flakes = mean + scale * _normal((len(x), 1, *x.shape[-2:]), generator, x)
    flakes = _zoomed(flakes, zoom)
    flakes = (torch.where(flakes < least, 0.0, flakes).clamp(0, 1) * 255).floor() / 255
    angles = _uniform((len(x),), -3 * math.pi / 4, -math.pi / 4, generator)
    flakes = _streak(flakes, int(radius), sigma, angles)
    grey = (x * x.new_tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)).sum(dim=1, keepdim=True)
    white = kept * x + (1 - kept) * torch.maximum(x, grey * 1.5 + 0.5)
    return white + flakes + flakes.rot90(2, (-2, -1))


def plasma(count: int, side: int, decay: float, generator: Generator) -> Tensor:
    """Height maps in [0, 1] by the diamond-square algorithm (Fournier et al. 1982), ``(count, side, side)``; a power of two."""
    field = torch.zeros(count, side, side)
    step, rough = side, 100.0

    def wobbled(total: Tensor) -> Tensor:
        return total / 4 + rough * _uniform(tuple(total.shape), -rough, rough, generator)

    while step >= 2:
        half = step // 2
        corners = field[:, ::step, ::step]
        total = corners + corners.roll(-1, 1)
        field[:, half::step, half::step] = wobbled(total + total.roll(-1, 2))
        centres = field[:, half::step, half::step]
        field[:, ::step, half::step] = wobbled(centres + centres.roll(1, 1) + corners + corners.roll(-1, 2))
        field[:, half::step, ::step] = wobbled(centres + centres.roll(1, 2) + corners + corners.roll(-1, 1))
        step, rough = half, rough / decay
    field = field - field.amin(dim=(1, 2), keepdim=True)
    return field / field.amax(dim=(1, 2), keepdim=True)


def _texture(x: Tensor, decay: float, generator: Generator) -> Tensor:
    """A height map of each image's size, ``(B, 1, H, W)``."""
    side = 2 ** math.ceil(math.log2(max(x.shape[-2:])))
    return plasma(len(x), side, decay, generator)[:, None, : x.shape[-2], : x.shape[-1]].to(x.device)


def frost(x: Tensor, setting: tuple[float, float], generator: Generator) -> Tensor:
    """Crystals over a fainter image: ridges of a rough height map, bluish white."""
    image, ice = setting
    ridges = 1 - 2 * (_texture(x, 1.5, generator) - 0.5).abs()
    crystals = ridges / ridges.mean(dim=(2, 3), keepdim=True).clamp(min=0.5)
    return image * x + ice * crystals * x.new_tensor([0.55, 0.6, 0.65]).view(1, 3, 1, 1)


def fog(x: Tensor, setting: tuple[float, float], generator: Generator) -> Tensor:
    """A height map laid over the image, which keeps its greatest value."""
    amount, decay = setting
    greatest = x.amax(dim=(1, 2, 3), keepdim=True)
    return (x + amount * _texture(x, decay, generator)) * greatest / (greatest + amount)


def brightness(x: Tensor, more: float, generator: Generator) -> Tensor:
    """Raise the value of hue, saturation and value: the channels keep their ratios."""
    value = x.amax(dim=1, keepdim=True)
    raised = (value + more).clamp(max=1)
    return torch.where(value > 0, x * raised / value.clamp(min=1e-12), raised)


def contrast(x: Tensor, kept: float, generator: Generator) -> Tensor:
    """Draw each channel towards its mean."""
    mean = x.mean(dim=(2, 3), keepdim=True)
    return (x - mean) * kept + mean


def elastic_transform(x: Tensor, setting: tuple[float, float, float], generator: Generator) -> Tensor:
    """An affine map that moves three points, and a smooth random displacement (Simard et al. 2003)."""
    amount, sigma, shift = setting
    count, height, width = len(x), *x.shape[-2:]
    middle = torch.tensor([width // 2, height // 2], dtype=torch.float64)
    arm = min(height, width) // 3
    before = middle + arm * torch.tensor([[1, 1], [1, -1], [-1, -1]], dtype=torch.float64)
    after = before + _uniform((count, 3, 2), -shift, shift, generator).double()
    # The map back: of the places that the points went to, to where they came from.
    ones = torch.ones(count, 3, 1, dtype=torch.float64)
    back = torch.linalg.lstsq(torch.cat([after, ones], 2), before.expand(count, -1, -1)).solution  # (B, 3, 2)
    noise = _uniform((count, 2, height, width), -1, 1, generator)
    moved = (_smooth(noise, sigma, 3.0, mirror=True) * amount).permute(0, 2, 3, 1).double()
    grid = torch.stack(torch.meshgrid(torch.arange(width), torch.arange(height), indexing="xy"), -1)
    points = torch.cat([grid + moved, torch.ones(count, height, width, 1, dtype=torch.float64)], -1)
    source = torch.einsum("bhwi,bij->bhwj", points, back)
    scaled = 2 * source / torch.tensor([width - 1, height - 1]) - 1
    return F.grid_sample(x, scaled.to(x), mode="bilinear", padding_mode="reflection", align_corners=True)


def pixelate(x: Tensor, kept: float, generator: Generator) -> Tensor:
    """Shrink and enlarge by boxes."""
    height, width = x.shape[-2:]
    for size in ((int(height * kept), int(width * kept)), (height, width)):
        x = _boxes(x.shape[-2], size[0]).to(x) @ x @ _boxes(x.shape[-1], size[1]).to(x).T
    return x


def _boxes(before: int, after: int) -> Tensor:
    """What Pillow's box filter makes of a line, ``(after, before)``: the mean of the pixels whose centres lie in the box."""
    scale = before / after
    wide = max(1.0, scale)
    distance = (torch.arange(before) + 0.5 - (torch.arange(after)[:, None] + 0.5) * scale) / wide
    inside = ((distance > -0.5) & (distance <= 0.5)).float()
    return inside / inside.sum(dim=1, keepdim=True)


def jpeg_compression(x: Tensor, quality: int, generator: Generator) -> Tensor:
    """Encode and decode."""
    found = []
    for image in (x * 255).round().byte().cpu().permute(0, 2, 3, 1).numpy():
        file = io.BytesIO()
        Image.fromarray(image).save(file, "JPEG", quality=quality)
        found.append(np.asarray(Image.open(file)))
    return torch.from_numpy(np.stack(found)).permute(0, 3, 1, 2).to(x.device).float() / 255


_FUNCTIONS: dict[str, Callable[..., Tensor]] = {
    function.__name__: function
    for function in (
        *(
            gaussian_noise,
            shot_noise,
            impulse_noise,
            defocus_blur,
            glass_blur,
            motion_blur,
            zoom_blur,
            snow,
            frost,
            fog,
        ),
        *(brightness, contrast, elastic_transform, pixelate, jpeg_compression),
    )
}
