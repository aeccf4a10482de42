"""SimMIM's loss against a reference written from the paper, pixel by pixel, and its target against a loop over windows."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mimcore.errors import UserError
from mimcore.models import encoder as encoders
from mimcore.models.encoding import encode_hidden
from mimcore.models.patches import window_statistics
from mimcore.objectives.simmim import Config, Objective
from mimcore.training.optimizer import build_optimizer
from mimcore.training.schedule import Schedule

P = 4
HEIGHT, WIDTH = 16, 24
#: Units of 8 pixels, 2 x 3 of them.
SMALL: dict[str, Any] = {"mask_unit": 8}


def build(channels: int = 3, **options: Any) -> Objective:
    model = encoders.Config(
        architecture="vit_tiny_patch16_224",
        image_size=(HEIGHT, WIDTH),
        channels=channels,
        patch_size=P,
        embed_dim=24,
        depth=2,
        num_heads=3,
    )
    return Objective(encoders.build(model), Config(**SMALL | options))


def masks(batch: int, seed: int = 0) -> Tensor:
    return build().draw(batch, torch.Generator().manual_seed(seed))


def naive_statistics(channel: np.ndarray, y: int, x: int, window: int) -> tuple[float, float]:
    """Of the square around a pixel, as far as there is image: mean, and root of the unbiased variance plus 1e-6."""
    half = window // 2
    inside = channel[max(0, y - half) : y + half + 1, max(0, x - half) : x + half + 1].astype(np.float64)
    return float(inside.mean()), math.sqrt(float(inside.var(ddof=1)) + 1e-6)


def reference_loss(objective: Objective, images: Tensor, masked_units: list[list[int]]) -> float:
    """Sections 3.2 to 3.4 of Xie et al. 2022, image by image, with the prediction of timm's own parts put together by hand."""
    config, vit = objective.config, objective.encoder
    rows, columns, per_unit = HEIGHT // P, WIDTH // P, config.mask_unit // P
    total, count = 0.0, 0
    for image, masked in zip(images, masked_units, strict=True):
        hidden = {
            (unit // (WIDTH // config.mask_unit) * per_unit + r, unit % (WIDTH // config.mask_unit) * per_unit + c)
            for unit in masked
            for r in range(per_unit)
            for c in range(per_unit)
        }
        tokens = [vit.cls_token[0, 0] + vit.pos_embed[0, 0]]
        for r in range(rows):
            for c in range(columns):
                patch = image[:, r * P : (r + 1) * P, c * P : (c + 1) * P]
                kernel, bias = vit.patch_embed.proj.weight, vit.patch_embed.proj.bias
                seen = torch.stack([(k * patch).sum() for k in kernel]) + bias
                token = objective.mask_token if (r, c) in hidden else seen
                tokens.append(token + vit.pos_embed[0, 1 + r * columns + c])
        encoded = vit.norm(vit.blocks(torch.stack(tokens).unsqueeze(0)))[0, 1:]
        weight, bias = objective.decoder[0].weight[:, :, 0, 0], objective.decoder[0].bias
        for r, c in hidden:
            predicted = weight @ encoded[r * columns + c] + bias
            for channel in range(len(image)):
                for i in range(P):
                    for j in range(P):
                        y, x = r * P + i, c * P + j
                        target = float(image[channel, y, x])
                        if config.target_window:
                            mean, deviation = naive_statistics(image[channel].numpy(), y, x, config.target_window)
                            target = (target - mean) / deviation
                        error = abs(float(predicted[channel * P * P + i * P + j]) - target)
                        total += error if config.loss == "l1" else error**2
                        count += 1
    return total / count


@pytest.mark.parametrize(
    ("channels", "options"),
    [
        (3, {}),
        (3, {"loss": "l2"}),
        (3, {"target_window": 7}),
        (3, {"mask_unit": 4, "mask_ratio": 0.3}),
        (1, {"target_window": 47}),
    ],
)
@torch.no_grad()
def test_loss_equals_the_paper(channels: int, options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    objective = build(channels, **options)
    for parameter in objective.parameters():  # biases and mask token away from zero, so that each one counts
        parameter += 0.05 * torch.randn_like(parameter) if parameter.requires_grad else 0
    images = torch.randn(2, channels, HEIGHT, WIDTH)
    drawn = objective.draw(2, torch.Generator().manual_seed(1))
    units = (HEIGHT // objective.config.mask_unit) * (WIDTH // objective.config.mask_unit)
    masked = math.ceil(units * objective.config.mask_ratio)
    expected = reference_loss(objective, images, [row[-masked:] for row in drawn.tolist()])
    assert objective(images, drawn)["loss"].item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("window", [3, 7, 47])
def test_window_statistics_equal_a_loop(window: int) -> None:
    images = torch.randn(2, 3, 9, 13) * 2 + 1
    images[0, 0, :, :6] = -2.1  # a flat part, as of a background
    mean, deviation = window_statistics(images, window)
    for b, c, y, x in np.ndindex(*images.shape):
        expected, root = naive_statistics(images[b, c].numpy(), y, x, window)
        assert mean[b, c, y, x].item() == pytest.approx(expected, rel=1e-5, abs=1e-6)
        assert deviation[b, c, y, x].item() ** 2 == pytest.approx(root**2, rel=1e-5, abs=5e-6)


def test_the_default_masks_are_those_of_the_released_code() -> None:
    """192 pixels, units of 32, ratio 0.6: 22 of 36 units (``MaskGenerator`` of SimMIM), in every image and anew in each."""
    objective = Objective(encoders.build(encoders.Config(image_size=192, depth=1)), Config())
    images = torch.ones(4, 3, 192, 192)
    hidden, _ = objective.reconstruct(images, objective.draw(4, torch.Generator().manual_seed(0)))
    units = hidden[:, 0].unfold(1, 32, 32).unfold(2, 32, 32).flatten(3).flatten(1, 2)  # (B, 36, 1024)
    assert ((units == 0).all(2) | (units == 1).all(2)).all()
    assert (units[:, :, 0] == 0).sum(1).tolist() == [22] * 4
    assert len({tuple(row) for row in units[:, :, 0].tolist()}) == 4


def test_only_masked_pixels_count() -> None:
    """With a blind head no pixel changes the prediction, so that only the targets are compared."""
    objective, drawn = build(), masks(1)
    torch.nn.init.zeros_(objective.decoder[0].weight)
    images = torch.randn(1, 3, HEIGHT, WIDTH)
    row, column = divmod(int(drawn[0, 0]), 3)
    changed = images.clone()
    changed[:, :, row * 8 : row * 8 + 8, column * 8 : column * 8 + 8] += 1
    assert torch.equal(objective(images, drawn)["loss"], objective(changed, drawn)["loss"])
    row, column = divmod(int(drawn[0, -1]), 3)
    changed[:, :, row * 8 : row * 8 + 8, column * 8 : column * 8 + 8] += 1
    assert not torch.equal(objective(images, drawn)["loss"], objective(changed, drawn)["loss"])


def test_the_encoder_never_sees_what_is_masked() -> None:
    objective, drawn = build(), masks(2)
    images = torch.randn(2, 3, HEIGHT, WIDTH)
    hidden, filled = objective.reconstruct(images, drawn)
    others = torch.where(hidden == 0, torch.randn_like(images), images)
    again = objective.reconstruct(others, drawn)[1]
    assert torch.equal(again, filled)


def test_with_nothing_hidden_the_encoder_is_timms() -> None:
    objective = build()
    images = torch.randn(2, 3, HEIGHT, WIDTH)
    none = torch.zeros(2, HEIGHT // P, WIDTH // P, dtype=torch.bool)
    encoded = encode_hidden(objective.encoder, images, none, objective.mask_token)
    torch.testing.assert_close(encoded, objective.encoder.forward_features(images))


def test_parts_of_a_batch_have_the_mean_of_the_whole() -> None:
    objective, drawn = build(target_window=5), masks(5)
    images = torch.randn(5, 3, HEIGHT, WIDTH)
    whole = objective(images, drawn)["loss"]
    parts = [objective(images[part], drawn[part])["loss"] * len(drawn[part]) for part in (slice(0, 2), slice(2, 5))]
    assert sum(parts).item() / 5 == pytest.approx(whole.item(), rel=1e-6)


@pytest.mark.parametrize("window", [None, 5])
def test_reconstruction_keeps_what_was_seen(window: int | None) -> None:
    objective, drawn = build(target_window=window), masks(2)
    images = torch.randn(2, 3, HEIGHT, WIDTH)
    hidden, filled = objective.reconstruct(images, drawn)
    seen = hidden != 0
    assert seen.float().mean() == pytest.approx(2 / 6)  # ceil(6 * 0.6) = 4 are hidden
    assert torch.equal(filled[seen], images[seen])
    assert not torch.allclose(filled, images)


def test_a_right_prediction_of_normalised_targets_reconstructs_the_image() -> None:
    """A head that says 0 everywhere predicts each pixel to be its window's mean."""
    objective, drawn = build(target_window=5), masks(1)
    torch.nn.init.zeros_(objective.decoder[0].weight)
    torch.nn.init.zeros_(objective.decoder[0].bias)
    images = torch.randn(1, 3, HEIGHT, WIDTH)
    hidden, filled = objective.reconstruct(images, drawn)
    for _, c, y, x in (hidden == 0).nonzero().tolist():
        assert filled[0, c, y, x].item() == pytest.approx(naive_statistics(images[0, c].numpy(), y, x, 5)[0], abs=1e-5)


@pytest.mark.parametrize("options", [{}, {"target_window": 7, "loss": "l2"}])
def test_a_few_steps_lower_the_loss_and_reach_every_weight(options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    objective = build(**options)
    ramp = torch.linspace(-1, 1, WIDTH) + torch.linspace(-1, 1, HEIGHT).unsqueeze(1)
    images = ramp * torch.tensor([1.0, -1.0, 0.5]).view(1, 3, 1, 1) * torch.linspace(0.5, 1.5, 8).view(8, 1, 1, 1)
    optimizer = torch.optim.AdamW(objective.parameters(), lr=3e-3)
    losses = []
    for step in range(40):
        loss = objective(images, masks(8, step))["loss"]
        loss.backward()
        if not step:
            assert [n for n, p in objective.named_parameters() if p.requires_grad and p.grad is None] == []
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert sum(losses[-5:]) < 0.6 * sum(losses[:5])


@pytest.mark.parametrize("architecture", ["beit_base_patch16_224", "swin_tiny_patch4_window7_224"])
def test_what_is_decayed_is_the_released_codes_choice(architecture: str) -> None:
    """optimizer.py:53-62: no vectors, no biases, and neither class token nor mask token; tables of positions are decayed, since
    its keywords (models/simmim.py:130-133) begin with ``encoder.`` and are found in no name."""
    swin = architecture.startswith("swin")
    shape: dict[str, Any] = {"image_size": 64, "window_size": 4} if swin else {"image_size": 32, "depth": 1}
    model = encoders.Config(architecture=architecture, embed_dim=24, num_heads=(1, 2, 4, 8) if swin else 3, **shape)
    objective = Objective(encoders.build(model), Config(mask_unit=32 if swin else 16))
    optimizer = build_optimizer(objective, Schedule(images_seen=8, batch_size=1, warmup_images=0))
    decayed = {id(p) for group in optimizer.param_groups if group["weight_decay"] for p in group["params"]}
    for name, parameter in objective.named_parameters():
        expected = parameter.ndim > 1 and not name.endswith(".bias") and name not in ("mask_token", "encoder.cls_token")
        assert (id(parameter) in decayed) == expected, name
    assert any(name.endswith("bias_table") and id(p) in decayed for name, p in objective.named_parameters())


def test_the_mask_token_is_not_decayed() -> None:
    """``no_weight_decay`` of the released code names it."""
    objective = build()
    groups = build_optimizer(objective, Schedule(images_seen=640, batch_size=16, warmup_images=0)).param_groups
    (of_token,) = [group for group in groups if any(p is objective.mask_token for p in group["params"])]
    assert of_token["weight_decay"] == 0
    (of_head,) = [group for group in groups if any(p is objective.decoder[0].weight for p in group["params"])]
    assert of_head["weight_decay"] > 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"mask_unit": 6}, "multiple of the model's patch_size 4"),
        ({"mask_unit": 12}, "divide its image_size 16x24"),
        ({"mask_ratio": 0.9}, "0 of the 6 units"),
    ],
)
def test_masks_that_do_not_fit_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        build(**options)


def test_an_even_window_is_refused() -> None:
    with pytest.raises(ValueError, match="must be odd"):
        Config(target_window=8)


SWIN: dict[str, Any] = {
    "image_size": 64,
    "window_size": 4,
    "embed_dim": 16,
    "depths": (1, 1, 2, 1),
    "num_heads": (1, 2, 2, 4),
}
BEIT: dict[str, Any] = {"image_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 3}


@pytest.mark.parametrize(
    ("architecture", "options"),
    [
        ("swinv2_base_window12_192", SWIN),
        ("swin_base_patch4_window7_224", SWIN),
        ("beit_base_patch16_224", BEIT | {"positions": "relative_shared", "init_values": 0.1}),
        ("beit_base_patch16_224", BEIT | {"positions": "relative"}),
        ("vit_tiny_patch16_224", BEIT | {"positions": "learned"}),
    ],
)
@pytest.mark.parametrize("channels", [1, 3])
def test_every_encoder_is_timms_with_mask_tokens_for_patches(
    architecture: str, options: dict[str, Any], channels: int
) -> None:
    """timm's own forward pass, what comes out of its patch embedding changed on the way; the loss pixel by pixel."""
    encoder = encoders.build(encoders.Config(architecture=architecture, channels=channels, **options))
    objective = Objective(encoder, Config(mask_unit=16))
    for parameter in objective.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    side, patch, stride = int(options["image_size"]), encoder.patch_size, encoder.stride
    images, units = torch.randn(2, channels, side, side), side // 16
    drawn = objective.draw(2, torch.Generator().manual_seed(0))
    masked = [set(order[units**2 - math.ceil(units**2 * 0.6) :]) for order in drawn.tolist()]

    def hidden(image: int, row: int, column: int) -> bool:
        return row // 16 * units + column // 16 in masked[image]

    def replace(_: Any, __: Any, tokens: Tensor) -> Tensor:
        grid = tokens.clone().reshape(2, side // patch, side // patch, -1)
        for b in range(2):
            for r in range(side // patch):
                for c in range(side // patch):
                    if hidden(b, r * patch, c * patch):
                        grid[b, r, c] = objective.mask_token
        return grid.reshape(tokens.shape)

    with torch.no_grad():
        found = objective(images, drawn)["loss"]
        handle = encoder.module.patch_embed.register_forward_hook(replace)
        features = encoder.module.forward_features(images)
        handle.remove()
    if features.ndim == 3:
        features = features[:, 1:].reshape(2, side // stride, side // stride, -1)
    kernel, bias = objective.decoder[0].weight[:, :, 0, 0], objective.decoder[0].bias
    total, count = 0.0, 0
    for b in range(2):
        for y in range(side):
            for x in range(side):
                if hidden(b, y, x):
                    values = kernel @ features[b, y // stride, x // stride] + bias
                    values = values.reshape(channels, stride, stride)[:, y % stride, x % stride]
                    total += float((values - images[b, :, y, x]).abs().detach().sum())
                    count += channels
    assert found.item() == pytest.approx(total / count, rel=1e-5)


def test_a_swin_needs_whole_last_tokens() -> None:
    encoder = encoders.build(encoders.Config(architecture="swinv2_base_window12_192", **SWIN | {"image_size": 48}))
    with pytest.raises(UserError, match="48x48 is not a multiple of 32 pixels"):
        Objective(encoder, Config(mask_unit=16))
