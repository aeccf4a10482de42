"""The families of timm encoders that are pretrained here, and where they differ: what they are made of and give back."""

import copy
import warnings
from collections.abc import Mapping
from typing import Any

import timm
from timm.models.beit import Beit
from timm.models.swin_transformer import SwinTransformer
from timm.models.swin_transformer_v2 import SwinTransformerV2
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from mimcore.definition import nearest
from mimcore.errors import UserError

#: A plain ViT; a ViT with relative positions; hierarchical encoders with attention in shifted windows.
Module = VisionTransformer | Beit | SwinTransformer | SwinTransformerV2

#: The last of these, whose patches are merged on the way.
Hierarchical = SwinTransformer | SwinTransformerV2

#: timm's modules that the architectures are declared in.
_DECLARED_IN = ("vision_transformer", "beit", "swin_transformer", "swin_transformer_v2")


def create(model_name: str, kwargs: Mapping[str, Any]) -> Module:
    """Build a timm encoder.

    Raises:
        UserError: timm has no such encoder, it is of no family known here, or it does not take an option.
    """
    known = [name for module in _DECLARED_IN for name in timm.list_models(module=module)]
    if model_name not in known:
        raise UserError(
            f"models.architecture: timm has no vision transformer, BEiT or Swin '{model_name}'; {nearest(model_name, known)}"
        )
    try:
        model = timm.create_model(model_name, **kwargs)
    except (TypeError, AssertionError, IndexError) as error:
        raise UserError(
            f"models.architecture: timm does not build '{model_name}' from {dict(kwargs)}: {error}"
        ) from None
    if not isinstance(model, Module):
        raise UserError(f"models.architecture: '{model_name}' is no plain vision transformer; choose one that is.")
    return model


def patch_size(module: Module) -> int:
    """Height and width of a patch that enters, pixels."""
    size: tuple[int, int] = module.patch_embed.patch_size  # type: ignore[assignment]
    return size[0]


def stride(module: Module) -> int:
    """Height and width of what one last token stands for, pixels: the patch size, or 8 times it in a Swin of four stages."""
    last: dict[str, Any] = module.feature_info[-1]
    return int(last["reduction"])


def has_class_token(module: Module) -> bool:
    """Whether the first of its tokens is a class token."""
    return getattr(module, "cls_token", None) is not None


def tokens(module: Module, images: Tensor) -> tuple[Tensor | None, Tensor]:
    """What the encoder makes of normalised ``(B, C, H, W)``, after the last norm.

    Returns:
        the class token, ``(B, D)``, or None where it has none; what is said of each place, ``(B, N, D)`` row by row.
    """
    return split(module, module.forward_features(images))


def split(module: Module, features: Tensor) -> tuple[Tensor | None, Tensor]:
    """Class token and patches of what timm's ``forward_features`` gave; as ``tokens``."""
    if isinstance(module, Hierarchical):  # timm gives (B, H, W, D)
        return None, features.flatten(1, 2)
    return (features[:, 0] if has_class_token(module) else None), features[:, module.num_prefix_tokens :]


def patch_tokens(module: Module, images: Tensor) -> Tensor:
    """What is said of each place after the last norm, ``(B, N, D)`` row by row, of normalised ``(B, C, H, W)``."""
    return tokens(module, images)[1]


def patch_map(module: Module, images: Tensor) -> Tensor:
    """What is said of each place after the last norm, ``(B, D, H / stride, W / stride)``, of normalised ``(B, C, H, W)``."""
    rows = -(-images.shape[-2] // stride(module))
    found: Tensor = patch_tokens(module, images).mT.unflatten(2, (rows, -1))
    return found


def windows(module: Hierarchical) -> list[tuple[int, int]]:
    """Height and width of the attention windows of each stage, tokens: no more than the stage has."""
    stages: Any = module.layers
    return [tuple(stage.blocks[0].window_size) for stage in stages]


def transfer_options(module: Module, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Options that a copy of ``module`` with these overrides needs beside them.

    SwinV2 gives its positions on a logarithmic scale of the pretrained windows' (Liu et al. 2022, 'Swin Transformer V2',
    section 3.3): where the image grows, the copy is told what these were.
    """
    if isinstance(module, SwinTransformerV2) and "img_size" in overrides:
        return {"pretrained_window_sizes": windows(module)}
    return {}


def transfer(source: Module, target: Module) -> None:
    """Copy weights into an encoder built with other options: drop path, classes, pooling, image size.

    timm resamples positions, and tables of relative ones, where the image or its windows differ. A new head keeps its own
    initialisation. With ``global_pool="avg"`` timm has a norm after the pooling in the place of a ViT's final norm: it
    starts afresh, as in MAE's and SimMIM's fine-tuning.
    """
    if source.patch_embed.grid_size != target.patch_embed.grid_size:
        source = copy.deepcopy(source)
        options: dict[str, Any] = {"window_size": windows(target)} if isinstance(target, Hierarchical) else {}
        size: Any = target.patch_embed.img_size
        with warnings.catch_warnings():  # of how timm's interpolation of tables indexes tensors
            warnings.filterwarnings("ignore", "Using a non-tuple sequence|torch.searchsorted", UserWarning)
            source.set_input_size(img_size=size, **options)
    state = {name: tensor for name, tensor in source.state_dict().items() if not name.startswith("head.")}
    if not isinstance(getattr(target, "fc_norm", nn.Identity()), nn.Identity):
        state = {name: tensor for name, tensor in state.items() if not name.startswith("norm.")}
    missing, unexpected = target.load_state_dict(state, strict=False)
    if unexpected or [name for name in missing if not name.startswith(("head.", "fc_norm."))]:
        raise ValueError(f"the copy's weights differ: missing {missing}, unexpected {unexpected}")


def head_weight(module: Module) -> nn.Parameter:
    """The matrix of the classifier, ``(classes, D)``."""
    weight: nn.Parameter = module.get_classifier().weight
    return weight
