"""Tensors of a file, and nothing else of it: no code of a pickle is run."""

import argparse
import json
import pickle
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from mimcore.errors import UserError

#: Where a checkpoint has its tensors, if they are not all of it.
_INSIDE = ("model", "state_dict", "module")
#: Files of a folder in Hugging Face's layout, in the order in which they are looked for.
_IN_A_FOLDER = ("model.safetensors", "pytorch_model.bin")


class _Options(dict[str, Any]):
    """Stands for ``yacs.config.CfgNode``, in which SimMIM's checkpoints hold their options."""


def read_tensors(source: Path) -> tuple[dict[str, Tensor], Path]:
    """Read the tensors of a ``.pth``, ``.bin`` or ``.safetensors`` file, or of a folder in Hugging Face's layout.

    Pickles are read by ``torch.load(weights_only=True)``: of classes beside tensors they may hold ``argparse.Namespace`` (MAE)
    and yacs's options (SimMIM), which are data.

    Returns:
        The tensors by name, on the CPU, and the file that they are from.

    Raises:
        UserError: there is no such file, it is broken, it wants to run code, or it holds no tensors.
    """
    file = source
    if source.is_dir():
        file = next((source / name for name in _IN_A_FOLDER if (source / name).is_file()), source)
        if file is source:
            raise UserError(f"{source} has neither {_IN_A_FOLDER[0]} nor {_IN_A_FOLDER[1]}; name the file of weights.")
    if not file.is_file():
        raise UserError(f"there is no file {file}; correct the path.")
    found = _safetensors(file) if file.suffix == ".safetensors" else _pickled(file)
    for name in _INSIDE:
        if isinstance(found, dict) and isinstance(found.get(name), dict):
            found = found[name]
    tensors = {str(n): t for n, t in found.items() if isinstance(t, Tensor)} if isinstance(found, dict) else {}
    if not tensors:
        raise UserError(f"{file} holds no tensors by name; it is no checkpoint of a model.")
    return tensors, file


def read_config(source: Path) -> dict[str, Any]:
    """The ``config.json`` of a folder in Hugging Face's layout, or beside a file; empty where there is none."""
    file = (source if source.is_dir() else source.parent) / "config.json"
    try:
        found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    except ValueError as error:
        raise UserError(f"{file} is not JSON ({error}); fetch it again.") from None
    return found


def _safetensors(file: Path) -> dict[str, Tensor]:
    try:
        return load_file(file)
    except SafetensorError as error:
        raise UserError(f"{file} is broken ({error}); fetch it again.") from None


def _pickled(file: Path) -> Any:
    options: list[Any] = [argparse.Namespace, (_Options, "yacs.config.CfgNode")]
    try:
        with torch.serialization.safe_globals(options):
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{file} holds more than weights, and opening it would run code ({str(error).splitlines()[0]}); save its "
            "tensors alone, as safetensors."
        ) from None
    except (RuntimeError, EOFError, KeyError, ValueError) as error:
        raise UserError(f"{file} is broken ({str(error).splitlines()[0]}); fetch it again.") from None
