"""Masked feature prediction: which targets are compared with what, in both styles and all families of encoders."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from mimcore.errors import UserError
from mimcore.models import encoder as encoders
from mimcore.models.encoding import encode_hidden
from mimcore.models.objective import Drawn
from mimcore.models.patches import normalize_patches, patchify
from mimcore.objectives.feature import Config, Objective
from mimcore.objectives.mae import Config as MaeConfig
from mimcore.objectives.mae import Objective as Mae
from mimcore.training.optimizer import build_optimizer
from mimcore.training.schedule import Schedule

HEIGHT, WIDTH, P = 16, 24, 4
VIT: dict[str, Any] = {
    "architecture": "vit_tiny_patch16_224",
    "image_size": (HEIGHT, WIDTH),
    "patch_size": P,
    "embed_dim": 24,
    "depth": 3,
    "num_heads": 3,
}
SWIN: dict[str, Any] = {
    "architecture": "swinv2_base_window12_192",
    "image_size": 64,
    "window_size": 4,
    "embed_dim": 16,
    "depths": (1, 1, 2, 1),
    "num_heads": (1, 2, 2, 4),
}
BEIT: dict[str, Any] = VIT | {"architecture": "beit_base_patch16_224", "image_size": 16}
DECODER: dict[str, Any] = {"decoder_embed_dim": 16, "decoder_depth": 1, "decoder_num_heads": 2}
AVERAGE: dict[str, Any] = {"kind": "average", "layers": 2}


def build(model: dict[str, Any] = VIT, **options: Any) -> Objective:
    torch.manual_seed(0)
    config = Config.model_validate({"teacher": {"kind": "pixels"}} | DECODER | options)
    objective = Objective(encoders.build(encoders.Config(**model)), config)
    objective.started()
    return objective.train()


def drawn_for(objective: Objective, batch: int, seed: int = 0) -> Tensor:
    return objective.draw(batch, torch.Generator().manual_seed(seed))


def hidden_places(objective: Objective, drawn: Tensor, cell: int, columns: int) -> list[list[int]]:
    """The cells of so many pixels that lie in hidden units, image by image, by looking at each cell."""
    unit = objective.config.mask_unit or objective.patch_size
    per_row = columns * cell // unit
    found = []
    for order in drawn.tolist():
        hidden = set(order[objective.masks.kept :])
        rows = len(order) * unit**2 // (columns * cell) // cell
        places = [(r, c) for r in range(rows) for c in range(columns)]
        found.append([r * columns + c for r, c in places if r * cell // unit * per_row + c * cell // unit in hidden])
    return found


@pytest.mark.parametrize("teacher", [{"kind": "pixels"}, {"kind": "hog", "cell": 4}, AVERAGE])
@pytest.mark.parametrize("loss", ["cosine", "smooth_l1", "l1", "l2"])
@pytest.mark.parametrize("style", ["mae", "simmim"])
def test_the_loss_is_zero_where_the_prediction_is_the_target(
    teacher: dict[str, Any], loss: str, style: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    objective = build(teacher=teacher, loss=loss, style=style, target_normalization="layer")
    images, drawn = torch.randn(2, 3, HEIGHT, WIDTH), drawn_for(build(), 2)
    target = functional.layer_norm(objective.teacher(images), [objective.teacher.width])
    places = [order[objective.kept :] for order in drawn.tolist()]  # units are patches here
    right = torch.stack([image[at] for image, at in zip(target, places, strict=True)])
    monkeypatch.setattr(objective, "_predict", lambda *_: right)
    assert objective(images, drawn)["loss"].item() == pytest.approx(0, abs=1e-6)
    wrong = right + torch.linspace(-1, 1, right.shape[-1])
    monkeypatch.setattr(objective, "_predict", lambda *_: wrong)
    offset = wrong - right
    expected = {
        "cosine": 1 - ((wrong * right).sum(-1) / wrong.norm(dim=-1) / right.norm(dim=-1)).mean(),
        "smooth_l1": (offset.square() / 4).mean(),  # below beta = 2
        "l1": offset.abs().mean(),
        "l2": offset.square().mean(),
    }
    assert objective(images, drawn)["loss"].item() == pytest.approx(expected[loss].item(), rel=1e-4)


def test_pixels_in_the_style_of_mae_are_mae() -> None:
    """The same initial weights, masks and loss as the objective ``mae``, which is tested against the paper."""
    feature = build(loss="l2", target_normalization="patch")
    mae = Mae(encoders.build(encoders.Config(**VIT)), MaeConfig(**DECODER))
    mae.load_state_dict(feature.state_dict(), strict=True)
    images, drawn = torch.randn(3, 3, HEIGHT, WIDTH), drawn_for(feature, 3)
    assert feature(images, drawn)["loss"].item() == pytest.approx(mae(images, drawn)["loss"].item(), rel=1e-6)


@pytest.mark.parametrize(
    ("model", "unit"), [(VIT, 4), (VIT, 8), (BEIT, 8), (SWIN, 32), (SWIN | {"image_size": 128}, 64)]
)
@torch.no_grad()
def test_mask_tokens_and_targets_are_of_the_same_places(model: dict[str, Any], unit: int) -> None:
    objective = build(model, style="simmim", mask_unit=unit, mask_ratio=0.5, loss="l2", target_normalization="patch")
    encoder, cell = objective.encoder, objective.teacher.patch  # type: ignore[union-attr]
    assert cell == (32 if model["architecture"] == SWIN["architecture"] else P)
    height, width = encoders.sides(model["image_size"])
    images, drawn = torch.randn(2, 3, height, width), drawn_for(objective, 2)
    grid = torch.zeros(2, height // objective.patch_size, width // objective.patch_size, dtype=torch.bool)
    per_row = width // objective.patch_size
    for image, places in enumerate(hidden_places(objective, drawn, objective.patch_size, per_row)):
        for place in places:
            grid[image, place // per_row, place % per_row] = True
    tokens = encode_hidden(encoder, images, grid, objective.mask_token)
    tokens = tokens[:, tokens.shape[1] - (height // cell) * (width // cell) :]
    target = normalize_patches(patchify(images, cell))
    places = hidden_places(objective, drawn, cell, width // cell)
    assert {len(at) for at in places} == {math.ceil(len(drawn[0]) * 0.5) * (unit // cell) ** 2}
    errors = [(objective.decoder(tokens[b, at]) - target[b, at]).square().mean() for b, at in enumerate(places)]
    assert objective(images, drawn)["loss"].item() == pytest.approx(float(sum(errors)) / 2, rel=1e-5)


@pytest.mark.parametrize("style", ["mae", "simmim"])
def test_the_encoder_never_sees_what_is_hidden_and_an_average_sees_it_all(style: str) -> None:
    objective = build(style=style, teacher=AVERAGE)
    images, drawn = torch.randn(1, 3, HEIGHT, WIDTH), drawn_for(objective, 1)
    order = objective.tokens.patches(drawn)
    patches = patchify(images, P)
    patches[0, order[0, -1]] += 1
    changed = patchify(patches, P, inverse=(HEIGHT, WIDTH))
    assert torch.equal(objective._predict(images, drawn, order), objective._predict(changed, drawn, order))
    assert (objective.target(images) != objective.target(changed)).any(-1).all()


def test_an_average_is_the_mean_of_the_last_blocks_and_follows_the_encoder() -> None:
    """data2vec, section 3.3, with the decay of each step by its formula and the recursion in float64."""
    options = AVERAGE | {"decay_start": 0.5, "decay_end": 0.9, "decay_steps": 4}
    objective = build(teacher=options)
    images = torch.randn(2, 3, HEIGHT, WIDTH)
    with torch.no_grad():
        blocks: list[Tensor] = []
        handles = [b.register_forward_hook(lambda _, __, out: blocks.append(out)) for b in objective.encoder.blocks]
        objective.encoder.forward_features(images)
        for handle in handles:
            handle.remove()
        wanted = sum(functional.layer_norm(block[:, 1:], [24]) for block in blocks[-2:]) / 2
    torch.testing.assert_close(objective.target(images), wanted)
    weight = objective.encoder.blocks[0].attn.qkv.weight
    average = weight.detach().double()
    for step in range(1, 7):
        with torch.no_grad():
            weight += torch.randn_like(weight)
        objective.after_step(step, 6)
        decay = 0.5 + 0.4 * min(step, 4) / 4
        average = decay * average + (1 - decay) * weight.detach().double()
    found = objective.state_dict()["teacher.module.blocks.0.attn.qkv.weight"]
    torch.testing.assert_close(found.double(), average, atol=1e-5, rtol=1e-5)


def test_an_average_is_state_and_neither_trained_nor_in_training_mode() -> None:
    objective = build(VIT | {"drop_path_rate": 0.5}, teacher=AVERAGE, style="simmim")
    of_teacher = [name for name in objective.state_dict() if name.startswith("teacher.")]
    assert len(of_teacher) == len(objective.encoder.state_dict())
    images, drawn = torch.randn(2, 3, HEIGHT, WIDTH), drawn_for(objective, 2)
    assert torch.equal(objective.target(images), objective.target(images))
    objective(images, drawn)["loss"].backward()
    assert all(p.grad is None for p in objective.teacher.parameters())
    schedule = Schedule(images_seen=640, batch_size=16, warmup_images=0)
    trained = {id(p) for group in build_optimizer(objective, schedule).param_groups for p in group["params"]}
    assert trained.isdisjoint({id(p) for p in objective.teacher.parameters()})
    assert id(objective.mask_token) in trained


@pytest.mark.parametrize("teacher", [{"kind": "hog", "cell": 4}, AVERAGE | {"layer_normalization": "instance"}])
@pytest.mark.parametrize("style", ["mae", "simmim"])
def test_parts_of_a_batch_have_the_mean_of_the_whole(teacher: dict[str, Any], style: str) -> None:
    objective = build(teacher=teacher, style=style)
    assert objective.whole_batch is False
    images, drawn = torch.randn(5, 3, HEIGHT, WIDTH), drawn_for(objective, 5)
    whole = objective(images, drawn)["loss"]
    parts = [objective(images[part], drawn[part])["loss"] * len(drawn[part]) for part in (slice(0, 2), slice(2, 5))]
    assert sum(parts).item() / 5 == pytest.approx(whole.item(), rel=1e-5)


@pytest.mark.parametrize(
    "options", [{"target_normalization": "batch"}, {"teacher": AVERAGE | {"layer_normalization": "batch"}}]
)
def test_targets_over_the_batch_need_it_whole(options: dict[str, Any]) -> None:
    assert build(**options).whole_batch is True


@pytest.mark.parametrize("model", [VIT, BEIT, SWIN])
@pytest.mark.parametrize("teacher", [{"kind": "hog", "cell": 4}, AVERAGE | {"layers": 1}, {"kind": "pixels"}])
def test_a_few_steps_lower_the_loss_and_reach_every_weight(model: dict[str, Any], teacher: dict[str, Any]) -> None:
    style, unit = ("mae", None) if model is VIT else ("simmim", 32 if model is SWIN else None)
    objective = build(model, teacher=teacher, style=style, mask_unit=unit, mask_ratio=0.5, loss="smooth_l1")
    height, width = encoders.sides(model["image_size"])
    images = (torch.arange(width) // 3 % 2 - torch.arange(height).unsqueeze(1) // 5 % 2).float().expand(8, 3, -1, -1)
    images = images * torch.linspace(0.5, 1.5, 8).view(8, 1, 1, 1)
    optimizer = torch.optim.AdamW([p for p in objective.parameters() if p.requires_grad], lr=3e-3)
    losses = []
    for step in range(20):
        loss = objective(images, drawn_for(objective, 8, step))["loss"]
        loss.backward()
        if not step:
            unreached = [n for n, p in objective.named_parameters() if p.requires_grad and p.grad is None]
            assert unreached == []
        optimizer.step()
        optimizer.zero_grad()
        objective.after_step(step + 1, 20)
        losses.append(loss.item())
    assert sum(losses[-4:]) < 0.8 * sum(losses[:4])


def test_autocast_gives_targets_and_losses_in_float32() -> None:
    objective = build(teacher=AVERAGE)
    images, drawn = torch.randn(2, 3, HEIGHT, WIDTH), drawn_for(objective, 2)
    exact = objective(images, drawn)["loss"]
    with torch.autocast("cpu", torch.bfloat16):
        loss, target = objective(images, drawn)["loss"], objective.target(images)
    assert loss.dtype == target.dtype == torch.float32
    assert not torch.equal(target, objective.target(images))  # products are in bfloat16, as the student's
    assert loss.item() == pytest.approx(exact.item(), rel=0.02)


@pytest.mark.parametrize("loss", ["cosine", "l2"])
@torch.no_grad()
def test_the_picture_shows_targets_and_predictions_in_the_same_colours(
    loss: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    objective = build(teacher=AVERAGE, loss=loss)
    images, drawn = torch.randn(4, 3, HEIGHT, WIDTH), drawn_for(objective, 4)
    order, target = objective.tokens.patches(drawn), objective.target(images)

    def right(*_: Any) -> Drawn:
        hidden = order[:, objective.kept :].unsqueeze(-1).expand(-1, -1, target.shape[-1])
        return target.gather(1, hidden) * (3 if loss == "cosine" else 1)

    monkeypatch.setattr(objective, "_predict", right)
    shown, filled = objective.reconstruct(images, drawn)
    std, mean = (torch.tensor(v).view(3, 1, 1) for v in (encoders.IMAGENET_STD, encoders.IMAGENET_MEAN))
    shown, filled = shown * std + mean, filled * std + mean
    assert shown.shape == filled.shape == images.shape
    assert shown.min() >= -1e-5
    assert shown.max() <= 1 + 1e-5
    grey = ((filled - 0.5).abs() < 1e-5).all(1)
    assert grey.float().mean().item() == pytest.approx(objective.kept / len(order[0]))
    hidden = ~grey.unsqueeze(1).expand_as(filled)
    torch.testing.assert_close(filled[hidden], shown[hidden], atol=1e-4, rtol=1e-4)
    patches = shown.unfold(2, P, P).unfold(3, P, P)
    assert torch.equal(patches, patches[..., :1, :1].expand_as(patches))


@pytest.mark.parametrize(
    ("model", "options", "words"),
    [
        (SWIN, {"style": "mae"}, "'mae' leaves the hidden patches out of the encoder"),
        (BEIT, {"style": "mae"}, "take a plain vision transformer, or the style 'simmim'"),
        (SWIN, {"style": "simmim", "mask_unit": 16}, "stands for 32 pixels"),
        (VIT, {"teacher": {"kind": "hog"}}, "8 does not divide the model's patches of 4 pixels"),
        (VIT, {"teacher": {"kind": "average"}}, "has 3 layers and not 6"),
        (VIT, {"teacher": {"kind": "run"}}, "under study.phases, as 'after' with 'use: teacher'"),
        (SWIN, {"style": "simmim", "mask_unit": 32, "teacher": AVERAGE}, "4 x 4 patches of 64 x 64 pixels"),
    ],
)
def test_what_does_not_go_together_is_refused(model: dict[str, Any], options: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        build(model, **options)


def test_heads_that_do_not_divide_the_decoder_are_refused() -> None:
    with pytest.raises(ValueError, match="does not divide decoder_embed_dim"):
        Config.model_validate({"teacher": {"kind": "pixels"}, "decoder_embed_dim": 20})
