"""A run that was killed goes on from its checkpoint, bit for bit; a checkpoint of anything else is left alone."""

import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import small_run
import torch
from small_run import Trained

from mimcore.errors import UserError
from mimcore.training import checkpoint
from mimcore.training import scratch as scratch_folder
from mimcore.training.checkpoint import Checkpoints, whole
from mimcore.training.optimizer import set_learning_rate
from mimcore.training.ranks import ALONE
from mimcore.training.scratch import scratch, scratch_key
from mimcore.training.state import Run, start_run

SUBSET = {"manifest.parquet": "aa", "validation.parquet": "bb"}


@pytest.mark.parametrize(
    ("save_at", "kill_at", "execution"),
    [
        pytest.param(7, 7, {}, id="right after a checkpoint"),
        pytest.param(
            13, 18, {"workers": 2, "image_cache_mib": 0}, id="some steps later, and resumed with other workers"
        ),
    ],
)
def test_killed_and_started_again_gives_the_same_bytes(
    root: Path, undisturbed: Trained, save_at: int, kill_at: int, execution: dict[str, Any]
) -> None:
    name = f"killed{kill_at}"
    status, killed = small_run.train_in_child(root, name, save_at, kill_at)
    assert status == -signal.SIGKILL
    assert not killed.folder.exists()
    assert not small_run.provenance(root, name).exists()
    status, resumed = small_run.train_in_child(root, name, **execution)
    assert status == 0
    assert resumed.told[0] == save_at * 16
    assert resumed.told[1:] == [16 * step for step in range(save_at + 1, small_run.STEPS + 1)]
    assert resumed.bytes() == undisturbed.bytes()


def test_a_checkpoint_is_for_its_definition_its_subset_and_its_code(monkeypatch: pytest.MonkeyPatch) -> None:
    definition = small_run.definition()
    key = scratch_key(definition, SUBSET)
    assert scratch_key(small_run.definition(), dict(SUBSET)) == key
    others = [
        scratch_key(small_run.definition(seed="s1"), SUBSET),
        scratch_key(small_run.definition(weight_decay=0.04), SUBSET),
        scratch_key(definition | {"model": small_run.MODEL | {"depth": 2}}, SUBSET),
        scratch_key(definition, SUBSET | {"manifest.parquet": "cc"}),
        scratch_key(definition, SUBSET | {"validation.parquet": "cc"}),
    ]
    read = Path.read_text
    for edited in ("schedule.py", "mae.py", "crops.py"):
        with monkeypatch.context() as patch:
            patch.setattr(Path, "read_text", lambda p, *a, _e=edited, **k: read(p, *a, **k) + "#" * (p.name == _e))
            others.append(scratch_key(definition, SUBSET))
    with monkeypatch.context() as patch:
        patch.setattr(scratch_folder.artifacts, "libraries", lambda: {"torch": "1.0"})
        others.append(scratch_key(definition, SUBSET))
    assert len({key, *others}) == 1 + len(others)
    assert scratch_key(definition, SUBSET) == key


def test_what_only_translates_is_no_part_of_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "mimcore.study", raising=False)
    key = scratch_key({}, SUBSET)
    import mimcore.study  # noqa: F401

    assert scratch_key({}, SUBSET) == key


def _truncated(data: bytes) -> bytes:
    return data[: len(data) // 2]


def _flipped(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 255]) + data[middle + 1 :]


def run_at(step: int) -> Run:
    """A run whose weights and moments tell the step."""
    run = start_run(small_run.definition(ema_decay=0.5), torch.device("cpu"))
    run.loss_sum += 1.5
    for run.step in range(1, step + 1):
        for parameter in run.objective.parameters():
            parameter.grad = torch.full_like(parameter, float(run.step)) if parameter.requires_grad else None
        set_learning_rate(run.optimizer, 0.1)
        run.optimizer.step()
        assert run.average
        run.average.update()
    run.optimizer.zero_grad(set_to_none=True)
    return run


def saved(folder: Path, *steps: int) -> list[Run]:
    runs = [run_at(step) for step in steps]
    with Checkpoints(folder, ALONE) as checkpoints:
        for run in runs:
            checkpoints.save(run)
        checkpoints.finish()
    return runs


def flat(run: Run) -> dict[str, torch.Tensor]:
    """Every tensor of the state, by its place."""

    def walk(value: Any, path: str) -> Iterator[tuple[str, torch.Tensor]]:
        if isinstance(value, torch.Tensor):
            yield path, value
        elif isinstance(value, Mapping):
            for key, part in value.items():
                yield from walk(part, f"{path}/{key}")

    return dict(walk({"counts": run.counts(), "tensors": run.tensors()}, ""))


def resumed(folder: Path) -> Run | None:
    run = run_at(1)
    with Checkpoints(folder, ALONE) as checkpoints:
        return run if checkpoints.resume(run) else None


def test_a_checkpoint_comes_back_as_it_was_and_two_are_kept(tmp_path: Path) -> None:
    runs = saved(tmp_path, 2, 3, 5)
    assert {file.name for file in tmp_path.iterdir()} == {f"checkpoint-{16 * step:012d}" for step in (3, 5)}
    found = resumed(tmp_path)
    assert found is not None
    assert found.step == 5
    wanted, got = flat(runs[-1]), flat(found)
    assert set(got) == set(wanted)
    assert len(wanted) > 50
    for name, tensor in wanted.items():
        assert torch.equal(got[name], tensor), name


def test_what_is_saved_is_the_state_of_that_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Training goes on while a thread writes."""
    go, write = threading.Event(), checkpoint._write_state
    monkeypatch.setattr(checkpoint, "_write_state", lambda *a: (go.wait(10), write(*a)))
    run = run_at(3)
    before = {name: tensor.clone() for name, tensor in flat(run).items()}
    with Checkpoints(tmp_path, ALONE) as checkpoints:
        checkpoints.save(run)
        with torch.no_grad():
            for parameter in run.objective.parameters():
                parameter.add_(1)
        go.set()
        checkpoints.finish()
    found = resumed(tmp_path)
    assert found is not None
    assert all(torch.equal(tensor, before[name]) for name, tensor in flat(found).items())


@pytest.mark.parametrize("file", ["state.pt", "digests.json"])
@pytest.mark.parametrize("harm", [_truncated, _flipped, lambda data: b"", lambda data: b"not a checkpoint"])
def test_a_broken_newest_is_set_aside_for_the_one_before(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], harm: Callable[[bytes], bytes], file: str
) -> None:
    saved(tmp_path, 2, 3)
    newest, older = (tmp_path / f"checkpoint-{16 * step:012d}" for step in (3, 2))
    harmed = harm((newest / file).read_bytes())
    (newest / file).write_bytes(harmed)
    found = resumed(tmp_path)
    assert found is not None
    assert found.step == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert f"broken-{newest.name}, and training goes on from the one before, {older.name}" in line
    assert (tmp_path / f"broken-{newest.name}" / file).read_bytes() == harmed
    (older / "state.pt").unlink()
    assert resumed(tmp_path) is None
    assert "and training starts over" in capsys.readouterr().err
    assert resumed(tmp_path) is None  # there is none any more: nothing more to say
    assert capsys.readouterr().err == ""


def test_no_damaged_byte_goes_unseen(tmp_path: Path) -> None:
    saved(tmp_path, 2)
    folder = tmp_path / f"checkpoint-{32:012d}"
    for name in ("state.pt", "digests.json"):
        data = (folder / name).read_bytes()
        for place in range(0, len(data), max(1, len(data) // 300)):
            (folder / name).write_bytes(data[:place] + bytes([data[place] ^ 255]) + data[place + 1 :])
            assert not whole(folder), (name, place)
        (folder / name).write_bytes(data)
    assert whole(folder)


def test_training_starts_over_from_a_broken_checkpoint(root: Path, undisturbed: Trained) -> None:
    assert small_run.train_in_child(root, "broken", 7, 7)[0] == -signal.SIGKILL
    (file,) = (root / ".mimcore/runs").glob("*/checkpoint-*/state.pt")
    file.write_bytes(_truncated(file.read_bytes()))
    status, over = small_run.train_in_child(root, "broken")
    assert status == 0
    assert over.told[0] == 0
    assert over.bytes() == undisturbed.bytes()


def test_a_run_is_trained_by_one_process_at_a_time(tmp_path: Path) -> None:
    with (
        scratch(tmp_path / "run"),
        pytest.raises(UserError, match=r"trained already, by process \d+"),
        scratch(tmp_path / "run"),
    ):
        pass
    with scratch(tmp_path / "run") as folder:
        assert folder.is_dir()


def test_a_scratch_folder_that_cannot_be_made_is_said_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(UserError, match=r"cannot use the scratch folder .*run: not a directory"),
        scratch(tmp_path / "file/run"),
    ):
        pass
