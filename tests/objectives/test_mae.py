"""MAE's loss against a reference written from the paper's equations, in float64, without our building blocks."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from mimcore.errors import UserError
from mimcore.models import encoder as encoders
from mimcore.objectives.mae import Config, Objective

ENCODER = encoders.Config(
    architecture="vit_tiny_patch16_224", image_size=16, patch_size=4, embed_dim=24, depth=2, num_heads=3
)


def layer_norm(x: Tensor, weights: dict[str, Tensor], name: str) -> Tensor:
    centered = x - x.mean(-1, keepdim=True)
    scaled = centered / (centered.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt()
    return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def linear(x: Tensor, weights: dict[str, Tensor], name: str) -> Tensor:
    return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]


def block(x: Tensor, weights: dict[str, Tensor], name: str, heads: int) -> Tensor:
    """Pre-norm transformer block (Vaswani et al. 2017; Dosovitskiy et al. 2021, equations 2 and 3), one image (T, D)."""
    width = x.shape[1]
    q, k, v = linear(layer_norm(x, weights, f"{name}.norm1"), weights, f"{name}.attn.qkv").split(width, dim=1)
    heads_out = []
    for h in range(heads):
        part = slice(h * width // heads, (h + 1) * width // heads)
        scores = q[:, part] @ k[:, part].T / math.sqrt(width // heads)
        heads_out.append(torch.softmax(scores, dim=1) @ v[:, part])
    x = x + linear(torch.cat(heads_out, dim=1), weights, f"{name}.attn.proj")
    hidden = linear(layer_norm(x, weights, f"{name}.norm2"), weights, f"{name}.mlp.fc1")
    hidden = hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2)))
    return x + linear(hidden, weights, f"{name}.mlp.fc2")


def position(width: int, row: int, column: int) -> Tensor:
    quarter = width // 4
    values = []
    for coordinate in (column, row):
        values += [math.sin(coordinate / 10000 ** (i / quarter)) for i in range(quarter)]
        values += [math.cos(coordinate / 10000 ** (i / quarter)) for i in range(quarter)]
    return torch.tensor(values, dtype=torch.float64)


def window_target(image: Tensor, window: int) -> Tensor:
    """Each pixel by the mean and unbiased variance of the square around it, as far as it lies in the image."""
    found, half = torch.empty_like(image), window // 2
    for c in range(image.shape[0]):
        for y in range(image.shape[1]):
            for x in range(image.shape[2]):
                square = image[c, max(0, y - half) : y + half + 1, max(0, x - half) : x + half + 1]
                found[c, y, x] = (image[c, y, x] - square.mean()) / (square.var(unbiased=True) + 1e-6).sqrt()
    return found


def cut(image: Tensor, p: int = 4, grid: int = 4) -> list[Tensor]:
    return [
        image[:, r * p : (r + 1) * p, c * p : (c + 1) * p].permute(1, 2, 0).reshape(-1)
        for r in range(grid)
        for c in range(grid)
    ]


def reference_loss(objective: Objective, images: Tensor, orders: list[list[int]], kept: int, predicted: int) -> float:
    """Section 3 of He et al. 2022, patch by patch: encode the kept, put mask tokens in place, decode, compare.

    ``orders`` holds the patches of each image: the kept, those that are predicted, the rest.
    """
    weights = {name: tensor.double() for name, tensor in objective.state_dict().items()}
    config, grid = objective.config, 4
    errors = []
    for image, sequence in zip(images.double(), orders, strict=True):
        patches = cut(image)
        kernel = weights["encoder.patch_embed.proj.weight"].permute(0, 2, 3, 1).flatten(1)
        tokens = [weights["encoder.cls_token"][0, 0]]
        seen = sequence if config.encoder_mask_tokens else sequence[:kept]
        for n in seen:
            embedded = kernel @ patches[n] + weights["encoder.patch_embed.proj.bias"]
            if n not in sequence[:kept]:
                embedded = weights["mask_token"]
            tokens.append(embedded + position(24, n // grid, n % grid))
        x = torch.stack(tokens)
        for i in range(2):
            x = block(x, weights, f"encoder.blocks.{i}", 3)
        x = linear(layer_norm(x, weights, "encoder.norm"), weights, "decoder.embed")
        width = config.decoder_embed_dim
        of_patch = {n: x[1 + k] for k, n in enumerate(seen)}
        shown = sequence[: kept + predicted]
        full = [of_patch[n] if n in of_patch else weights["decoder.mask_token"][0, 0] for n in shown]
        y = torch.stack([x[0], *(t + position(width, n // grid, n % grid) for t, n in zip(full, shown, strict=True))])
        for i in range(config.decoder_depth):
            y = block(y, weights, f"decoder.blocks.{i}", config.decoder_num_heads)
        y = linear(layer_norm(y, weights, "decoder.norm"), weights, "decoder.predict")
        targets = cut(window_target(image, config.target_window)) if config.target_window else patches
        for k, n in enumerate(shown):
            target = targets[n]
            if config.norm_pix_loss:
                target = (target - target.mean()) / (target.var(unbiased=True) + 1e-6).sqrt()
            difference = y[1 + k] - target
            if k >= kept:
                errors.append((difference.abs() if config.loss == "l1" else difference.pow(2)).mean())
    return float(torch.stack(errors).mean())


DECODER: dict[str, Any] = {"decoder_embed_dim": 16, "decoder_depth": 2, "decoder_num_heads": 2}


@pytest.mark.parametrize(
    ("options", "kept", "predicted"),
    [
        ({}, 4, 12),
        ({"norm_pix_loss": False}, 4, 12),
        ({"loss": "l1", "mask_ratio": 0.5}, 8, 8),
        ({"norm_pix_loss": False, "target_window": 5}, 4, 12),
        ({"prediction_ratio": 0.25}, 4, 4),
        ({"encoder_mask_tokens": True}, 4, 12),
        ({"encoder_mask_tokens": True, "prediction_ratio": 0.5}, 4, 8),
        ({"mask_unit": 8}, 4, 12),
        ({"mask_unit": 8, "prediction_ratio": 0.25}, 4, 4),
        ({"masking": "block"}, 4, 12),
        ({"masking": "grid"}, 4, 12),
    ],
)
def test_loss_equals_the_paper(options: dict[str, Any], kept: int, predicted: int) -> None:
    objective = Objective(encoders.build(ENCODER), Config(**DECODER | options))
    for parameter in objective.parameters():  # biases and mask token away from zero, so that each one counts
        parameter.data += 0.05 * torch.randn_like(parameter) if parameter.requires_grad else 0
    images = torch.randn(3, 3, 16, 16)
    drawn = objective.draw(3, torch.Generator().manual_seed(1))
    orders = drawn.tolist()
    if "mask_unit" in options:  # four units of 2 x 2 patches: patches 0, 1, 4, 5 are the first
        of_unit = [[r * 4 + c, r * 4 + c + 1, r * 4 + c + 4, r * 4 + c + 5] for r in (0, 2) for c in (0, 2)]
        orders = [[n for unit in order for n in of_unit[unit]] for order in orders]
    loss = objective(images, drawn)["loss"]
    assert loss.item() == pytest.approx(reference_loss(objective, images, orders, kept, predicted), rel=1e-5)


def test_masks_are_the_first_draw_of_their_generator() -> None:
    """As He et al.'s code: the order of uniform noise. What was drawn before stays what it was."""
    objective = Objective(encoders.build(ENCODER), Config(**DECODER))
    noise = torch.rand(5, 16, generator=torch.Generator().manual_seed(7))
    assert torch.equal(objective.draw(5, torch.Generator().manual_seed(7)), noise.argsort(1))


@pytest.mark.parametrize("options", [{"encoder_mask_tokens": True}, {"prediction_ratio": 0.25}, {"target_window": 7}])
def test_every_weight_has_a_gradient(options: dict[str, Any]) -> None:
    objective = Objective(encoders.build(ENCODER), Config(**DECODER | {"norm_pix_loss": False} | options))
    objective(torch.randn(3, 3, 16, 16), objective.draw(3, torch.Generator()))["loss"].backward()
    silent = [n for n, p in objective.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
    assert silent == []


def test_what_is_not_predicted_stays_blank() -> None:
    config = Config(**DECODER | {"prediction_ratio": 0.25, "norm_pix_loss": False, "target_window": 5})
    objective = Objective(encoders.build(ENCODER), config)
    images = torch.randn(2, 3, 16, 16)
    hidden, filled = objective.reconstruct(images, objective.draw(2, torch.Generator().manual_seed(0)))
    assert (hidden != 0).float().mean() == pytest.approx(0.25)
    assert (filled != 0).float().mean() == pytest.approx(0.5)
    assert torch.equal(filled[hidden != 0], images[hidden != 0])


def test_encoders_that_need_every_patch_are_refused() -> None:
    beit = encoders.Config(
        architecture="beit_base_patch16_224", image_size=16, patch_size=4, embed_dim=24, depth=1, num_heads=3
    )
    with pytest.raises(UserError, match="take a plain vision transformer"):
        Objective(encoders.build(beit), Config(**DECODER))
    assert Objective(encoders.build(beit), Config(**DECODER, encoder_mask_tokens=True)).kept == 4


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"target_window": 5}, "standardise the target twice"),
        ({"target_window": 4, "norm_pix_loss": False}, "must be odd"),
        ({"prediction_ratio": 0.8}, "more than mask_ratio 0.75"),
        ({"masking": "grid", "mask_ratio": 0.6}, "not one of a grid"),
        ({"decoder_num_heads": 3}, "does not divide decoder_embed_dim"),
    ],
)
def test_impossible_options_are_refused(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Config(**DECODER | wrong)


def test_only_hidden_patches_count() -> None:
    """Pixels of a kept patch change the prediction, never the target: with a blind decoder they change nothing."""
    objective = Objective(
        encoders.build(ENCODER), Config(norm_pix_loss=False, decoder_embed_dim=16, decoder_depth=1, decoder_num_heads=2)
    )
    torch.nn.init.zeros_(objective.decoder.predict.weight)
    generator = torch.Generator().manual_seed(3)
    order = torch.rand(1, 16, generator=generator).argsort(1)[0]
    images = torch.randn(1, 3, 16, 16)
    changed = images.clone()
    row, column = divmod(int(order[0]), 4)
    changed[:, :, row * 4 : row * 4 + 4, column * 4 : column * 4 + 4] += 1
    first = objective(images, objective.draw(1, generator.manual_seed(3)))["loss"]
    assert torch.equal(first, objective(changed, objective.draw(1, generator.manual_seed(3)))["loss"])
    row, column = divmod(int(order[-1]), 4)
    changed[:, :, row * 4 : row * 4 + 4, column * 4 : column * 4 + 4] += 1
    assert not torch.equal(first, objective(changed, objective.draw(1, generator.manual_seed(3)))["loss"])


def test_reconstruction_keeps_what_was_seen() -> None:
    objective = Objective(encoders.build(ENCODER), Config(decoder_embed_dim=16, decoder_depth=1, decoder_num_heads=2))
    images = torch.randn(2, 3, 16, 16)
    hidden, filled = objective.reconstruct(images, objective.draw(2, torch.Generator().manual_seed(0)))
    seen = hidden != 0
    assert seen.float().mean() == pytest.approx(0.25)
    assert torch.equal(filled[seen], images[seen])
    assert not torch.allclose(filled, images)


def test_same_seed_same_loss() -> None:
    objective = Objective(encoders.build(ENCODER), Config(decoder_embed_dim=16, decoder_depth=1, decoder_num_heads=2))
    images = torch.randn(2, 3, 16, 16)
    losses = [objective(images, objective.draw(2, torch.Generator().manual_seed(seed)))["loss"] for seed in (5, 5, 6)]
    assert losses[0] == losses[1] != losses[2]


def test_parts_of_a_batch_have_the_mean_of_the_whole() -> None:
    """The masks are drawn for the whole batch; a part takes its rows, and weighs by its images."""
    objective = Objective(encoders.build(ENCODER), Config(decoder_embed_dim=16, decoder_depth=1, decoder_num_heads=2))
    images, drawn = torch.randn(5, 3, 16, 16), objective.draw(5, torch.Generator().manual_seed(0))
    whole = objective(images, drawn)["loss"]
    parts = [objective(images[part], drawn[part])["loss"] * len(drawn[part]) for part in (slice(0, 2), slice(2, 5))]
    assert sum(parts).item() / 5 == pytest.approx(whole.item(), rel=1e-6)
