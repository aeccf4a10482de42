"""MAE's loss against a reference written from the paper's equations, in float64, without our building blocks."""

import math

import pytest
import torch
from torch import Tensor

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


def reference_loss(objective: Objective, images: Tensor, order: Tensor, kept: int, normalize: bool) -> float:
    """Section 3 of He et al. 2022, patch by patch: encode the kept, put mask tokens in place, decode, compare."""
    weights = {name: tensor.double() for name, tensor in objective.state_dict().items()}
    p, grid, depth, decoder_depth = 4, 4, 2, objective.config.decoder_depth
    decoder_width = objective.config.decoder_embed_dim
    errors = []
    for image, sequence in zip(images.double(), order.tolist(), strict=True):
        patches = [
            image[:, r * p : (r + 1) * p, c * p : (c + 1) * p].permute(1, 2, 0).reshape(-1)
            for r in range(grid)
            for c in range(grid)
        ]
        kernel = weights["encoder.patch_embed.proj.weight"].permute(0, 2, 3, 1).flatten(1)
        tokens = [weights["encoder.cls_token"][0, 0]]
        for n in sequence[:kept]:
            embedded = kernel @ patches[n] + weights["encoder.patch_embed.proj.bias"]
            tokens.append(embedded + position(24, n // grid, n % grid))
        x = torch.stack(tokens)
        for i in range(depth):
            x = block(x, weights, f"encoder.blocks.{i}", 3)
        x = linear(layer_norm(x, weights, "encoder.norm"), weights, "decoder.embed")
        full = [
            weights["decoder.mask_token"][0, 0] + position(decoder_width, n // grid, n % grid) for n in range(grid**2)
        ]
        for k, n in enumerate(sequence[:kept]):
            full[n] = x[1 + k] + position(decoder_width, n // grid, n % grid)
        y = torch.stack([x[0], *full])
        for i in range(decoder_depth):
            y = block(y, weights, f"decoder.blocks.{i}", objective.config.decoder_num_heads)
        y = linear(layer_norm(y, weights, "decoder.norm"), weights, "decoder.predict")
        for n in sequence[kept:]:
            target = patches[n]
            if normalize:
                target = (target - target.mean()) / (target.var(unbiased=True) + 1e-6).sqrt()
            errors.append((y[1 + n] - target).pow(2).mean())
    return float(torch.stack(errors).mean())


@pytest.mark.parametrize("normalize", [True, False])
def test_loss_equals_the_paper(normalize: bool) -> None:
    config = Config(norm_pix_loss=normalize, decoder_embed_dim=16, decoder_depth=2, decoder_num_heads=2)
    objective = Objective(encoders.build(ENCODER), config)
    for parameter in objective.parameters():  # biases and mask token away from zero, so that each one counts
        parameter.data += 0.05 * torch.randn_like(parameter) if parameter.requires_grad else 0
    images = torch.randn(3, 3, 16, 16)
    generator = torch.Generator().manual_seed(1)
    order = torch.rand(3, 16, generator=generator).argsort(1)
    loss = objective(images, objective.draw(3, generator.manual_seed(1)))["loss"]
    assert loss.item() == pytest.approx(reference_loss(objective, images, order, 4, normalize), rel=1e-5)


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
