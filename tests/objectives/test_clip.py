"""CLIP's loss against the paper's pseudocode, its parts against timm, its gradient from parts against the whole, and what it learns."""

from pathlib import Path
from typing import Any

import language
import numpy as np
import pyarrow as pa
import pytest
import torch
from language import SCHEDULE, TOWER, coloured, drawn, encoder, gradients, rows, run_of, steps
from torch import Tensor
from torch.nn import functional

from mimcore.errors import UserError
from mimcore.execution import Execution
from mimcore.models import encoder as encoders
from mimcore.models.contrast import contrastive_loss
from mimcore.models.objective import Given
from mimcore.models.patches import patchify
from mimcore.models.text import TextOptions, TextTransformer, load_projection, load_text, within
from mimcore.models.tokenizer import BytePairs
from mimcore.objectives.clip import Config, Objective, prepare
from mimcore.training import cached
from mimcore.training.flops import trace
from mimcore.training.step import backward, speed_up

CAPTIONS = ["a red one", "blue", "green and white", "a large black six"]


def build(**options: Any) -> Objective:
    return Objective(encoder(), Config(**TOWER | options))


def images(batch: int = 4, seed: int = 0) -> Tensor:
    return torch.randn(batch, 3, language.SIDE, language.SIDE, generator=torch.Generator().manual_seed(seed))


def loss_of_figure_3(image: np.ndarray, text: np.ndarray, scale: float) -> float:
    """Figure 3 of Radford et al. 2021 in NumPy, float64."""
    logits = image @ text.T * scale

    def cross_entropy(scores: np.ndarray) -> float:
        shifted = scores - scores.max(axis=1, keepdims=True)
        return float((np.log(np.exp(shifted).sum(axis=1)) - np.diag(shifted)).mean())

    return (cross_entropy(logits) + cross_entropy(logits.T)) / 2


def pair(batch: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return tuple(functional.normalize(torch.randn(batch, 8, generator=generator), dim=1) for _ in range(2))  # type: ignore[return-value]


@pytest.mark.parametrize("scale", [1 / 0.07, 100.0])
def test_the_loss_is_that_of_figure_3(scale: float) -> None:
    image, text = pair(7)
    found = contrastive_loss(image, text, torch.full((7,), scale), torch.ones(7))
    assert float(found) == pytest.approx(
        loss_of_figure_3(image.double().numpy(), text.double().numpy(), scale), rel=1e-5
    )


def test_a_pair_without_a_caption_is_left_out() -> None:
    image, text = pair(6)
    known = torch.tensor([1.0, 0.0, 1.0, 1.0, 0.0, 1.0])
    scale = torch.full((6,), 10.0)
    there = known > 0
    found = contrastive_loss(image, text, scale, known)
    torch.testing.assert_close(found, contrastive_loss(image[there], text[there], scale[there], known[there]))
    image.requires_grad_()
    nothing = contrastive_loss(image, text, scale, torch.zeros(6))
    nothing.backward()
    assert float(nothing.detach()) == 0
    assert float(image.grad.abs().max()) == 0  # type: ignore[union-attr]


def test_the_whole_is_towers_projections_and_loss_put_together() -> None:
    objective = build(pooling="gap")
    table = rows([*CAPTIONS[:3], None])
    found = objective(images(), drawn(objective, table))["loss"]
    vit, side = objective.encoder, objective.image
    pooled = vit.forward_features(images())[:, 1:].mean(1)
    image = functional.normalize(pooled @ side.projection.weight.T, dim=1)
    text = functional.normalize(objective.text(torch.from_numpy(objective.tokenizer(CAPTIONS[:3], 12))), dim=1)
    expected = loss_of_figure_3(image[:3].detach().double().numpy(), text.detach().double().numpy(), 1 / 0.07)
    assert float(found.detach()) == pytest.approx(expected, rel=1e-4)


def test_pooling_is_what_it_says() -> None:
    vit = encoder().module
    tokens = vit.forward_features(images())
    for kind, expected in (("cls", tokens[:, 0]), ("gap", tokens[:, 1:].mean(1)), ("max", tokens[:, 1:].amax(1))):
        side = build(pooling=kind).image
        torch.testing.assert_close(side.pooling(vit, images()), expected)
    attention = build(pooling="map").image.pooling
    order = (
        torch.randperm(tokens.shape[1] - 1) + 1
    )  # attention pooling does not see the order of patches, or the class token
    shuffled = torch.cat([torch.zeros_like(tokens[:, :1]), tokens[:, order]], 1)
    torch.testing.assert_close(attention.pool(tokens, vit), attention.pool(shuffled, vit), rtol=1e-4, atol=1e-5)


def test_a_swin_is_pooled_as_well_and_has_no_class_token() -> None:
    layout = {"embed_dim": 16, "depths": (1, 1), "num_heads": (1, 2), "window_size": 4}
    model = {"architecture": "swin_tiny_patch4_window7_224", "image_size": 32, "patch_size": 2, **layout}
    swin = encoders.build(encoders.Config.model_validate(model))
    objective = Objective(swin, Config(**TOWER | {"pooling": "map"}))
    batch = torch.randn(2, 3, 32, 32)
    assert objective.image(swin, batch).shape == (2, 16)
    with pytest.raises(UserError, match="needs a class token"):
        Objective(swin, Config(**TOWER | {"pooling": "cls"}))
    with pytest.raises(UserError, match="needs all patches"):
        Objective(swin, Config(**TOWER | {"pooling": "gap", "mask_ratio": 0.5}))


def test_masked_images_are_seen_by_their_kept_patches_only() -> None:
    objective = build(mask_ratio=0.5)
    assert objective.masks is not None
    table, batch = rows(CAPTIONS), images()
    with_masks = drawn(objective, table)
    embedded = objective.embed(batch, with_masks)["image"]
    hidden = with_masks["order"][:, objective.masks.kept :]
    assert hidden.shape == (4, 8)
    patches = patchify(batch, language.P)
    blank = patches.scatter(1, hidden.unsqueeze(-1).expand(-1, -1, patches.shape[-1]), 7.0)
    changed = patchify(blank, language.P, inverse=(language.SIDE, language.SIDE))
    torch.testing.assert_close(objective.embed(changed, with_masks)["image"], embedded)
    assert not torch.allclose(build().embed(changed, with_masks)["image"], build().embed(batch, with_masks)["image"])


@pytest.mark.parametrize("causal", [True, False])
def test_the_text_tower_reads_up_to_the_end_mark(causal: bool) -> None:
    """What follows the end mark changes nothing; with causal attention, a state does not depend on what comes later."""
    tower = TextTransformer(514, 513, TextOptions(**TOWER | {"causal": causal, "text_depth": 2}))
    tokens = torch.from_numpy(BytePairs([])(["abc", "defghijklmno", ""], 12))
    noise = torch.where(within(tokens, 513), tokens, 40)
    torch.testing.assert_close(tower(noise), tower(tokens))
    assert within(tokens, 513).sum(1).tolist() == [5, 12, 2]
    changed = tokens.clone()
    changed[1, 9] = 3
    first = tower.states(tokens)[1, :9], tower.states(changed)[1, :9]
    assert torch.allclose(*first) == causal


@pytest.mark.parametrize("options", [{}, {"mask_ratio": 0.5, "pooling": "map"}])
@pytest.mark.parametrize("micro_batch", [5, 1])
def test_the_gradient_from_micro_batches_is_that_of_the_whole_batch(options: dict[str, Any], micro_batch: int) -> None:
    pictures, names = coloured(12)
    captions = [None if i == 4 else name for i, name in enumerate(names)]
    runs = [run_of({"module": "clip", **TOWER, **options}, batch_size=12, images_seen=144) for _ in range(2)]
    speed_up(runs[1], Execution(device="cpu", micro_batch=micro_batch), pictures[:2])
    losses = []
    for run in runs:
        pixels = run.encoder.normalize(pictures)
        losses.append(backward(run, pixels, drawn(run.objective, rows(captions))))
    torch.testing.assert_close(losses[0], losses[1])
    one, other = (gradients(run.objective) for run in runs)
    assert set(one) == set(other)
    assert {"image.log_scale", "text.tokens.weight", "image.projection.weight"} <= set(one)
    for name, gradient in one.items():
        assert (other[name] - gradient).norm() <= 1e-4 * gradient.norm(), name


def test_both_passes_drop_the_same_paths(monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_of({"module": "clip", **TOWER}, {"drop_path_rate": 0.5}, batch_size=8, images_seen=64)
    run.micro_batch = 3
    embed, seen = run.objective.embed, []
    monkeypatch.setattr(run.objective, "embed", lambda *given: seen.append(embed(*given)) or seen[-1])
    pictures, names = coloured(8)
    cached.accumulate_cached(run, run.encoder.normalize(pictures), drawn(run.objective, rows(list(names))))
    assert len(seen) == 6
    for one, other in zip(seen[:3], seen[3:], strict=True):
        torch.testing.assert_close(one["image"], other["image"].detach())
    run.objective.eval()
    whole = run.objective.embed(run.encoder.normalize(pictures), drawn(run.objective, rows(list(names))))["image"]
    assert not torch.allclose(whole[:3], seen[0]["image"])  # paths were dropped


def test_a_frozen_image_tower_stays_as_it_was_and_the_text_learns() -> None:
    run = run_of({"module": "clip", **TOWER, "freeze_image": True}, {"drop_path_rate": 0.5})
    before = {name: weight.clone() for name, weight in run.objective.state_dict().items()}
    trained = {id(p) for group in run.optimizer.param_groups for p in group["params"]}
    assert not any(id(p) in trained for p in run.encoder.module.parameters())
    assert not run.encoder.module.training
    assert run.objective.text.training
    pictures, names = coloured(48)
    steps(run, 2, pictures, rows(list(names)))
    after = run.objective.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in before if name.startswith("encoder."))
    assert not torch.equal(after["text.tokens.weight"], before["text.tokens.weight"])


def test_the_scale_starts_at_1_over_0_07_and_stays_below_100() -> None:
    run = run_of({"module": "clip", **TOWER})
    assert run.objective.image.logit_scale.item() == pytest.approx(1 / 0.07)
    with torch.no_grad():
        run.objective.image.log_scale.fill_(9.0)
    run.objective.after_step(1, 2)
    assert run.objective.image.log_scale.exp().item() == pytest.approx(100, rel=1e-5)


def test_colours_are_found_by_their_names_and_names_by_their_colours(tmp_path: Path) -> None:
    run = run_of({"module": "clip", **TOWER, "pooling": "gap"})
    pictures, names = coloured(48)
    steps(run, 40, pictures, rows(list(names)))
    encoders.save(run.encoder, tmp_path, {})
    run.objective.save_more(tmp_path)
    new, expected = coloured(40, seed=7)
    text, projection = load_text(tmp_path), load_projection(tmp_path)
    known = list(language.COLOURS)
    with torch.no_grad():
        image = projection(encoders.load(tmp_path), run.encoder.normalize(new))
    cosines = image @ text.encode(known).T
    torch.testing.assert_close(image.norm(dim=1), torch.ones(40))
    found = [known[i] for i in cosines.argmax(1).tolist()]
    accuracy = sum(a == b for a, b in zip(found, expected, strict=True)) / 40
    assert accuracy >= 0.9  # chance is 1 in 8
    assert [expected[i] for i in cosines.argmax(0).tolist()] == known


def test_towers_come_back_as_they_were_saved(tmp_path: Path) -> None:
    options = Config(**TOWER | {"tokenizer": "bpe", "pooling": "map", "vocab_size": 520})
    prepare(options, rows([*CAPTIONS, *CAPTIONS]), tmp_path)
    made = encoder()
    objective = Objective(made, options, Given(prepared=tmp_path)).eval()
    encoders.save(made, tmp_path, {})
    objective.save_more(tmp_path)
    embedded = objective.embed(images(), drawn(objective, rows(CAPTIONS)))
    torch.testing.assert_close(load_text(tmp_path).encode(CAPTIONS), embedded["text"].detach())
    projection = load_projection(tmp_path)
    torch.testing.assert_close(projection(made.module.eval(), images()), embedded["image"])
    assert projection.logit_scale.item() == pytest.approx(1 / 0.07)
    (tmp_path / "text.safetensors").write_bytes((tmp_path / "projection.safetensors").read_bytes())
    with pytest.raises(UserError, match="is not the file that"):
        load_text(tmp_path)


def test_a_vocabulary_that_was_never_learned_is_refused_where_there_are_captions() -> None:
    objective = build(tokenizer="bpe", vocab_size=600)
    assert objective.read(pa.table({"caption": pa.nulls(2)}))["known"].tolist() == [0, 0]
    with pytest.raises(UserError, match="run the stage 'prepare' first"):
        objective.read(rows(CAPTIONS))


def test_it_is_counted_without_weights_or_captions() -> None:
    objective = {"module": "clip", **TOWER, "tokenizer": "bpe", "vocab_size": 1000}
    whole, masked, frozen = (
        trace(language.MODEL, objective | more) for more in ({}, {"mask_ratio": 0.5}, {"freeze_image": True})
    )
    assert whole.params - whole.encoder_params > 1000 * 32
    assert masked.training < whole.training
    assert whole.forward < frozen.training < whole.training
    assert SCHEDULE["batch_size"] == 48


def test_memory_that_runs_out_halves_the_micro_batch_and_the_gradient_is_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pictures, names = coloured(12)
    found = []
    for room in (12, 5):
        run = run_of({"module": "clip", **TOWER}, batch_size=12, images_seen=144)
        embed = run.objective.embed

        def with_room(images: Tensor, drawn: Any, embed: Any = embed, room: int = room) -> Any:
            if len(images) > room:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return embed(images, drawn)

        monkeypatch.setattr(run.objective, "embed", with_room)
        loss = backward(run, run.encoder.normalize(pictures), drawn(run.objective, rows(list(names))))
        found.append((loss, gradients(run.objective)["image.projection.weight"]))
    assert run.micro_batch == 3
    torch.testing.assert_close(*found)
