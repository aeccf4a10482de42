"""A model to continue from: the encoder of a run or of an import, and its objective's other weights where they were kept."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as serialize
from torch import Tensor, nn

from mimcore import artifacts
from mimcore.errors import UserError
from mimcore.models import encoder as encoders
from mimcore.models import families

#: Decoder and mask token of a run that keeps them.
FILE = "objective.safetensors"


def other_weights(objective: nn.Module) -> dict[str, Tensor]:
    """All tensors of an objective that are not its encoder's."""
    return {name: tensor for name, tensor in objective.state_dict().items() if not name.startswith("encoder.")}


def save_objective(state: Mapping[str, Tensor], folder: Path) -> None:
    """Write ``objective.safetensors`` beside ``encoder.safetensors``."""
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    (folder / FILE).write_bytes(serialize(plain))


def begin(encoder: encoders.Encoder, objective: nn.Module, config: encoders.Config, root: Path) -> None:
    """Put the weights of ``models.initial`` in the place of the initial ones, where a definition has it.

    The image may be another: timm resamples positions. Everything else must be the same.

    Args:
        encoder: of the run; is changed.
        objective: of the run; is changed where ``initial.objective`` is set.
        config: of the model.
        root: a relative path starts here.

    Raises:
        UserError: the file is not the one that was pinned, or its tensors do not fit.
    """
    initial = config.initial
    if initial is None:
        return
    folder = root / Path(initial.path).expanduser()
    file = folder / "encoder.safetensors"
    if not file.is_file():
        raise UserError(f"models.initial.path: there is no {file}; name the folder of a run or of an import.")
    digest = artifacts.file_digest(file)
    if not digest.startswith(initial.sha256):
        raise UserError(
            f"models.initial.sha256: {file} is not the file that was pinned; adopt it with 'sha256: {digest}'."
        )
    _transfer(folder, encoder, "models.initial")
    if initial.objective:
        _fill(objective, _read(folder))


def begin_after(encoder: encoders.Encoder, folder: Path) -> None:
    """Put the weights of a run's encoder in the place of the initial ones, for a phase that follows it (``use: weights``).

    The image may be another, as with ``models.initial``; the decoder and the like begin afresh.

    Args:
        encoder: of the phase; is changed.
        folder: of the run artifact.

    Raises:
        UserError: the weights do not fit, or there are none.
    """
    _transfer(folder, encoder, "study.phases")


def _transfer(folder: Path, encoder: encoders.Encoder, where: str) -> None:
    source = encoders.load(folder)
    try:
        families.transfer(source.module, encoder.module)
    except (ValueError, RuntimeError) as error:
        raise UserError(f"{where}: the encoder of {folder} ('{source.model_name}') does not fit: {error}") from None


def _read(folder: Path) -> dict[str, Tensor]:
    file = folder / FILE
    try:
        return load_file(file)
    except FileNotFoundError:
        raise UserError(
            f"models.initial.objective: {file} is missing; a run writes it with 'keep_decoder: true' in its objective."
        ) from None
    except SafetensorError as error:
        raise UserError(f"{file} is broken ({error}); delete it and make its run again.") from None


def _fill(objective: nn.Module, state: dict[str, Any]) -> None:
    wanted = other_weights(objective)
    problems = differences(wanted, state)
    if problems:
        raise UserError(
            f"models.initial.objective: {'; '.join(problems)}. Give the objective the options that these came from."
        )
    objective.load_state_dict(state, strict=False)


def differences(wanted: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> list[str]:
    """In words, what keeps the given tensors from being the wanted ones; empty where nothing does."""
    missing = [name for name in wanted if name not in given]
    unexpected = [name for name in given if name not in wanted]
    other = [
        f"{name} is {tuple(given[name].shape)} and must be {tuple(wanted[name].shape)}"
        for name in wanted
        if name in given and given[name].shape != wanted[name].shape
    ]
    parts = [(f"{len(missing)} missing: ", missing), (f"{len(unexpected)} unexpected: ", unexpected), ("", other)]
    return [words + ", ".join(names[:4]) + (", ..." if len(names) > 4 else "") for words, names in parts if names]
