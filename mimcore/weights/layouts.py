"""The names that others give to the same tensors."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from mimcore.errors import UserError
from mimcore.models.positions import sincos_positions

Layout = Literal["mae", "simmim", "transformers", "timm"]


@dataclass
class Translated:
    """Tensors under the names that they have here, and what became of the rest.

    Attributes:
        encoder: by timm's names.
        objective: decoder and mask token, by the names of the objective.
        sources: for each of these, ``encoder.`` ahead of the encoder's, the names that it was made of.
        left_out: names of the source that are not needed, and why.
        notes: what else differs.
    """

    encoder: dict[str, Tensor] = field(default_factory=dict)
    objective: dict[str, Tensor] = field(default_factory=dict)
    sources: dict[str, list[str]] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def put(self, target: str, tensor: Tensor, *sources: str) -> None:
        """File a tensor under ``encoder.<timm's name>`` or the objective's own name.

        Raises:
            UserError: two tensors of the source would have the same name.
        """
        if target in self.sources:
            raise UserError(
                f"two tensors of the checkpoint are '{target}': {', '.join([*self.sources[target], *sources])}."
            )
        self.sources[target] = list(sources)
        inner = target.removeprefix("encoder.")
        (self.objective if inner == target else self.encoder)[inner] = tensor


def recognise(tensors: Mapping[str, Tensor]) -> Layout:
    """Tell the layout of a checkpoint by its names."""
    if any(name.startswith("vit.") for name in tensors):
        return "transformers"
    if any(name.startswith("decoder_") for name in tensors):
        return "mae"
    return "simmim" if any(name.startswith("encoder.") for name in tensors) else "timm"


def translate(tensors: Mapping[str, Tensor]) -> tuple[Layout, Translated]:
    """Give every tensor the name that it has here."""
    layout = recognise(tensors)
    return layout, {"mae": _mae, "simmim": _simmim, "transformers": _transformers, "timm": _timm}[layout](tensors)


def _mae(tensors: Mapping[str, Tensor]) -> Translated:
    """facebookresearch/mae, ``models_mae.py``, before fine-tuning; the encoder's names are timm's."""
    found = Translated()
    for name, tensor in tensors.items():
        if name == "decoder_pos_embed":
            _leave_positions(found, name, tensor)
        elif name == "mask_token":
            found.put("decoder.mask_token", tensor, name)
        elif name.startswith("decoder_"):
            inner = name.removeprefix("decoder_")
            found.put("decoder." + re.sub("^pred", "predict", inner), tensor, name)
        else:
            found.put(f"encoder.{name}", tensor, name)
    return found


def _simmim(tensors: Mapping[str, Tensor]) -> Translated:
    """microsoft/SimMIM, ``models/simmim.py``: a Swin, SwinV2 or BEiT-like ViT under ``encoder.``."""
    found = Translated()
    inner = {n.removeprefix("encoder."): t for n, t in tensors.items() if n.startswith("encoder.")}
    for name, tensor in _native_swin(inner, found, "encoder.").items():
        if name.inner == "mask_token":
            found.put("mask_token", tensor.flatten(), name.source)
        else:
            found.put(f"encoder.{name.inner}", tensor, name.source)
    for name_, tensor in tensors.items():
        if not name_.startswith("encoder."):
            found.put(name_, tensor, name_)
    return found


def _timm(tensors: Mapping[str, Tensor]) -> Translated:
    """As timm has them: its files, MAE's released encoders and fine-tuned ones, SimMIM's fine-tuned ones."""
    found = Translated()
    for name, tensor in _native_swin(tensors, found, "").items():
        found.put(f"encoder.{name.inner}", tensor, name.source)
    return found


@dataclass(frozen=True)
class _Name:
    inner: str
    source: str


def _native_swin(tensors: Mapping[str, Tensor], found: Translated, prefix: str) -> dict[_Name, Tensor]:
    """Names of the released Swins as timm's: a stage merges patches at its start, not at the end of the one before."""
    released = "layers.0.downsample.reduction.weight" in tensors
    names: dict[_Name, Tensor] = {}
    for name, tensor in tensors.items():
        if name.endswith(("relative_position_index", "relative_coords_table", "attn_mask")):
            found.left_out[prefix + name] = "follows from the sizes of image and windows"
            continue
        inner = name
        if released:
            inner = re.sub(r"^layers\.(\d+)\.downsample", lambda m: f"layers.{int(m[1]) + 1}.downsample", inner)
            inner = re.sub(r"^head\.(weight|bias)$", r"head.fc.\1", inner)
        names[_Name(inner, prefix + name)] = tensor
    return names


#: Names of a block in transformers' ViT and in timm's.
_BLOCK = {
    "attention.output.dense": "attn.proj",
    "intermediate.dense": "mlp.fc1",
    "output.dense": "mlp.fc2",
    "layernorm_before": "norm1",
    "layernorm_after": "norm2",
}
_WHOLE = {
    "vit.embeddings.cls_token": "encoder.cls_token",
    "vit.embeddings.position_embeddings": "encoder.pos_embed",
    "vit.embeddings.patch_embeddings.projection.weight": "encoder.patch_embed.proj.weight",
    "vit.embeddings.patch_embeddings.projection.bias": "encoder.patch_embed.proj.bias",
    "vit.layernorm.weight": "encoder.norm.weight",
    "vit.layernorm.bias": "encoder.norm.bias",
    "decoder.mask_token": "decoder.mask_token",
    "decoder.decoder_embed.weight": "decoder.embed.weight",
    "decoder.decoder_embed.bias": "decoder.embed.bias",
    "decoder.decoder_norm.weight": "decoder.norm.weight",
    "decoder.decoder_norm.bias": "decoder.norm.bias",
    "decoder.decoder_pred.weight": "decoder.predict.weight",
    "decoder.decoder_pred.bias": "decoder.predict.bias",
}
#: A block's name; the decoder's are ``decoder_layers`` in version 4 and ``decoder_encoder.layer`` in version 5.
_LAYER = re.compile(
    r"^(vit\.encoder\.layer|decoder\.decoder_layers|decoder\.decoder_encoder\.layer)\.(\d+)\.(.+)\.(weight|bias)$"
)


def _transformers(tensors: Mapping[str, Tensor]) -> Translated:
    """Of transformers' ``ViTMAEForPreTraining``: query, key and value apart."""
    found = Translated()
    for name, tensor in tensors.items():
        if name == "decoder.decoder_pos_embed":
            _leave_positions(found, name, tensor)
        elif name in _WHOLE:
            found.put(_WHOLE[name], tensor, name)
        elif match := _LAYER.match(name):
            stem, number, part, kind = match.groups()
            block = f"{'encoder' if stem.startswith('vit') else 'decoder'}.blocks.{number}"
            if part in _BLOCK:
                found.put(f"{block}.{_BLOCK[part]}.{kind}", tensor, name)
            elif part == "attention.attention.query":
                names = [f"{stem}.{number}.attention.attention.{which}.{kind}" for which in ("query", "key", "value")]
                if missing := [n for n in names if n not in tensors]:
                    raise UserError(f"the checkpoint has {name} and lacks {', '.join(missing)}; fetch it again.")
                found.put(f"{block}.attn.qkv.{kind}", torch.cat([tensors[n] for n in names]), *names)
            elif part not in ("attention.attention.key", "attention.attention.value"):
                found.put(name, tensor, name)
        else:
            found.put(name, tensor, name)  # named as unexpected when it is loaded
    return found


def _leave_positions(found: Translated, name: str, tensor: Tensor) -> None:
    """The decoder's positions are computed here: they may be left out where they are the same."""
    side = round((tensor.shape[1] - 1) ** 0.5)
    expected = sincos_positions(tensor.shape[-1], (side, side), 1)
    if tensor.shape != expected.shape or not torch.allclose(tensor.float(), expected, atol=1e-4):
        raise UserError(
            f"{name} is not the fixed sine-cosine positions of MAE's decoder; such a decoder is not supported."
        )
    found.left_out[name] = "fixed sine-cosine positions, computed here"


def decoder_options(found: Translated, num_heads: int) -> dict[str, Any]:
    """MAE's options of a decoder, read off the shapes of its tensors; the heads show in no shape."""
    depth = 1 + max(int(match[1]) for name in found.objective if (match := re.match(r"decoder\.blocks\.(\d+)\.", name)))
    return {
        "decoder_embed_dim": found.objective["decoder.embed.weight"].shape[0],
        "decoder_depth": depth,
        "decoder_num_heads": num_heads,
    }
