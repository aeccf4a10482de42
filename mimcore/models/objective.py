"""What every objective has: the contract between an objective and the loop that trains it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor, nn

#: A row for each image: one tensor, or several by name.
Drawn = Tensor | dict[str, Tensor]


@dataclass(frozen=True)
class Given:
    """What an objective is built with beside its encoder and options.

    Attributes:
        prepared: folder that the module's ``prepare`` wrote for the run's subset. None where the module has no ``prepare``, and
            where a run is only counted: then any sizes do that the options allow.
        teacher: folder of the run artifact that the objective learns from, in a second phase of ``use: teacher``.
        root: relative paths in options start here.
        teacher_model: options of ``models`` of that teacher, where a run is only counted or timed: then any weights do.
    """

    prepared: Path | None = None
    teacher: Path | None = None
    root: Path = Path()
    teacher_model: Mapping[str, Any] | None = None


NOTHING = Given()


class Trained(nn.Module):
    """The base of ``Objective`` classes: ``draw`` and ``forward`` are theirs, everything else has a default.

    A module of ``mimcore/objectives`` has a ``Config`` and a class ``Objective(encoder, config, given)`` of this kind with an
    ``encoder`` (timm's module). It may have ``prepare(config, rows, folder)``, which writes what is learned from a subset before a
    run, such as a vocabulary.
    """

    #: The loss is no mean over images, so that a batch cannot go through the model in parts.
    whole_batch: bool = False
    #: A whole batch over several ranks is no matter: the objective gathers what its loss needs of the others' images.
    gathers: bool = False
    #: Columns of the subset that ``read`` needs, such as ``caption``.
    columns: tuple[str, ...] = ()

    def draw(self, batch: int, generator: Generator) -> Drawn:
        """Draw the randomness of a batch, a row per image; a part of the batch takes its rows of it.

        Args:
            batch: images, over all ranks.
            generator: of the CPU, so that the draws are the same on every device.

        Returns:
            A tensor, or several by name (always so where ``columns`` names some).
        """
        raise NotImplementedError

    def forward(self, images: Tensor, drawn: Any) -> dict[str, Tensor]:
        """The loss of a batch.

        Args:
            images: normalised, float ``(B, C, H, W)``.
            drawn: rows of what ``draw`` returned, and what ``read`` returned, by name.

        Returns:
            ``{"loss": float32 scalar}``, and parts of it.
        """
        raise NotImplementedError

    def read(self, rows: pa.Table) -> dict[str, Tensor]:
        """Turn ``columns`` of B images into tensors, a row per image; a null is an image of which nothing is known.

        It is called in a thread beside the training, and is a function of the rows alone.
        """
        return {}

    def copies(self, rows: pa.Table) -> NDArray[np.float64] | None:
        """How often each of N images is shown in an epoch, on average, float64 ``(N,)``; None for once each.

        Args:
            rows: ``columns`` of the whole subset.
        """
        return None

    def started(self) -> None:
        """Begin what follows the weights: the initial ones are in place now, and no step is taken."""

    def after_step(self, step: int, steps: int) -> None:
        """Change what follows the weights, such as a running average of them.

        Args:
            step: steps taken up to now, 1 after the first.
            steps: of the whole run.
        """

    def save_more(self, folder: Path) -> None:
        """Write what tasks need beside the encoder, such as a text tower, into the run artifact."""


def left_as_it_was(objective: Trained) -> bool:
    """Whether no weight of the encoder is trained, as in LiT (Zhai et al. 2022)."""
    return not any(parameter.requires_grad for parameter in objective.encoder.parameters())


def drawn_for(objective: Trained, batch: int, generator: Generator, rows: pa.Table | None = None) -> Drawn:
    """Draw for a batch and read its rows.

    Args:
        objective: draws and reads.
        batch: images.
        generator: of the draws.
        rows: of the images; None for images of which nothing is known.
    """
    drawn = objective.draw(batch, generator)
    if not objective.columns:
        return drawn
    return together(
        drawn, objective.read(unknown(objective, batch) if rows is None else rows.select(objective.columns))
    )


def together(drawn: Drawn, read: Mapping[str, Tensor]) -> Drawn:
    """What was drawn and what was read, by name."""
    if not read:
        return drawn
    if not isinstance(drawn, dict):
        raise TypeError("an objective that reads columns draws several tensors by name")
    return {**drawn, **read}


def unknown(objective: Trained, batch: int) -> pa.Table:
    """The columns of images of which nothing is known."""
    return pa.table({name: pa.nulls(batch) for name in objective.columns})


def rows_of(drawn: Drawn, part: slice) -> Drawn:
    """The rows of a part of the batch."""
    return {name: rows[part] for name, rows in drawn.items()} if isinstance(drawn, dict) else drawn[part]


def moved(drawn: Drawn, device: torch.device) -> Drawn:
    """On another device."""
    if isinstance(drawn, dict):
        return {name: rows.to(device, non_blocking=True) for name, rows in drawn.items()}
    return drawn.to(device, non_blocking=True)
