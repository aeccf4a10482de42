"""Networks that come with their weights: timm's by name, from its hub or a pinned file, and the encoders of runs."""

import sys
from pathlib import Path
from typing import Any

import timm
import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from mimcore import artifacts
from mimcore.definition import Definition, nearest
from mimcore.errors import UserError
from mimcore.models import encoder as encoders
from mimcore.models import families
from mimcore.models.read import read_tensors


class TimmOptions(Definition):
    """A model of timm and where its weights are from."""

    #: timm's name. Its tag says what the images are normalised by, such as ``vit_base_patch16_clip_224.openai``.
    architecture: str
    #: Fetch the weights of that name from the Hugging Face hub, which needs the network; they are not pinned.
    pretrained: bool = False
    #: A ``.safetensors``, ``.pth`` or ``.bin`` file of these weights; a relative path starts at the repository.
    weights: str | None = None
    #: SHA-256 of that file in hexadecimal, at least the first 16 digits, as ``sha256sum`` prints it.
    sha256: str | None = Field(None, pattern=r"^[0-9a-f]{16,64}$")

    @model_validator(mode="after")
    def _from_one_place(self) -> "TimmOptions":
        if self.pretrained == (self.weights is not None):
            raise ValueError("set either pretrained to true, or weights to a file")
        if (self.weights is None) != (self.sha256 is None):
            raise ValueError("a file of weights is pinned by its sha256; give both or neither")
        return self


def description(options: TimmOptions) -> Any:
    """Timm's description of a model and its weights: ``input_size``, ``mean``, ``std``, ``classifier``.

    Raises:
        UserError: timm has no such model.
    """
    name = options.architecture
    if not timm.is_model(name):
        raise UserError(
            f"objectives.teacher.architecture: timm has no model '{name}'; {nearest(name, timm.list_models())}"
        )
    try:
        return timm.get_pretrained_cfg(name)
    except RuntimeError:
        known = timm.list_pretrained(f"{name.partition('.')[0]}.*")
        raise UserError(
            f"objectives.teacher.architecture: timm has no weights '{name}'; {nearest(name, known)}"
        ) from None


def timm_model(options: TimmOptions, image_size: tuple[int, int], root: Path, shapes: bool) -> nn.Module:
    """Build a model of timm without its classifier, with all of its weights or on shapes alone.

    Raises:
        UserError: the weights cannot be had, are not those that were pinned, or do not fit.
    """
    described = description(options)
    kwargs: dict[str, Any] = {"num_classes": 0}
    if tuple(described.input_size[1:]) != image_size:
        kwargs["img_size"] = image_size
    if shapes:
        with torch.device("meta"):
            return _created(options.architecture, kwargs)
    if not options.pretrained:
        module = _created(options.architecture, kwargs)
        _fill(module, options, root, described)
        return module
    try:
        return _created(options.architecture, kwargs | {"pretrained": True})
    except UserError:
        raise
    except Exception as error:  # whatever the hub's client raises
        raise UserError(
            f"objectives.teacher: the weights of '{options.architecture}' cannot be fetched ({str(error).splitlines()[0]}); fetch "
            "their file where there is a network, and name it as 'weights', with its 'sha256'."
        ) from None


def _created(name: str, kwargs: dict[str, Any]) -> nn.Module:
    try:
        return timm.create_model(name, **kwargs)
    except TypeError:
        if "img_size" not in kwargs:
            raise
    # A convolutional network takes images of any size.
    return timm.create_model(name, **{key: value for key, value in kwargs.items() if key != "img_size"})


def _fill(module: nn.Module, options: TimmOptions, root: Path, described: Any) -> None:
    tensors, file = read_tensors(root / Path(str(options.weights)).expanduser())
    digest = artifacts.file_digest(file)
    if not digest.startswith(str(options.sha256)):
        raise UserError(
            f"objectives.teacher.sha256: {file} is not the file that was pinned; adopt it with 'sha256: {digest}'."
        )
    _refuse_other_patches(module, tensors, file)
    translate = getattr(sys.modules[type(module).__module__], "checkpoint_filter_fn", None)
    state = tensors if translate is None else translate(tensors, module)
    heads = described.classifier or ()
    heads = tuple(f"{head}." for head in ((heads,) if isinstance(heads, str) else heads))
    state = {name: tensor for name, tensor in state.items() if not (heads and name.startswith(heads))}
    try:
        module.load_state_dict(state, strict=True)
    except RuntimeError as error:
        words = " ".join(str(error).split())
        raise UserError(f"objectives.teacher.weights: {file} is not of '{options.architecture}': {words}") from None


def _refuse_other_patches(module: nn.Module, tensors: dict[str, Tensor], file: Path) -> None:
    """Timm would resample them without a word."""
    own: Any = getattr(getattr(module, "patch_embed", None), "proj", None)
    for name, tensor in tensors.items():
        if name.endswith("patch_embed.proj.weight") and tensor.ndim == 4 and isinstance(own, nn.Conv2d):
            found, wanted = tuple(tensor.shape[-2:]), tuple(own.weight.shape[-2:])
            if found != wanted:
                raise UserError(
                    f"objectives.teacher.weights: {file} has patches of {found[0]} x {found[1]} pixels, and the architecture of "
                    f"{wanted[0]} x {wanted[1]}; name the architecture that it is of."
                )


def resized(source: encoders.Encoder, image_size: tuple[int, int]) -> nn.Module:
    """An encoder for images of another size, positions resampled by timm; itself, where it is no other."""
    if encoders.sides(source.image_size) == image_size:
        return source.module
    return source.fresh(img_size=image_size).module


def shaped(source: encoders.Encoder, image_size: tuple[int, int]) -> nn.Module:
    """An encoder for images of this size, on shapes alone."""
    with torch.device("meta"):
        return families.create(source.model_name, source.kwargs | {"img_size": image_size})
