"""Encoders: timm's vision transformers and Swins by their definitions, and their plain artifacts."""

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
from timm.models.beit import Beit
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from mimcore.artifacts import read_json, write_json
from mimcore.definition import Definition
from mimcore.errors import UserError
from mimcore.models import families
from mimcore.models.positions import sincos_positions

#: timm's constants of ImageNet: mean and standard deviation of each channel, for pixels in [0, 1].
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


#: Pixels of a side.
Side = Annotated[int, Field(ge=8)]


class Initial(Definition):
    """A model to continue from, pinned by its digest."""

    #: Folder of a run or of an import; a relative path starts at the repository, in a git worktree at its main checkout.
    path: str
    #: SHA-256 of its ``encoder.safetensors`` in hexadecimal, at least the first 16 digits, as ``sha256sum`` prints it.
    sha256: str = Field(pattern=r"^[0-9a-f]{16,64}$")
    #: Take the decoder and mask token as well, from ``objective.safetensors``.
    objective: bool = False


class Config(Definition):
    """An encoder by its timm name; what is given here overrides that architecture's own values."""

    #: Name of any plain ViT, BEiT, Swin or SwinV2 in timm, such as ``vit_base_patch16_224``.
    architecture: str = "vit_base_patch16_224"
    #: Height and width of the input, pixels, or the side of a square.
    image_size: Side | tuple[Side, Side] = 224
    #: 3 for RGB, 1 for luma (ITU-R BT.601).
    channels: Literal[1, 3] = 3
    #: Height and width of a patch, pixels; 4 in a Swin if not given.
    patch_size: int = Field(16, ge=1)
    #: Width of the tokens (of a Swin's first stage); the architecture's own if not given. So are those below.
    embed_dim: int | None = Field(None, ge=16)
    depth: int | None = Field(None, ge=1)
    #: Of a Swin: blocks of each stage.
    depths: tuple[Annotated[int, Field(ge=1)], ...] | None = None
    #: Attention heads; of a Swin, of each stage.
    num_heads: Annotated[int, Field(ge=1)] | tuple[Annotated[int, Field(ge=1)], ...] | None = None
    #: Of a Swin: side of the attention windows, tokens.
    window_size: int | None = Field(None, ge=1)
    mlp_ratio: float | None = Field(None, gt=0)
    #: Layer scale at the start of training (Touvron et al. 2021); an architecture without it gets it.
    init_values: float | None = Field(None, gt=0)
    #: Of a ViT: fixed sine-cosine (MAE) or learned. Of a BEiT: relative in each block, or one table for all (SimMIM's ViT). A
    #: Swin's are its own.
    positions: Literal["sincos", "learned", "relative", "relative_shared"] | None = None
    #: Stochastic depth of the last block in pretraining, rising linearly from 0 at the first (Huang et al. 2016).
    drop_path_rate: float = Field(0.0, ge=0, lt=1)
    #: Weights to start from, instead of random ones.
    initial: Initial | None = None

    @property
    def family(self) -> Literal["vit", "beit", "swin"]:
        """By the first letters of timm's name."""
        name = self.architecture
        return "swin" if name.startswith("swin") else "beit" if name.startswith("beit") else "vit"

    @model_validator(mode="before")
    @classmethod
    def _patch_of_a_swin(cls, given: Any) -> Any:
        swin = isinstance(given, dict) and str(given.get("architecture")).startswith("swin")
        return {"patch_size": 4, **given} if swin else given

    @model_validator(mode="after")
    def _of_the_family(self) -> "Config":
        swin = self.family == "swin"
        for field in ("depths", "window_size") if not swin else ("depth", "positions", "init_values"):
            if getattr(self, field) is not None:
                raise ValueError(f"{field} is no option of {self.architecture}")
        if self.num_heads is not None and isinstance(self.num_heads, tuple) != swin:
            raise ValueError(f"num_heads must be {'a list, one for each stage' if swin else 'one number'}")
        allowed = {"vit": ("sincos", "learned"), "beit": ("learned", "relative", "relative_shared"), "swin": ()}[
            self.family
        ]
        if self.positions is not None and self.positions not in allowed:
            raise ValueError(f"positions {self.positions} is not offered for {self.architecture}; use one of {allowed}")
        return self

    @model_validator(mode="after")
    def _fits(self) -> "Config":
        if any(side % self.patch_size for side in sides(self.image_size)):
            raise ValueError(f"patch_size {self.patch_size} does not divide image_size {self.image_size}")
        if self.family == "vit" and self.embed_dim and self.embed_dim % 4:
            raise ValueError(f"embed_dim {self.embed_dim} must be a multiple of 4, for sine-cosine positions")
        heads = self.num_heads if isinstance(self.num_heads, tuple) else (self.num_heads,)
        if self.embed_dim and any(number and self.embed_dim * 2**stage % number for stage, number in enumerate(heads)):
            raise ValueError(f"num_heads {self.num_heads} does not divide embed_dim {self.embed_dim}")
        return self


@dataclass(frozen=True)
class Encoder:
    """An encoder with what is needed to use it: the timm model, how to make it again, and its input.

    Attributes:
        module: timm model; what it makes of images is read by ``mimcore.models.families``.
        model_name: timm's name of the architecture.
        kwargs: what ``timm.create_model`` was given.
        image_size: height and width of the input, pixels, or the side of a square.
        mean: of each channel, for pixels in [0, 1].
        std: of each channel, for pixels in [0, 1].
    """

    module: families.Module
    model_name: str
    kwargs: dict[str, Any]
    image_size: int | tuple[int, int]
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD

    @property
    def patch_size(self) -> int:
        """Height and width of a patch, pixels."""
        return families.patch_size(self.module)

    @property
    def stride(self) -> int:
        """Height and width of what one of its last tokens stands for, pixels."""
        return families.stride(self.module)

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
        ``global_pool="avg"`` a ViT has a norm after the pooling in the place of the final norm: it starts afresh, as in
        MAE's fine-tuning.
        """
        kwargs = self.kwargs | overrides | families.transfer_options(self.module, overrides)
        module = families.create(self.model_name, kwargs)
        families.transfer(self.module, module)
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


def build(config: Config) -> Encoder:
    """Build the encoder of a definition, with its initial weights; they depend on torch's global generator.

    A ViT has those of MAE (He et al. 2022, appendix A.1, and the released code): linear layers Xavier-uniform with zero
    bias, the patch projection likewise over its flattened input, the class token normal with standard deviation 0.02,
    positions fixed sine-cosine; learned positions are truncated normal with 0.02. A Swin has timm's own, truncated normal
    with 0.02, as in SimMIM's released code; so has a BEiT, cut at 0.02 on both sides as BEiT's and SimMIM's are (timm cuts at 2).
    """
    kwargs = timm_options(config)
    module = families.create(config.architecture, kwargs)
    if isinstance(module, VisionTransformer):
        _initialize_vit(module, config)
    elif isinstance(module, Beit):
        _initialize_beit(module)
    return Encoder(module, config.architecture, kwargs, config.image_size, *statistics(config.channels))


def timm_options(config: Config) -> dict[str, Any]:
    """What ``timm.create_model`` is given for the encoder of a definition."""
    kwargs: dict[str, Any] = {"img_size": config.image_size, "patch_size": config.patch_size, "num_classes": 0}
    names = {"embed_dim", "depth", "depths", "num_heads", "window_size", "mlp_ratio", "init_values"}
    given = config.model_dump(include=names, exclude_none=True)
    if config.channels != 3:
        given["in_chans"] = config.channels
    if config.drop_path_rate or config.family == "swin":  # timm's Swins have one of their own
        given["drop_path_rate"] = config.drop_path_rate
    if config.family == "beit":
        given |= _beit_options(config)
    return kwargs | given


def _beit_options(config: Config) -> dict[str, Any]:
    """Positions by their kind, and the final norm in its place: timm's BEiT has it after the pooling."""
    kind = config.positions or "relative"
    return {
        "use_abs_pos_emb": kind == "learned",
        "use_rel_pos_bias": kind == "relative",
        "use_shared_rel_pos_bias": kind == "relative_shared",
        "global_pool": "token",
    }


def _initialize_vit(module: VisionTransformer, config: Config) -> None:
    initialize(module)
    weight = module.patch_embed.proj.weight
    nn.init.xavier_uniform_(weight.view(weight.shape[0], -1))
    if module.cls_token is not None:
        nn.init.normal_(module.cls_token, std=0.02)
    if module.pos_embed is None:
        raise UserError(f"models.architecture: '{config.architecture}' has no absolute positions; choose one that has.")
    if config.positions == "learned":
        nn.init.trunc_normal_(module.pos_embed, std=0.02)
        return
    with torch.no_grad():
        positions = sincos_positions(module.embed_dim, module.patch_embed.grid_size, module.num_prefix_tokens)
        module.pos_embed.copy_(positions[:, -module.pos_embed.shape[1] :])
    module.pos_embed.requires_grad_(False)


def _initialize_beit(module: Beit) -> None:
    """SimMIM's ``models/simmim.py`` and ``vision_transformer.py``; Bao et al. 2022, section 2.5, for the scale by depth."""
    weights = [part.weight for part in module.modules() if isinstance(part, nn.Linear | nn.Conv2d)]
    for tensor in (*weights, module.cls_token, module.pos_embed):
        if tensor is not None:
            nn.init.trunc_normal_(tensor, std=0.02, a=-0.02, b=0.02)
    nn.init.zeros_(module.patch_embed.proj.bias)  # type: ignore[arg-type]
    module.fix_init_weight()


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
    module = families.create(name, kwargs)
    try:
        module.load_state_dict(state, strict=True)
    except RuntimeError as error:
        raise UserError(f"{file} does not fit {folder / 'model.json'}: {error}") from None
    mean, std = tuple(model["mean"]), tuple(model["std"])
    return Encoder(module, name, kwargs, image_size, mean, std)
