"""MAE-CLIP against CLIP and M3AE's parts, which have tests of their own, and its gradient from parts of a batch."""

from pathlib import Path
from typing import Any

import language
import pytest
import torch
from language import TOWER, coloured, drawn, encoder, gradients, rows, run_of, steps
from torch import Tensor

from mimcore.models import encoder as encoders
from mimcore.models.patches import patchify
from mimcore.models.text import load_projection, load_text
from mimcore.objectives import clip
from mimcore.objectives.mae_clip import Config, Objective
from mimcore.training.flops import trace
from mimcore.training.step import backward

DECODER: dict[str, Any] = {"decoder_embed_dim": 16, "decoder_depth": 1, "decoder_num_heads": 2}
SMALL: dict[str, Any] = {**TOWER, **DECODER}
CAPTIONS = ["a red one", None, "green and white", "a large black six"]


def build(**options: Any) -> Objective:
    return Objective(encoder(), Config(**SMALL | options)).eval()


def images(seed: int = 0) -> Tensor:
    return torch.randn(4, 3, language.SIDE, language.SIDE, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("mask_contrastive", [False, True])
def test_its_contrast_is_clips_of_the_whole_or_of_the_masked_image(mask_contrastive: bool) -> None:
    objective = build(mask_contrastive=mask_contrastive)
    other = clip.Objective(
        encoder(),
        clip.Config(**TOWER | {"pooling": "map", "causal": False, "mask_ratio": 0.75 if mask_contrastive else 0.0}),
    ).eval()
    mine = objective.state_dict()
    other.load_state_dict({name: mine[name] for name in other.state_dict()})
    read = drawn(objective, rows(CAPTIONS))
    torch.testing.assert_close(objective(images(), read)["contrastive_loss"], other(images(), read)["loss"])


def test_the_loss_is_the_weighted_sum() -> None:
    weights = {"contrastive_loss_weight": 0.5, "image_loss_weight": 2.0, "text_loss_weight": 0.25}
    objective = build(**weights)
    found = objective(images(), drawn(objective, rows(CAPTIONS)))
    expected = 0.5 * found["contrastive_loss"] + 2.0 * found["image_loss"] + 0.25 * found["text_loss"]
    torch.testing.assert_close(found["loss"], expected)
    assert all(found[name].item() > 0.1 for name in ("contrastive_loss", "image_loss", "text_loss"))


def test_the_decoder_sees_what_is_kept_of_both_and_nothing_else() -> None:
    objective = build(text_mask_ratio=0.5)
    batch, read = images(), drawn(objective, rows(["abcdefghij"] * 4))
    before = objective.embed(batch, read)
    hidden = objective.joint.patches(read)[:, objective.joint.kept :]
    patches = patchify(batch, language.P)
    changed = patches.scatter(1, hidden.unsqueeze(-1).expand(-1, -1, patches.shape[-1]), 3.0)
    after = objective.embed(patchify(changed, language.P, inverse=(language.SIDE, language.SIDE)), read)
    torch.testing.assert_close(after["words"], before["words"])  # what is said of words has not changed
    assert not torch.allclose(after["patches"], before["patches"])  # what was to be predicted has
    kept = read["tokens"].scatter(1, read["text_order"][:, 1:2], 40)
    assert not torch.allclose(objective.embed(batch, {**read, "tokens": kept})["patches"], before["patches"])


@pytest.mark.parametrize("options", [{}, {"mask_contrastive": True, "causal": True}])
def test_the_gradient_from_micro_batches_is_that_of_the_whole_batch(options: dict[str, Any]) -> None:
    found = []
    for micro_batch in (4, 3):
        run = run_of({"module": "mae_clip", **SMALL, **options}, batch_size=4, images_seen=64)
        run.micro_batch = micro_batch
        loss = backward(run, images(), drawn(run.objective, rows(CAPTIONS)))
        found.append((loss, gradients(run.objective)))
    torch.testing.assert_close(found[0][0], found[1][0])
    assert set(found[0][1]) == {name for name, p in run.objective.named_parameters() if p.requires_grad}
    for name, gradient in found[0][1].items():
        assert (found[1][1][name] - gradient).norm() <= 1e-4 * gradient.norm() + 1e-7, name


def test_it_learns_all_three_and_its_towers_come_back(tmp_path: Path) -> None:
    run = run_of({"module": "mae_clip", **SMALL, "pooling": "gap", "text_loss_weight": 1.0})
    pictures, names = coloured(48)
    table = rows(list(names))
    with torch.no_grad():
        before = run.objective.eval()(run.encoder.normalize(pictures), drawn(run.objective, table))
    run.objective.train()
    steps(run, 40, pictures, table)
    with torch.no_grad():
        after = run.objective.eval()(run.encoder.normalize(pictures), drawn(run.objective, table))
    for part in ("contrastive_loss", "image_loss", "text_loss"):
        assert after[part] < before[part], part
    encoders.save(run.encoder, tmp_path, {})
    run.objective.save_more(tmp_path)
    new, expected = coloured(24, seed=7)
    known = list(language.COLOURS)
    with torch.no_grad():
        image = load_projection(tmp_path)(encoders.load(tmp_path), run.encoder.normalize(new))
    found = (image @ load_text(tmp_path).encode(known).T).argmax(1).tolist()
    assert sum(known[i] == name for i, name in zip(found, expected, strict=True)) >= 20  # chance is 3


def test_it_is_counted_without_weights_and_a_masked_contrast_saves_a_pass() -> None:
    two, one = (
        trace(language.MODEL, {"module": "mae_clip", **SMALL, "mask_contrastive": masked}) for masked in (False, True)
    )
    assert one.params == two.params
    assert one.training < 0.8 * two.training
