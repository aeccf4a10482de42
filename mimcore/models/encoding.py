"""A timm encoder on images of which patches are hidden: left out, or mask tokens in their place."""

import torch
from timm.models.beit import Beit
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor
from torch.nn import functional

from mimcore.models.families import Hierarchical, Module


def encode_patches(
    encoder: VisionTransformer, patches: Tensor, kept: Tensor, more: Tensor | None = None, valid: Tensor | None = None
) -> Tensor:
    """Run a vision transformer on a part of the patches, without mask tokens.

    Only the kept patches are projected: the convolution of a patch is a linear map of its pixels.

    Args:
        encoder: timm model with absolute positions.
        patches: ``(B, N, P)`` from ``patchify``.
        kept: indices of the patches to encode, int64 ``(B, K)``.
        more: tokens that go through the blocks behind the patches, such as those of a text, ``(B, T, D)``.
        valid: which of these are attended to, bool ``(B, T)``.

    Returns:
        ``(B, prefix + K + T, D)`` after the encoder's last norm.
    """
    projection = encoder.patch_embed.proj
    index = kept.unsqueeze(-1)
    visible = patches.gather(1, index.expand(-1, -1, patches.shape[-1]))
    weight = projection.weight.permute(0, 2, 3, 1).reshape(projection.out_channels, -1)
    tokens = encoder.patch_embed.norm(functional.linear(visible, weight, projection.bias))
    positions = _patch_positions(encoder).expand(patches.shape[0], -1, -1)
    tokens = tokens + positions.gather(1, index.expand(-1, -1, positions.shape[-1]))
    if more is None or valid is None:
        return _run_blocks(encoder, tokens)
    ahead = valid.new_ones(len(valid), encoder.num_prefix_tokens + tokens.shape[1])
    mask = torch.cat([ahead, valid], dim=1)[:, None, None]
    return _run_blocks(encoder, torch.cat([tokens, more.to(tokens.dtype)], dim=1), mask)


def encode_hidden(encoder: Module, images: Tensor, hidden: Tensor, mask_token: Tensor) -> Tensor:
    """Run an encoder on all patches, a mask token in the place of each hidden one's embedding.

    Xie et al. 2022, section 3.2: the mask token enters at the patch embedding, and is given its patch's position.

    Args:
        encoder: timm model.
        images: ``(B, C, H, W)``.
        hidden: which patches are hidden, bool ``(B, rows, columns)``.
        mask_token: ``(D,)``.

    Returns:
        All last tokens after the encoder's last norm: ``(B, prefix + N, D)``, or of a Swin ``(B, h * w, D)``.
    """
    tokens = encoder.patch_embed(images)
    if isinstance(encoder, Hierarchical):  # (B, rows, columns, D)
        masked = torch.where(hidden.unsqueeze(-1), mask_token.to(tokens.dtype), tokens)
        features: Tensor = encoder.norm(encoder.layers(masked))
        return features.flatten(1, 2)
    tokens = torch.where(hidden.flatten(1).unsqueeze(-1), mask_token.to(tokens.dtype), tokens)
    if isinstance(encoder, Beit):
        return _run_beit(encoder, tokens)
    return _run_blocks(encoder, tokens + _patch_positions(encoder))


def _run_blocks(encoder: VisionTransformer, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
    """Put the class token and registers ahead of embedded patches ``(B, K, D)``, and run the rest: ``(B, prefix + K, D)``."""
    prefix: list[Tensor] = [token for token in (encoder.cls_token, encoder.reg_token) if token is not None]
    if prefix:
        first = torch.cat(prefix, dim=1)
        if not encoder.no_embed_class:
            first = first + _positions(encoder)[:, : encoder.num_prefix_tokens]
        tokens = torch.cat([first.to(tokens.dtype).expand(tokens.shape[0], -1, -1), tokens], dim=1)
    tokens = encoder.norm_pre(tokens)
    for block in encoder.blocks:
        tokens = block(tokens) if mask is None else block(tokens, attn_mask=mask)
    encoded: Tensor = encoder.norm(tokens)
    return encoded


def _run_beit(encoder: Beit, tokens: Tensor) -> Tensor:
    tokens = torch.cat([encoder.cls_token.to(tokens.dtype).expand(tokens.shape[0], -1, -1), tokens], dim=1)
    if encoder.pos_embed is not None:
        tokens = tokens + encoder.pos_embed
    bias = encoder.rel_pos_bias() if encoder.rel_pos_bias is not None else None
    for block in encoder.blocks:
        tokens = block(tokens, shared_rel_pos_bias=bias)
    encoded: Tensor = encoder.norm(tokens)
    return encoded


def _patch_positions(encoder: VisionTransformer) -> Tensor:
    return _positions(encoder)[:, 0 if encoder.no_embed_class else encoder.num_prefix_tokens :]


def _positions(encoder: VisionTransformer) -> Tensor:
    if encoder.pos_embed is None:
        raise ValueError("the encoder has no absolute positions")
    return encoder.pos_embed
