"""Checkpoints of a run in progress: written beside training, kept by twos, and believed only if every byte is as written."""

import shutil
import sys
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from mimcore import artifacts
from mimcore.errors import UserError
from mimcore.training.ranks import Ranks, sharded
from mimcore.training.state import Run

#: How many are kept: should the newest turn out to be broken, the one before it is taken.
KEPT = 2

STATE, SHARDS, DIGESTS = "state.pt", "shards", "digests.json"


class Checkpoints:
    """Those of one run, in its scratch folder.

    Each is a folder ``checkpoint-IMAGES_SEEN``, there whole or not at all, of ``state.pt``, ``digests.json`` and, where
    each rank has only a part of the tensors, ``shards``. None depends on the number of ranks. Ranks share the folder.
    """

    def __init__(self, folder: Path, ranks: Ranks) -> None:
        self.folder, self.ranks = folder, ranks
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._writing: Future[None] | None = None

    def __enter__(self) -> Self:
        if self.ranks.first:  # what a killed process left behind
            for part in self.folder.glob(".*.part-*"):
                shutil.rmtree(part, ignore_errors=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.shutdown(wait=True)

    def save(self, run: Run) -> None:
        """Take a copy of the state, and write it while training goes on; every rank must come here.

        Raises:
            UserError: the disk is full or cannot be written, now or for the checkpoint before; older ones are kept.
        """
        self.finish()
        path = self.folder / f"checkpoint-{run.images_seen:012d}"
        if self.ranks.told(path.exists()):
            return
        self._save(run, path)

    def finish(self) -> None:
        """Wait until what was saved is on the disk.

        Raises:
            UserError: it could not be written.
        """
        if self._writing is not None:
            writing, self._writing = self._writing, None
            writing.result()

    def resume(self, run: Run) -> bool:
        """Bring a run to its newest checkpoint that is whole, or leave it as it is if there is none.

        A broken one is set aside and said so.
        """
        found = self._newest() if self.ranks.first else None
        name = self.ranks.told(found.name if found else None)
        if name is None:
            return False
        restore(run, self.folder / name)
        return True

    def _save(self, run: Run, path: Path) -> None:
        counts, tensors = run.counts(), run.tensors()
        if sharded(run.objective):
            _write_in_parts(path, counts, tensors, self.ranks)
        elif self.ranks.first:
            state = copied({"counts": counts, "tensors": tensors})
            self._writing = self._writer.submit(self._write, path, state)

    def _write(self, path: Path, state: Mapping[str, Any]) -> None:
        with artifacts.directory(path) as part:
            _write_state(part, state)
        for old in self._all()[KEPT:]:
            shutil.rmtree(old, ignore_errors=True)

    def _all(self) -> list[Path]:
        """Newest first."""
        return sorted(self.folder.glob("checkpoint-*"), reverse=True)

    def _newest(self) -> Path | None:
        broken = []
        for path in self._all():
            if whole(path):
                break
            aside = path.with_name(f"broken-{path.name}")
            shutil.rmtree(aside, ignore_errors=True)
            broken.append(path.rename(aside))
        else:
            path = None
        if broken:
            then = f"goes on from the one before, {path.name}" if path else "starts over"
            print(f"mimcore: a checkpoint was broken; it is now {broken[0]}, and training {then}.", file=sys.stderr)
        return path


def whole(path: Path) -> bool:
    """Whether every file of a saved state is as it was written, by its SHA-256."""
    try:
        digests = artifacts.read_json(path / DIGESTS)
        return STATE in digests and all(artifacts.file_digest(path / name) == told for name, told in digests.items())
    except (UserError, OSError, ValueError, TypeError, AttributeError):
        return False


def restore(run: Run, path: Path) -> None:
    """Bring a run to a saved state, whatever the number of ranks that saved it.

    Raises:
        UserError: this rank does not see it.
    """
    try:
        state = torch.load(path / STATE, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(
            f"{path} is seen by the first rank, but not by rank {run.ranks.rank}; let the ranks share one disk."
        ) from None
    tensors = state.get("tensors")
    if tensors is None:
        tensors = run.tensors()
        load(tensors, checkpoint_id=path / SHARDS, no_dist=run.ranks.world_size == 1)
    run.restore(state["counts"], tensors)


def _write_in_parts(path: Path, counts: Mapping[str, Any], tensors: dict[str, Any], ranks: Ranks) -> None:
    """Each rank writes its own parts of the tensors (torch.distributed.checkpoint), while training waits."""
    with ExitStack() as stack:
        part = ranks.told(stack.enter_context(artifacts.directory(path)) if ranks.first else None)
        try:
            save(tensors, checkpoint_id=part / SHARDS)
        except CheckpointException as error:
            first = next(iter(error.failures.values()))
            raise UserError(
                f"cannot write {path}: {first[0]}; nothing was left there. Free or mend the disk and run again."
            ) from error
        if ranks.first:
            _write_state(part, {"counts": counts})
    ranks.wait()


def write_tensors(file: Path, state: Mapping[str, Any]) -> None:
    """Write a state by torch, so that ``torch.load(weights_only=True)`` reads it.

    Raises:
        OSError: the disk is full or cannot be written.
    """
    with file.open("wb") as stream:
        try:
            torch.save(dict(state), stream)
        except RuntimeError as error:  # torch's writer fails once more while it ends, and hides what the disk said
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise


def _write_state(part: Path, state: Mapping[str, Any]) -> None:
    write_tensors(part / STATE, state)
    files = sorted(file for file in part.rglob("*") if file.is_file())
    artifacts.write_json(part / DIGESTS, {str(f.relative_to(part)): artifacts.file_digest(f) for f in files})


def copied(value: Any) -> Any:
    """A copy on the CPU that later steps do not change; equal states give equal bytes, for which pickle needs equal strings to be one."""
    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, Mapping):
        return {copied(key): copied(part) for key, part in value.items()}
    if isinstance(value, str):
        return sys.intern(value)
    if isinstance(value, list | tuple):
        return type(value)(copied(part) for part in value)
    return value
