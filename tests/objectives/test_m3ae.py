"""M3AE against its sections put together one image at a time, without padding or shuffling; what is hidden does not show."""

import math
from typing import Any

import language
import pytest
import torch
from language import CPU, drawn, encoder, rows, run_of
from torch import Tensor
from torch.nn import functional

from mimcore.errors import UserError
from mimcore.models import encoder as encoders
from mimcore.models.encoding import encode_patches
from mimcore.models.patches import patchify
from mimcore.models.positions import sincos_positions, sincos_sequence
from mimcore.objectives.m3ae import Config, Objective
from mimcore.training.flops import trace
from mimcore.training.step import backward

SMALL: dict[str, Any] = {
    "tokenizer": "bytes",
    "context_length": 10,
    "mask_ratio": 0.5,
    "text_mask_ratio": 0.5,
    "decoder_embed_dim": 16,
    "decoder_depth": 2,
    "decoder_num_heads": 2,
}
CAPTIONS = ["red", None, "a blue", "green and white"]


def build(**options: Any) -> Objective:
    return Objective(encoder(), Config(**SMALL | options)).eval()


def images(batch: int = 4, seed: int = 0) -> Tensor:
    return torch.randn(batch, 3, language.SIDE, language.SIDE, generator=torch.Generator().manual_seed(seed))


def reference(
    objective: Objective, image: Tensor, tokens: list[int], order: list[int], places: list[int]
) -> tuple[Tensor, Tensor]:
    """Both predictions of one image, of all patches and all tokens in their own order; tokens behind the end do not exist."""
    vit, joint = objective.encoder, objective.joint
    kept, seen = sorted(order[: joint.kept]), [p for p in places[: joint.text_kept] if p < len(tokens)]
    embedded = vit.patch_embed(image[None])[0] + vit.pos_embed[0, 1:]
    words = torch.stack([objective.tokens.weight[t] for t in tokens]) if tokens else torch.zeros(0, 32)
    words = words + sincos_sequence(32, 10)[0, : len(tokens)] + objective.kind
    x = torch.cat([vit.cls_token[0] + vit.pos_embed[0, :1], embedded[kept], words[seen]])[None]
    for block in vit.blocks:
        x = block(x)
    x = joint.embed(vit.norm(x))[0]
    count = len(order)
    grid = int(math.sqrt(count))
    y = joint.mask_token.expand(count, -1).clone()
    y[kept] = x[1 : 1 + len(kept)]
    y = y + sincos_positions(16, (grid, grid), 0)[0] + joint.kind
    z = joint.text_mask_token.expand(len(tokens), -1).clone()
    z[seen] = x[1 + len(kept) :]
    z = z + sincos_sequence(16, 10)[0, : len(tokens)] + joint.text_kind
    found = torch.cat([x[:1], y, z])[None]
    for block in joint.blocks:
        found = block(found)
    found = joint.norm(found)[0]
    return joint.predict(found[1 : 1 + count]), joint.predict_text(found[1 + count :])


@pytest.mark.parametrize("norm_pix_loss", [False, True])
def test_the_loss_is_that_of_each_image_alone(norm_pix_loss: bool) -> None:
    objective = build(norm_pix_loss=norm_pix_loss)
    batch, read = images(), drawn(objective, rows(CAPTIONS))
    found = objective(batch, read)
    of_images, of_texts = [], []
    for i, caption in enumerate(CAPTIONS):
        tokens = read["tokens"][i].tolist()
        tokens = tokens[: tokens.index(513) + 1] if caption else []
        order, places = read["order"][i].tolist(), read["text_order"][i].tolist()
        patches, words = reference(objective, batch[i], tokens, order, places)
        errors = []
        for hidden in order[8:]:
            target = patchify(batch[i : i + 1], language.P)[0, hidden]
            if norm_pix_loss:
                target = (target - target.mean()) / (target.var() + 1e-6).sqrt()
            errors.append((patches[hidden] - target).square().mean())
        of_images.append(torch.stack(errors).mean())
        asked = [p for p in places[5:] if p < len(tokens)]
        each = [functional.cross_entropy(words[p], torch.tensor(tokens[p])) for p in asked]
        of_texts.append(torch.stack(each).mean() if each else torch.zeros(()))
    torch.testing.assert_close(found["image_loss"], torch.stack(of_images).mean())
    torch.testing.assert_close(found["text_loss"], torch.stack(of_texts).mean())
    torch.testing.assert_close(found["loss"], found["image_loss"] + 0.5 * found["text_loss"])


def test_an_image_without_a_caption_is_encoded_as_by_the_encoder_alone() -> None:
    vit = encoder().module.eval()
    patches, kept = patchify(images(), language.P), torch.arange(8).expand(4, -1)
    noise = torch.randn(4, 5, 32)
    without = encode_patches(vit, patches, kept)  # type: ignore[arg-type]
    unseen = encode_patches(vit, patches, kept, noise, torch.zeros(4, 5, dtype=torch.bool))  # type: ignore[arg-type]
    torch.testing.assert_close(unseen[:, :-5], without)


def test_hidden_patches_and_tokens_do_not_show() -> None:
    objective = build()
    batch, read = images(), drawn(objective, rows(["abcdefgh"] * 4))
    blank, _ = objective.reconstruct(batch, read)
    changed = torch.where(blank == 0, 5.0, batch)
    assert 0.4 < float((changed != batch).float().mean()) < 0.6
    tokens = read["tokens"].scatter(1, read["text_order"][:, 5:], 7)
    tokens[:, -1] = 513
    valid = torch.ones(4, 10, dtype=torch.bool)
    at_first = objective._predict(batch, {**read, "tokens": read["tokens"]}, valid)
    for one, other in zip(at_first, objective._predict(changed, {**read, "tokens": tokens}, valid), strict=True):
        torch.testing.assert_close(one, other)
    tokens = read["tokens"].scatter(1, read["text_order"][:, :1], 7)
    assert not torch.allclose(at_first[0], objective._predict(batch, {**read, "tokens": tokens}, valid)[0])


def test_positions_in_a_row_are_those_of_the_transformer() -> None:
    found = sincos_sequence(8, 5)[0]
    for place in range(5):
        for i in range(4):
            angle = place / 10000 ** (2 * i / 8)  # Vaswani et al. 2017, section 3.5
            assert found[place, i].item() == pytest.approx(math.sin(angle), abs=1e-6)
            assert found[place, 4 + i].item() == pytest.approx(math.cos(angle), abs=1e-6)


def test_parts_of_a_batch_give_the_gradient_of_the_whole() -> None:
    found = []
    for micro_batch in (4, 3):
        run = run_of({"module": "m3ae", **SMALL}, batch_size=4, images_seen=64)
        run.micro_batch = micro_batch
        loss = backward(run, images(), drawn(run.objective, rows(CAPTIONS)))
        found.append((loss, run.objective.tokens.weight.grad, run.objective.joint.predict.weight.grad))
    torch.testing.assert_close(*found)


def test_the_picture_keeps_what_was_seen_and_fills_in_the_rest() -> None:
    objective = build(norm_pix_loss=True)
    batch, read = images(), drawn(objective, rows(CAPTIONS))
    blank, filled = objective.reconstruct(batch, read)
    seen = blank != 0
    assert torch.equal(blank[seen], batch[seen])
    assert torch.equal(filled[seen], batch[seen])
    assert not torch.allclose(filled[~seen], batch[~seen])


def test_it_takes_a_plain_vision_transformer_and_is_counted_without_weights() -> None:
    layout = {"embed_dim": 16, "depths": (1, 1), "num_heads": (1, 2), "window_size": 4}
    model = {"architecture": "swin_tiny_patch4_window7_224", "image_size": 32, "patch_size": 2, **layout}
    with pytest.raises(UserError, match="take a plain vision transformer"):
        Objective(encoders.build(encoders.Config.model_validate(model)), Config(**SMALL))
    few, many = (trace(language.MODEL, {"module": "m3ae", **SMALL, "mask_ratio": ratio}) for ratio in (0.75, 0.25))
    assert few.training < many.training
    assert few.params == many.params
    assert CPU.type == "cpu"
