"""A run that cannot end well ends in one sentence and leaves nothing that could be taken for an artifact."""

import errno
import os
import resource
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_run
import torch

from mimcore.errors import UserError
from mimcore.training import checkpoint, step
from mimcore.training import pretrain as stage
from mimcore.training.state import Run
from mimcore.training.validation import fixed_loss


@contextmanager
def files_of_at_most(number_of_bytes: int) -> Iterator[None]:
    """The system refuses to write more into any one file, as a full disk does."""
    before, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (number_of_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (before, hard))


@pytest.fixture
def place(root: Path, tmp_path: Path) -> Path:
    """A study of its own, so that what is left behind can be told."""
    shutil.copytree(root / "artifacts/subsets", tmp_path / "artifacts/subsets")
    (tmp_path / "data").symlink_to(root / "data")
    return tmp_path


def left(place: Path) -> set[str]:
    """Every file that a run left, the lock aside."""
    folders = (place / "artifacts", place / ".mimcore")
    files = {file for folder in folders for file in folder.rglob("*") if file.is_file()}
    return {file.name for file in files if "subsets" not in file.parts} - {"lock"}


@pytest.mark.parametrize("poison", ["rate", "weights", "images"])
def test_a_loss_that_is_not_finite_ends_in_a_sentence(
    place: Path, monkeypatch: pytest.MonkeyPatch, poison: str
) -> None:
    declared = small_run.definition()
    if poison == "rate":
        declared = small_run.definition(base_learning_rate=1e30, warmup_images=0)
    elif poison == "weights":
        start = stage.start_run

        def poisoned(*arguments: Any) -> Run:
            run = start(*arguments)
            with torch.no_grad():
                run.objective.decoder.predict.weight[0, 0] = float("nan")
            return run

        monkeypatch.setattr(stage, "start_run", poisoned)
    else:
        crop = step.random_resized_crop
        monkeypatch.setattr(step, "random_resized_crop", lambda *a: crop(*a) * float("inf"))
    sentence = (
        r"the (\w+ loss is (nan|inf)|gradient was not finite for the last 10 steps,) after \d+ images seen; lower"
    )
    with pytest.raises(UserError, match=sentence) as e:
        small_run.train(place, "diverged", declared)
    assert "\n" not in str(e.value)
    assert left(place) == set()


def test_a_disk_that_fills_up_during_a_checkpoint_keeps_the_one_before(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = checkpoint._write_state

    def second_is_too_much(part: Path, state: Any) -> None:
        with files_of_at_most(50_000 if state["counts"]["step"] > 1 else 10_000_000):
            write(part, state)

    monkeypatch.setattr(checkpoint, "_write_state", second_is_too_much)
    with pytest.raises(UserError, match=r"cannot write .*checkpoint-0+32: file too large; nothing was left there"):
        small_run.train(place, "full", checkpoint_seconds=1e-9)
    assert left(place) == {"state.pt", "digests.json"}
    monkeypatch.undo()
    again = small_run.train(place, "full")
    assert again.told[0] == 16
    assert left(place) == small_run.FILES | {"full.json"}


def test_a_scratch_folder_that_turns_read_only_is_a_sentence(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(checkpoint, "_write_state", refuse)
    with pytest.raises(UserError, match=r"cannot write .*: read-only file system; nothing was left there"):
        small_run.train(place, "read-only", checkpoint_seconds=1e-9)
    assert left(place) == set()


def test_a_disk_that_fills_up_with_the_weights_leaves_no_artifact(place: Path) -> None:
    with files_of_at_most(50_000), pytest.raises(UserError, match=r"cannot write .*runs/full: file too large"):
        small_run.train(place, "full")
    assert left(place) == set()


@pytest.mark.parametrize("last", ["write_curve", "save_reconstructions"])
def test_a_disk_that_fills_up_with_the_last_file_leaves_no_artifact(
    place: Path, monkeypatch: pytest.MonkeyPatch, last: str
) -> None:
    def full(*arguments: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(stage, last, full)
    with pytest.raises(UserError, match=r"cannot write .*runs/full: no space left on device; nothing was left there"):
        small_run.train(place, "full")
    assert left(place) == set()


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda file: file.unlink(), "manifest.parquet is missing; bring it up to date with 'dvc repro'"),
        (lambda file: file.write_bytes(b"PAR1"), "manifest.parquet is not a Parquet file .*delete it"),
    ],
)
def test_a_subset_that_cannot_be_read_is_said_in_a_sentence(place: Path, harm: Any, message: str) -> None:
    harm(place / "artifacts/subsets/n150-s0/manifest.parquet")
    with pytest.raises(UserError, match=message):
        small_run.train(place, "unread")
    assert left(place) == set()


class _Table:
    """Images whose pixels tell their position."""

    def __init__(self, images: int) -> None:
        self.images = images

    def __len__(self) -> int:
        return self.images

    def get(self, positions: np.ndarray) -> np.ndarray:
        pixels = np.random.default_rng(0).integers(0, 256, (self.images, 3, 32, 32), np.uint8)
        return pixels[positions]


def test_the_validation_loss_depends_on_the_weights_and_images_alone() -> None:
    cpu = torch.device("cpu")
    run = stage.start_run(small_run.definition(), cpu)
    first = fixed_loss(run.objective, run.encoder, _Table(40), cpu, "float32")
    torch.manual_seed(99)
    assert fixed_loss(run.objective, run.encoder, _Table(40), cpu, "float32") == first
    assert run.objective.training
    assert all(p.grad is None for p in run.objective.parameters())
    with torch.no_grad():
        run.objective.decoder.predict.weight.mul_(1.1)
    assert fixed_loss(run.objective, run.encoder, _Table(40), cpu, "float32") != first


def test_the_validation_loss_is_the_mean_over_images_of_unequal_batches() -> None:
    cpu = torch.device("cpu")
    run = stage.start_run(small_run.definition(), cpu)
    whole = fixed_loss(run.objective, run.encoder, _Table(40), cpu, "float32", batch_size=16)
    losses = []

    def note(module: torch.nn.Module, arguments: Any, result: dict[str, torch.Tensor]) -> None:
        losses.append((float(result["loss"]), len(arguments[0])))

    run.objective.register_forward_hook(note)
    fixed_loss(run.objective, run.encoder, _Table(40), cpu, "float32", batch_size=16)
    assert [images for _, images in losses] == [16, 16, 8]
    assert whole == pytest.approx(sum(loss * images for loss, images in losses) / 40, rel=1e-12)
