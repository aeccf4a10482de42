"""Attention that forgets its weights: timm's bits in less memory."""

import copy

import pytest
import torch
from timm.models.vision_transformer import Attention
from torch.utils.flop_counter import FlopCounterMode

from mimcore.models import attention
from mimcore.models.attention import PlainAttention, attend, forget_weights

BATCH, TOKENS, WIDTH, HEADS = 5, 29, 24, 3  # tokens are more than three times the width of a head


def pair(**options):
    """Timm's plain attention, and the same with its weights forgotten."""
    torch.manual_seed(0)
    plain = Attention(WIDTH, HEADS, qkv_bias=True, **options)
    plain.fused_attn = False
    ours = copy.deepcopy(plain)
    forget_weights(ours)
    return plain, ours


def gradients(module, precision, **more):
    """Output, and gradients of input and weights."""
    draws = torch.Generator().manual_seed(1)
    x = torch.randn(BATCH, TOKENS, WIDTH, generator=draws, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
        y = module(x, **more)
    y.backward(torch.randn(y.shape, generator=draws).to(y.dtype))
    return [y, x.grad, *(p.grad for p in module.parameters())]


def kept(module):
    """Bytes that autograd keeps, weights aside."""
    own = {p.untyped_storage().data_ptr() for p in module.parameters()}
    found = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            found[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        y = module(torch.randn(BATCH, TOKENS, WIDTH))
    del y
    return sum(storage.nbytes() for storage in found.values())


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_output_and_gradients_are_timms_bit_for_bit(precision):
    plain, ours = pair()
    for expected, found in zip(gradients(plain, precision), gradients(ours, precision), strict=True):
        assert found.dtype == expected.dtype
        assert torch.equal(found, expected)


@pytest.mark.parametrize("images_at_once", [1, 2])
def test_a_few_images_at_a_time_give_the_same(images_at_once, monkeypatch):
    """Up to rounding: the products of a small batch may be summed in another order."""
    each = HEADS * TOKENS**2 * 4
    monkeypatch.setattr(attention, "MANY", each)
    monkeypatch.setattr(attention, "AT_ONCE", images_at_once * each)
    plain, ours = pair()
    for expected, found in zip(gradients(plain, "float32"), gradients(ours, "float32"), strict=True):
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)


def test_gradients_are_those_of_finite_differences():
    qkv = torch.randn(2, 4, 3 * 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    assert torch.autograd.gradcheck(lambda given: attend(given, 2), (qkv,))


def test_only_projections_are_kept():
    """Input, queries with keys and values, and what is projected last: 5 D a token, in the place of weights and copies."""
    plain, ours = pair()
    assert kept(ours) == 4 * BATCH * TOKENS * 5 * WIDTH
    assert kept(plain) >= kept(ours) + 4 * BATCH * HEADS * TOKENS**2


def test_it_is_counted_with_the_products_of_the_model():
    counts = []
    for module in pair():
        with FlopCounterMode(display=False) as counter:
            module(torch.randn(BATCH, TOKENS, WIDTH)).sum().backward()
        counts.append(counter.get_total_flops())
    assert counts[0] == counts[1] > 0


def test_a_mask_is_heeded():
    plain, ours = pair()
    mask = torch.ones(BATCH, 1, 1, TOKENS, dtype=torch.bool)
    mask[..., 9:] = False
    for expected, found in zip(
        gradients(plain, "float32", attn_mask=mask), gradients(ours, "float32", attn_mask=mask), strict=True
    ):
        assert torch.equal(found, expected)


def test_a_copy_has_weights_of_its_own():
    _, ours = pair()
    other = copy.deepcopy(ours)
    assert type(other) is PlainAttention
    with torch.no_grad():
        other.proj.bias.add_(1)
    x = torch.randn(1, TOKENS, WIDTH)
    assert torch.allclose(other(x), ours(x) + 1, atol=1e-6)


@pytest.mark.parametrize("options", [{"qk_norm": True, "norm_layer": torch.nn.LayerNorm}, {"gated": True}])
def test_what_has_more_in_between_is_left_alone(options):
    _, ours = pair(**options)
    assert type(ours) is Attention


def test_short_sequences_keep_what_timm_keeps():
    """Up to three times the width of a head, the weights take no more than queries, keys and values."""
    x = torch.randn(1, 3 * WIDTH // HEADS, WIDTH)
    names = []
    for module in pair():
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            module(x)
        names.append({event.key for event in profile.key_averages()})
    assert names[0] == names[1]
    assert "mimcore::attend" not in names[1]


def test_fused_attention_is_left_alone():
    fused = Attention(WIDTH, HEADS)
    fused.fused_attn = True
    forget_weights(fused)
    assert type(fused) is Attention
