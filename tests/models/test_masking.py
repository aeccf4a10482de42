"""Masks: as many hidden patches in every image, and of the shape that their name says."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mimcore.errors import UserError
from mimcore.models.masking import MaskingOptions, Masks


def plan(rows: int, columns: int, times: int = 1, hide_at_least: bool = False, **options: Any) -> Masks:
    unit = {"mask_unit": 4 * times} if times > 1 else {}
    sides = (rows * 4 * times, columns * 4 * times)
    return Masks.plan(MaskingOptions(**unit | options), sides, 4, hide_at_least=hide_at_least)


def draw(masks: Masks, batch: int = 64, seed: int = 0) -> torch.Tensor:
    return masks.draw(batch, torch.Generator().manual_seed(seed))


@given(
    st.sampled_from(["random", "block"]),
    st.integers(2, 9),
    st.integers(2, 9),
    st.floats(0.1, 0.9),
    st.booleans(),
    st.integers(1, 3),
)
def test_every_image_hides_as_many_and_every_patch_is_in_the_order_once(
    masking: str, rows: int, columns: int, ratio: float, at_least: bool, times: int
) -> None:
    try:
        masks = plan(rows, columns, times, at_least, masking=masking, mask_ratio=ratio)
    except UserError:
        return  # with few patches and a high ratio nothing is seen
    drawn = draw(masks, 8)
    assert torch.equal(drawn.sort(dim=1).values, torch.arange(rows * columns).expand(8, -1))
    assert torch.equal(draw(masks, 8), drawn)
    hidden = masks.hidden(drawn)
    assert hidden.flatten(1).sum(1).tolist() == [rows * columns - masks.kept] * 8
    patches = masks.patches(drawn)
    assert torch.equal(patches.sort(dim=1).values, torch.arange(rows * columns * times**2).expand(8, -1))
    shown = torch.ones(8, rows * times * columns * times, dtype=torch.bool)
    shown.scatter_(1, patches[:, masks.kept * times**2 :], False)
    large = torch.kron(hidden.float(), torch.ones(times, times)).bool()
    assert torch.equal(~shown.view(8, rows * times, columns * times), large)


def test_a_grid_keeps_one_of_every_square() -> None:
    masks = plan(6, 9, masking="grid", mask_ratio=8 / 9)
    drawn = draw(masks)
    seen = ~masks.hidden(drawn)
    squares = seen.view(64, 2, 3, 3, 3).transpose(2, 3).flatten(3)
    assert (squares.sum(-1) == 1).all()
    assert (squares == squares[:, :1, :1]).all(), "the same one in each square of an image"
    assert len({int(s.int().argmax()) for s in squares[:, 0, 0]}) == 9, "another in another image"


def test_blocks_are_rectangles() -> None:
    """Far fewer edges between hidden and seen than at random, and the first rectangle is hidden whole."""

    def edges(masking: str) -> float:
        hidden = (masks := plan(14, 14, masking=masking, mask_ratio=0.5)).hidden(draw(masks, 256)).int()
        return float(hidden.diff(dim=1).abs().sum() + hidden.diff(dim=2).abs().sum()) / 256

    assert edges("random") == pytest.approx(2 * 13 * 14 * 2 * 0.25, rel=0.03)
    assert edges("block") < 0.5 * edges("random")


def test_blocks_fall_anywhere() -> None:
    masks = plan(14, 14, masking="block", mask_ratio=0.4)
    often = masks.hidden(draw(masks, 4000)).float().mean(0)
    assert often.min() > 0.03  # a corner is in few rectangles
    torch.testing.assert_close(often, often.flip(0), atol=0.06, rtol=0)
    torch.testing.assert_close(often, often.flip(1), atol=0.06, rtol=0)


@pytest.mark.parametrize("masking", ["random", "block", "grid"])
def test_both_parts_are_at_random(masking: str) -> None:
    """Any hidden patch is as often the first of the hidden, so that a part of these is no corner of them; likewise the kept."""
    masks = plan(4, 4, masking=masking, mask_ratio=0.75)
    drawn = draw(masks, 20000)
    hidden = masks.hidden(drawn).flatten(1).float().mean(0)
    for place, often in ((masks.kept, hidden / 12), (0, (1 - hidden) / 4)):
        first = torch.bincount(drawn[:, place], minlength=16) / 20000
        torch.testing.assert_close(first, often, atol=0.006, rtol=0)


def test_what_does_not_go_together_is_said() -> None:
    with pytest.raises(UserError, match=r"mask_unit: 6 must be a multiple of the model's patch_size 4"):
        Masks.plan(MaskingOptions(mask_unit=6), (24, 24), 4, hide_at_least=False)
    with pytest.raises(UserError, match="keeps one unit of every 2 x 2 needs as many rows"):
        plan(5, 4, masking="grid")
    with pytest.raises(UserError, match="0 of the 4 units"):
        plan(2, 2, hide_at_least=True, mask_ratio=0.9)
