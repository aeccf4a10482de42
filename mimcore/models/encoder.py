"""Encoders: timm vision transformers, with fixed sine-cosine positions, and their plain artifacts."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import timm
import torch
from pydantic import Field, model_validator
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as serialize
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from mimcore.artifacts import read_json, write_json
from mimcore.definition import Definition, nearest
from mimcore.errors import UserError
from mimcore.models.positions import sincos_positions

#: timm's constants of ImageNet: mean and standard deviation of each channel, for pixels in [0, 1].
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


#: Pixels of a side.
Side = Annotated[int, Field(ge=8)]


class Config(Definition):
    """A vision transformer by its timm name; what is given here overrides that architecture's own values."""

    #: Name of any plain ViT in timm, such as ``vit_base_patch16_224``.
    architecture: str = "vit_base_patch16_224"
    #: Height and width of the input, pixels, or the side of a square.
    image_size: Side | tuple[Side, Side] = 224
    #: 3 for RGB, 1 for luma (ITU-R BT.601).
    channels: Literal[1, 3] = 3
    #: Height and width of a patch, pixels.
    patch_size: int = Field(16, ge=1)
    #: Width of the tokens; the architecture's own if not given. So are the three below.
    embed_dim: int | None = Field(None, ge=16)
    depth: int | None = Field(None, ge=1)
    num_heads: int | None = Field(None, ge=1)
    mlp_ratio: float | None = Field(None, gt=0)

    @model_validator(mode="after")
    def _fits(self) -> "Config":
        if any(side % self.patch_size for side in sides(self.image_size)):
            raise ValueError(f"patch_size {self.patch_size} does not divide image_size {self.image_size}")
        if self.embed_dim and self.embed_dim % 4:
            raise ValueError(f"embed_dim {self.embed_dim} must be a multiple of 4, for sine-cosine positions")
        if self.embed_dim and self.num_heads and self.embed_dim % self.num_heads:
            raise ValueError(f"num_heads {self.num_heads} does not divide embed_dim {self.embed_dim}")
        return self


@dataclass(frozen=True)
class Encoder:
    """An encoder with what is needed to use it: the timm model, how to make it again, and its input.

    Attributes:
        module: timm model; ``module.forward_features`` maps ``(B, C, H, W)`` to ``(B, prefix + N, D)``.
        model_name: timm's name of the architecture.
        kwargs: what ``timm.create_model`` was given.
        image_size: height and width of the input, pixels, or the side of a square.
        mean: of each channel, for pixels in [0, 1].
        std: of each channel, for pixels in [0, 1].
    """

    module: VisionTransformer
    model_name: str
    kwargs: dict[str, Any]
    image_size: int | tuple[int, int]
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD

    @property
    def patch_size(self) -> int:
        """Height and width of a patch, pixels."""
        return int(self.kwargs["patch_size"])

    @property
    def channels(self) -> int:
        """Channels of the input."""
        return len(self.mean)

    def normalize(self, images: Tensor) -> Tensor:
        """Map uint8 ``(B, C, H, W)`` to float32 of zero mean and unit variance (over ImageNet)."""
        mean = images.new_tensor(self.mean, dtype=torch.float32).view(1, -1, 1, 1)
        std = images.new_tensor(self.std, dtype=torch.float32).view(1, -1, 1, 1)
        return (images.float() / 255 - mean) / std

    def fresh(self, **overrides: Any) -> "Encoder":
        """Make a new copy of the weights in a model built with other options (``drop_path_rate``, ``num_classes``, ``img_size``).

        timm resamples the positions where ``img_size`` differs; a new head keeps its own initialisation. With
        ``global_pool="avg"`` timm has a norm after the pooling in the place of the final norm: it starts afresh, as in
        MAE's fine-tuning.
        """
        kwargs = self.kwargs | overrides
        module = create(self.model_name, kwargs)
        state = dict(self.module.state_dict())
        if module.pos_embed is not None and module.pos_embed.shape != state["pos_embed"].shape:
            state["pos_embed"] = timm.layers.resample_abs_pos_embed(
                state["pos_embed"],
                list(module.patch_embed.grid_size),
                old_size=list(self.module.patch_embed.grid_size),
                num_prefix_tokens=module.num_prefix_tokens,
            )
        if not isinstance(module.fc_norm, nn.Identity):
            state = {name: tensor for name, tensor in state.items() if not name.startswith("norm.")}
        missing, unexpected = module.load_state_dict(state, strict=False)
        if unexpected or [name for name in missing if not name.startswith(("head.", "fc_norm."))]:
            raise ValueError(f"the copy's weights differ: missing {missing}, unexpected {unexpected}")
        image_size = overrides.get("img_size", self.image_size)
        return replace(self, module=module, kwargs=kwargs, image_size=image_size)


def sides(image_size: int | tuple[int, int]) -> tuple[int, int]:
    """Height and width of an image size, pixels."""
    return (image_size, image_size) if isinstance(image_size, int) else image_size


def statistics(channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation to normalise by: ImageNet's, and of luma the means of the three channels'."""
    if channels == 3:
        return IMAGENET_MEAN, IMAGENET_STD
    return (sum(IMAGENET_MEAN) / 3,), (sum(IMAGENET_STD) / 3,)


def create(model_name: str, kwargs: Mapping[str, Any]) -> VisionTransformer:
    """Build a timm vision transformer.

    Raises:
        UserError: the name is not a plain vision transformer of timm.
    """
    known = timm.list_models(module="vision_transformer")
    if model_name not in known:
        raise UserError(
            f"models.architecture: timm has no vision transformer '{model_name}'; {nearest(model_name, known)}"
        )
    model = timm.create_model(model_name, **kwargs)
    if not isinstance(model, VisionTransformer):
        raise UserError(f"models.architecture: '{model_name}' is not a plain vision transformer; choose one that is.")
    return model


def build(config: Config) -> Encoder:
    """Build the encoder of a definition, with the initial weights of MAE.

    Linear layers are Xavier-uniform with zero bias, the patch projection likewise over its flattened input,
    the class token normal with standard deviation 0.02, positions fixed sine-cosine (He et al. 2022, appendix A.1 and
    the released code). The weights depend on torch's global generator.
    """
    kwargs: dict[str, Any] = {"img_size": config.image_size, "patch_size": config.patch_size, "num_classes": 0}
    given = config.model_dump(include={"embed_dim", "depth", "num_heads", "mlp_ratio"}, exclude_none=True)
    if config.channels != 3:
        given["in_chans"] = config.channels
    module = create(config.architecture, kwargs | given)
    initialize(module)
    weight = module.patch_embed.proj.weight
    nn.init.xavier_uniform_(weight.view(weight.shape[0], -1))
    if module.cls_token is not None:
        nn.init.normal_(module.cls_token, std=0.02)
    if module.pos_embed is None:
        raise UserError(f"models.architecture: '{config.architecture}' has no absolute positions; MAE needs them.")
    with torch.no_grad():
        positions = sincos_positions(module.embed_dim, module.patch_embed.grid_size, module.num_prefix_tokens)
        module.pos_embed.copy_(positions[:, -module.pos_embed.shape[1] :])
    module.pos_embed.requires_grad_(False)
    return Encoder(module, config.architecture, kwargs | given, config.image_size, *statistics(config.channels))


def initialize(module: nn.Module) -> None:
    """Xavier-uniform weights and zero bias for linear layers; ones and zeros for layer norms (He et al. 2022, A.1)."""
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.xavier_uniform_(part.weight)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
        elif isinstance(part, nn.LayerNorm):
            nn.init.ones_(part.weight)
            nn.init.zeros_(part.bias)


def place(module: nn.Module, device: torch.device) -> nn.Module:
    """Move a model to its device and choose the attention that is fast there.

    On a CPU, for the short sequences of masked image modeling, plain products were the faster in bf16 (docs/performance.md).
    """
    for part in module.modules():
        if hasattr(part, "fused_attn"):
            part.fused_attn = bool(timm.layers.use_fused_attn()) and device.type != "cpu"  # type: ignore[assignment]
    return module.to(device)


def save(encoder: Encoder, folder: Path, definition: Mapping[str, Any]) -> None:
    """Write ``encoder.safetensors`` (timm's own keys) and ``model.json`` into ``folder``."""
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in encoder.module.state_dict().items()}
    # Not save_file: on a full disk it raises an error of its own instead of OSError.
    (folder / "encoder.safetensors").write_bytes(serialize(state))
    write_json(
        folder / "model.json",
        {
            "timm": {"model_name": encoder.model_name, "kwargs": encoder.kwargs},
            "image_size": encoder.image_size,
            "mean": list(encoder.mean),
            "std": list(encoder.std),
            "definition": dict(definition),
        },
    )


def load(folder: Path) -> Encoder:
    """Load a run's encoder, strictly.

    Raises:
        UserError: a file is missing or broken, or a tensor is missing, unexpected or of another shape.
    """
    model = read_json(folder / "model.json")
    file = folder / "encoder.safetensors"
    try:
        state = load_file(file)
    except FileNotFoundError:
        raise UserError(f"{file} is missing; bring it up to date with 'dvc repro'.") from None
    except SafetensorError as error:
        raise UserError(f"{file} is broken ({error}); delete it and run 'dvc repro'.") from None
    name, kwargs = model["timm"]["model_name"], dict(model["timm"]["kwargs"])
    image_size = model["image_size"]
    if isinstance(image_size, list):  # JSON has no pairs
        image_size = kwargs["img_size"] = (image_size[0], image_size[1])
    module = create(name, kwargs)
    try:
        module.load_state_dict(state, strict=True)
    except RuntimeError as error:
        raise UserError(f"{file} does not fit {folder / 'model.json'}: {error}") from None
    mean, std = tuple(model["mean"]), tuple(model["std"])
    return Encoder(module, name, kwargs, image_size, mean, std)
