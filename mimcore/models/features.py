"""What is taken of a network's layers as a target: which of them, how they are normalised, and how they become one."""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from mimcore.definition import Definition
from mimcore.errors import UserError
from mimcore.models.patches import normalize_patches

#: ``layer``: each patch over its values, as a layer norm without weights. ``patch``: the same with MAE's unbiased variance.
#: ``batch``: each value over all patches of the batch. ``instance``: each value over the patches of its image.
Normalization = Literal["none", "layer", "patch", "batch", "instance"]


class LayerOptions(Definition):
    """Options of a target that comes from the layers of a network."""

    #: So many of the last layers, or layers by their numbers, 0 the first and -1 the last: blocks of a ViT, stages of a Swin.
    layers: int | tuple[int, ...] = Field(1)
    #: Pass each layer's output through the network's own last norm.
    final_norm: bool = True
    #: Of each layer, before they become one.
    layer_normalization: Normalization = "none"
    #: Their mean, or all of their values side by side.
    combine: Literal["average", "concatenate"] = "average"


def layer_maps(module: nn.Module, images: Tensor, options: LayerOptions, name: str) -> list[Tensor]:
    """Outputs of the chosen layers of a timm model for normalised images, each ``(B, D, rows, columns)``.

    Raises:
        UserError: the model does not give its layers, or has no such layer.
    """
    found: Any = getattr(module, "forward_intermediates", None)
    if found is None:
        raise UserError(f"objectives.teacher: timm's '{name}' does not give the outputs of its layers; take another.")
    indices = options.layers if isinstance(options.layers, int) else list(options.layers)
    try:
        maps: list[Tensor] = found(images, indices=indices, norm=options.final_norm, intermediates_only=True)
    except AssertionError:
        raise UserError(
            f"objectives.teacher.layers: '{name}' has {len(module.feature_info)} layers and not {options.layers}; "  # type: ignore[arg-type]
            "choose a number of them, or some from 0 on."
        ) from None
    return maps


def combined(maps: Sequence[Tensor], options: LayerOptions) -> Tensor:
    """Layers ``(B, D, rows, columns)`` as one target, float32 ``(B, N, D)``, or ``(B, N, layers * D)`` side by side."""
    tokens = [normalized(layer.flatten(2).mT, options.layer_normalization) for layer in maps]
    return torch.cat(tokens, dim=-1) if options.combine == "concatenate" else torch.stack(tokens).mean(dim=0)


def normalized(tokens: Tensor, how: Normalization) -> Tensor:
    """Normalise features ``(B, N, D)``, without trained weights; float32.

    Baevski et al. 2022 ('data2vec', section 3.3) take ``layer`` for images and text, and ``instance`` for speech; the released code has
    ``batch`` as well. ``patch`` is what MAE does to pixels.
    """
    tokens = tokens.float()
    if how == "layer":
        return functional.layer_norm(tokens, tokens.shape[-1:])
    if how == "patch":
        return normalize_patches(tokens)
    if how == "batch":
        return functional.batch_norm(tokens.mT, None, None, training=True).mT
    if how == "instance":
        return functional.instance_norm(tokens.mT).mT
    return tokens
