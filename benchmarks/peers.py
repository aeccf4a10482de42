"""Peers: models of others, and their training step as ``step(images) -> None`` on normalised float images.

Every peer gets PyTorch's fused AdamW, whatever its own script uses. Two shims let old research code run with today's libraries,
and change no arithmetic: ``numpy.float``, an alias of ``float`` that NumPy 1.24 removed, is put back, since ``util/pos_embed.py``
of MAE names it; and timm's ``Block`` is wrapped so that it takes ``qk_scale=None``, which timm 0.6 removed (None stood for
the scale that it has: 1 / sqrt(width of a head)). No line of a checkout is changed.
"""

import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import timm
import torch
from torch import Tensor, nn

Step = Callable[[Tensor], None]


@dataclass(frozen=True)
class Shape:
    """A masked autoencoder of a size: encoder, decoder and input."""

    image_size: int
    patch_size: int
    embed_dim: int
    depth: int
    num_heads: int
    decoder_embed_dim: int = 512
    decoder_depth: int = 8
    decoder_num_heads: int = 16
    mask_ratio: float = 0.75


def step_of(
    model: nn.Module,
    loss_of: Callable[[Tensor], Tensor],
    device: torch.device,
    precision: str,
    max_norm: float | None = None,
) -> Step:
    """A plain training loop's step around a loss."""
    model.to(device).train()
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, betas=(0.9, 0.95), weight_decay=0.05, fused=True)

    def step(images: Tensor) -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16"):
            loss = loss_of(images)
        loss.backward()
        if max_norm is not None:
            nn.utils.clip_grad_norm_(parameters, max_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def _old_code(checkout: Path) -> None:
    """Let code of its time be imported from a checkout."""
    import timm.models.vision_transformer as vit

    vars(np)["float"] = float
    block = vit.Block

    def with_qk_scale(*args: Any, qk_scale: None = None, **options: Any) -> nn.Module:
        return block(*args, **options)

    vit.Block = with_qk_scale  # type: ignore[assignment, misc]
    sys.path.insert(0, str(checkout))


def official_mae_model(shape: Shape, checkout: Path, norm_pix_loss: bool = True) -> nn.Module:
    """Of a checkout of facebookresearch/mae."""
    _old_code(checkout)
    from models_mae import MaskedAutoencoderViT  # type: ignore[import-not-found]

    model: nn.Module = MaskedAutoencoderViT(
        img_size=shape.image_size,
        patch_size=shape.patch_size,
        embed_dim=shape.embed_dim,
        depth=shape.depth,
        num_heads=shape.num_heads,
        decoder_embed_dim=shape.decoder_embed_dim,
        decoder_depth=shape.decoder_depth,
        decoder_num_heads=shape.decoder_num_heads,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
        norm_pix_loss=norm_pix_loss,
    )
    return model


def official_mae(shape: Shape, checkout: Path, device: torch.device, precision: str) -> Step:
    """A step of facebookresearch/mae."""
    model = official_mae_model(shape, checkout)
    return step_of(model, lambda images: model(images, shape.mask_ratio)[0], device, precision)


def transformers_mae_model(shape: Shape, norm_pix_loss: bool = True, **options: Any) -> nn.Module:
    """Hugging Face's ViTMAE; ``options`` are of its config."""
    from transformers import ViTMAEConfig, ViTMAEForPreTraining  # type: ignore[import-not-found]

    model: nn.Module = ViTMAEForPreTraining(
        ViTMAEConfig(
            hidden_size=shape.embed_dim,
            num_hidden_layers=shape.depth,
            num_attention_heads=shape.num_heads,
            intermediate_size=4 * shape.embed_dim,
            image_size=shape.image_size,
            patch_size=shape.patch_size,
            decoder_hidden_size=shape.decoder_embed_dim,
            decoder_num_hidden_layers=shape.decoder_depth,
            decoder_num_attention_heads=shape.decoder_num_heads,
            decoder_intermediate_size=4 * shape.decoder_embed_dim,
            mask_ratio=shape.mask_ratio,
            norm_pix_loss=norm_pix_loss,
            **options,
        )
    )
    return model


def transformers_mae(shape: Shape, device: torch.device, precision: str) -> Step:
    """A step of Hugging Face's ViTMAE, with its default attention."""
    model = transformers_mae_model(shape)
    return step_of(model, lambda images: model(pixel_values=images).loss, device, precision)


def lightly_mae(shape: Shape, device: torch.device, precision: str) -> Step:
    """lightly's parts, put together as its documentation does (docs.lightly.ai, Examples, MAE)."""
    from lightly.models import utils  # type: ignore[import-not-found]
    from lightly.models.modules import MAEDecoderTIMM, MaskedVisionTransformerTIMM  # type: ignore[import-not-found]

    vit = timm.models.vision_transformer.VisionTransformer(
        img_size=shape.image_size,
        patch_size=shape.patch_size,
        embed_dim=shape.embed_dim,
        depth=shape.depth,
        num_heads=shape.num_heads,
        num_classes=0,
    )
    backbone = MaskedVisionTransformerTIMM(vit=vit)
    decoder = MAEDecoderTIMM(
        num_patches=vit.patch_embed.num_patches,
        patch_size=shape.patch_size,
        embed_dim=shape.embed_dim,
        decoder_embed_dim=shape.decoder_embed_dim,
        decoder_depth=shape.decoder_depth,
        decoder_num_heads=shape.decoder_num_heads,
        mlp_ratio=4.0,
        proj_drop_rate=0.0,
        attn_drop_rate=0.0,
    )
    length = backbone.sequence_length

    def loss_of(images: Tensor) -> Tensor:
        batch = len(images)
        keep, hidden = utils.random_token_mask((batch, length), mask_ratio=shape.mask_ratio, device=images.device)
        embedded = decoder.embed(backbone.encode(images=images, idx_keep=keep))
        tokens = utils.repeat_token(decoder.mask_token, (batch, length))
        tokens = utils.set_at_index(tokens, keep, embedded.type_as(tokens))
        predicted = decoder.predict(utils.get_at_index(decoder.decode(tokens), hidden))
        target = utils.get_at_index(utils.patchify(images, shape.patch_size), hidden - 1)  # the class token comes first
        return nn.functional.mse_loss(predicted.float(), utils.normalize_mean_var(target, dim=-1))

    return step_of(nn.ModuleList([backbone, decoder]), loss_of, device, precision)


def official_simmim_model(
    kind: str, options: dict[str, Any], checkout: Path, target_window: int | None = None
) -> nn.Module:
    """SimMIM over a Swin or a ViT of a checkout of microsoft/SimMIM, or a SwinV2 of one of microsoft/Swin-Transformer.

    Args:
        kind: ``swin``, ``vit`` or ``swinv2``.
        options: of the encoder, by the names of that code.
        checkout: its folder.
        target_window: of a SwinV2: its ``NORM_TARGET.PATCH_SIZE``.
    """
    _old_code(checkout)
    from models import simmim  # type: ignore[import-not-found]

    if kind == "swinv2":
        target = SimpleNamespace(ENABLE=target_window is not None, PATCH_SIZE=target_window)
        swin = simmim.SwinTransformerV2ForSimMIM(num_classes=0, **options)
        v2: nn.Module = simmim.SimMIM(SimpleNamespace(NORM_TARGET=target), swin, 32, 3, options["patch_size"])
        return v2
    encoders = {"swin": "SwinTransformerForSimMIM", "vit": "VisionTransformerForSimMIM"}
    encoder = getattr(simmim, encoders[kind])(num_classes=0, **options)
    model: nn.Module = simmim.SimMIM(encoder, encoder_stride=32 if kind == "swin" else options["patch_size"])
    return model


def official_simmim(
    kind: str, options: dict[str, Any], checkout: Path, device: torch.device, precision: str, mask_unit: int = 32
) -> Step:
    """A step of SimMIM: its masks drawn ahead of the timing, gradients clipped at 5 as it does."""
    model = official_simmim_model(kind, options, checkout, 47 if kind == "swinv2" else None)
    side, scale = options["img_size"] // mask_unit, mask_unit // options["patch_size"]
    hidden = int(np.ceil(side**2 * 0.6))

    def masks(batch: int) -> Tensor:
        chosen = torch.rand(batch, side**2).argsort(1) < hidden
        grid = chosen.view(batch, side, side)
        return grid.repeat_interleave(scale, 1).repeat_interleave(scale, 2).to(device, torch.long)

    drawn: list[Tensor] = []

    def loss_of(images: Tensor) -> Tensor:
        if not drawn:
            drawn.append(masks(len(images)))
        loss: Tensor = model(images, drawn[0])
        return loss

    return step_of(model, loss_of, device, precision, max_norm=5.0)


def names(checkouts: Iterable[str]) -> list[str]:
    """The peers that can run: those of a checkout that is given, and the packages that are installed."""
    from importlib.util import find_spec

    return [*checkouts, *(name for name in ("transformers", "lightly") if find_spec(name))]
