"""Whole states that a run keeps on its way, in its artifact, from which other runs go on."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from mimcore import artifacts
from mimcore.errors import UserError
from mimcore.training.checkpoint import copied, write_tensors
from mimcore.training.schedule import Schedule, branch_start
from mimcore.training.state import Run

#: Within a run artifact: ``IMAGES_SEEN.pt`` for each state, and the SHA-256 of each in ``digests.json``.
FOLDER, DIGESTS = "states", "digests.json"


def keep(run: Run, folder: Path) -> None:
    """Write the state as it is now to ``IMAGES_SEEN.pt``; every rank must come here.

    Raises:
        UserError: the disk is full or cannot be written.
    """
    state = {"counts": run.counts(), "tensors": run.whole_tensors()}
    if run.ranks.first:
        with artifacts.file(folder / f"{run.images_seen}.pt") as part:
            write_tensors(part, copied(state))
    run.ranks.wait()


def hand_over(folder: Path, artifact: Path) -> None:
    """Move what a finished run has kept into its artifact, with the digests."""
    artifact.mkdir()
    files = sorted(folder.glob("*.pt"))
    for file in files:
        shutil.move(file, artifact / file.name)
    artifacts.write_json(artifact / DIGESTS, {f.name: artifacts.file_digest(artifact / f.name) for f in files})


def go_on(run: Run, trunk: Path, definition: Mapping[str, Any]) -> None:
    """Bring a branch to the state of its trunk from which it goes on; every rank must come here.

    Args:
        run: of the branch, at its start; is changed.
        trunk: folder of the trunk's run artifact.
        definition: of the branch.

    Raises:
        UserError: the branch cannot go on from this trunk, or the state is missing or broken.
    """
    file = trunk / FOLDER / f"{images_before(definition, run.schedule)}.pt"
    if artifacts.read_json(trunk / FOLDER / DIGESTS).get(file.name) != artifacts.file_digest(file):
        raise UserError(f"{file} is not as it was written; delete {trunk} and run 'dvc repro'.")
    state = torch.load(file, map_location="cpu", weights_only=True)
    run.restore(state["counts"], state["tensors"])


def images_before(definition: Mapping[str, Any], schedule: Schedule) -> int:
    """Images seen that a run need not be trained on: those of the state from which a branch goes on, else 0.

    Args:
        definition: of the run.
        schedule: of the run.

    Raises:
        UserError: the branch cannot go on from its trunk.
    """
    if definition.get("use") != "state":
        return 0
    try:
        return branch_start(Schedule.model_validate(dict(definition["after"]["schedule"])), schedule)
    except ValueError as error:
        raise UserError(f"schedules: {error}.") from None
