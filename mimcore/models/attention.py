"""Attention on a CPU by plain products, of which only the projections are kept for the backward pass.

Timm's plain attention keeps every weight of the attention, (B, heads, N, N), and copies of queries, keys and values. Here the
weights are computed again: the same bits in less memory. Where those of one image are many, a few images are computed at a
time, so that they stay in the cache; this is up to rounding, and the same each time (docs/performance.md). The idea is
that of Dao et al. 2022, 'FlashAttention', section 3.1.
"""

import torch
from timm.models.vision_transformer import Attention
from torch import Tensor, nn
from torch.utils.flop_counter import register_flop_formula

#: Bytes of attention weights that are computed at once: about what the caches of a core hold.
AT_ONCE = 4 << 20
#: Bytes of one image's from which on images are taken a few at a time.
MANY = 1 << 20


class PlainAttention(Attention):
    """A timm attention that forgets its weights where they are many; takes the place of one by ``forget_weights``."""

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """Map tokens ``(B, N, C)`` to ``(B, N, C)``; short sequences, a mask, and dropout of weights are left to timm."""
        few = x.shape[1] <= 3 * self.head_dim  # the weights take no more than queries, keys and values
        if few or attn_mask is not None or is_causal or (self.training and self.attn_drop.p):
            return super().forward(x, attn_mask, is_causal)
        mixed: Tensor = attend(self.qkv(x), self.num_heads)
        projected: Tensor = self.proj_drop(self.proj(mixed))
        return projected


def forget_weights(part: nn.Module) -> None:
    """Let a plain attention of timm's keep no weights from now on; any other module is left as it is.

    Its class is changed, so that copies of the module do the same.
    """
    if type(part) is not Attention or part.fused_attn or part.gate is not None:
        return
    if all(isinstance(norm, nn.Identity) for norm in (part.q_norm, part.k_norm, part.norm)):
        part.__class__ = PlainAttention


@torch.library.custom_op("mimcore::attend", mutates_args=())
def attend(qkv: Tensor, num_heads: int) -> Tensor:
    """Softmax of the scaled products of queries and keys, times the values (Vaswani et al. 2017, section 3.2).

    Args:
        qkv: queries, keys and values of all heads side by side, ``(B, N, 3 * D)``.
        num_heads: H, divides D.

    Returns:
        ``(B, N, D)``, in the dtype of ``qkv``.
    """
    batch, tokens, width = qkv.shape
    mixed = qkv.new_empty(batch, tokens, num_heads, width // 3 // num_heads)
    for at in _parts(qkv, num_heads):
        scaled, keys, values = _factors(qkv[at], num_heads)
        product = (scaled @ keys).softmax(-1) @ values
        mixed[at] = product.unflatten(0, (-1, num_heads)).transpose(1, 2)
    return mixed.flatten(2)


@torch.library.custom_op("mimcore::attend_backward", mutates_args=())
def attend_backward(gradient: Tensor, qkv: Tensor, num_heads: int) -> Tensor:
    """The gradient of ``qkv``, given that of what ``attend`` returned: each as these are."""
    gradient = gradient.unflatten(2, (num_heads, -1))
    found = torch.empty_like(qkv, memory_format=torch.contiguous_format)
    for at in _parts(qkv, num_heads):
        scaled, keys, values = _factors(qkv[at], num_heads)
        of_mixed = gradient[at].transpose(1, 2).contiguous().flatten(0, 1)
        weights = (scaled @ keys).softmax(-1)
        of_products = torch._softmax_backward_data(of_mixed @ values.mT, weights, -1, weights.dtype)
        of_queries = (of_products @ keys.mT) * scaled.shape[-1] ** -0.5
        gradients = (of_queries, (scaled.mT @ of_products).mT, weights.mT @ of_mixed)
        for target, part in zip(_heads(found[at], num_heads), gradients, strict=True):
            target.copy_(part.unflatten(0, (-1, num_heads)))
    return found


def _parts(qkv: Tensor, num_heads: int) -> list[slice]:
    """Images that are computed at once."""
    batch, tokens, _ = qkv.shape
    each = num_heads * tokens * tokens * qkv.element_size()
    rows = max(1, AT_ONCE // each) if each >= MANY else max(1, batch)
    return [slice(start, start + rows) for start in range(0, batch, rows)]


def _heads(qkv: Tensor, num_heads: int) -> tuple[Tensor, ...]:
    """Queries, keys and values, each ``(B, H, N, D / H)``; views."""
    heads: Tensor = qkv.unflatten(2, (3, num_heads, -1))
    return heads.permute(2, 0, 3, 1, 4).unbind(0)


def _factors(qkv: Tensor, num_heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """Scaled queries ``(B * H, N, D / H)``, transposed keys and values, laid out as timm's: the layout decides the last bits."""
    q, k, v = _heads(qkv, num_heads)
    scaled = q * q.shape[-1] ** -0.5
    return scaled.contiguous().flatten(0, 1), k.mT.contiguous().flatten(0, 1), v.contiguous().flatten(0, 1)


@attend.register_fake
def _shape_of_attend(qkv: Tensor, num_heads: int) -> Tensor:
    batch, tokens, width = qkv.shape
    return qkv.new_empty(batch, tokens, width // 3)


@attend_backward.register_fake
def _shape_of_backward(gradient: Tensor, qkv: Tensor, num_heads: int) -> Tensor:
    return torch.empty_like(qkv, memory_format=torch.contiguous_format)


def _keep(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    qkv, ctx.num_heads = inputs
    ctx.save_for_backward(qkv)


def _backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[no-untyped-def]
    (qkv,) = ctx.saved_tensors
    return attend_backward(gradient, qkv, ctx.num_heads), None


attend.register_autograd(_backward, setup_context=_keep)


@register_flop_formula(torch.ops.mimcore.attend)
def _forward_flops(qkv: torch.Size, num_heads: int, *rest: object, **more: object) -> int:
    """The two products; counted as the model has them, without those that are made again."""
    batch, tokens, width = qkv
    return 2 * 2 * batch * tokens * tokens * (width // 3)


@register_flop_formula(torch.ops.mimcore.attend_backward)
def _backward_flops(gradient: torch.Size, qkv: torch.Size, num_heads: int, *rest: object, **more: object) -> int:
    return 2 * _forward_flops(qkv, num_heads)
