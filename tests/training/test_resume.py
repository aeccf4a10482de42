"""A run that was killed goes on from its checkpoint, bit for bit; a checkpoint of anything else is left alone."""

import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import small_run
import torch
from small_run import Trained

from mimcore.errors import UserError
from mimcore.training import checkpoint
from mimcore.training.checkpoint import load_checkpoint, save_checkpoint, scratch, scratch_key

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
        patch.setattr(checkpoint.artifacts, "libraries", lambda: {"torch": "1.0"})
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


@pytest.mark.parametrize("harm", [_truncated, _flipped, lambda data: b"", lambda data: b"not a checkpoint"])
def test_a_broken_checkpoint_is_set_aside_with_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], harm: Callable[[bytes], bytes]
) -> None:
    save_checkpoint(tmp_path, {"step": 3, "weights": torch.randn(5000)})
    file = tmp_path / "checkpoint.pt"
    harmed = harm(file.read_bytes())
    file.write_bytes(harmed)
    assert load_checkpoint(tmp_path) is None
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert "checkpoint.broken.pt, and training starts over" in line
    assert (tmp_path / "checkpoint.broken.pt").read_bytes() == harmed
    assert load_checkpoint(tmp_path) is None  # there is none any more: nothing more to say
    assert capsys.readouterr().err == ""


def test_no_damaged_byte_goes_unseen(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, {"step": 3, "weights": torch.arange(300.0)})
    file = tmp_path / "checkpoint.pt"
    data = file.read_bytes()
    for place in range(0, len(data), 3):
        file.write_bytes(data[:place] + bytes([data[place] ^ 255]) + data[place + 1 :])
        found = load_checkpoint(tmp_path)  # padding is nobody's
        assert found is None or (found["step"] == 3 and torch.equal(found["weights"], torch.arange(300.0))), place


def test_training_starts_over_from_a_broken_checkpoint(root: Path, undisturbed: Trained) -> None:
    assert small_run.train_in_child(root, "broken", 7, 7)[0] == -signal.SIGKILL
    (file,) = (root / ".mimcore/runs").glob("*/checkpoint.pt")
    file.write_bytes(_truncated(file.read_bytes()))
    status, over = small_run.train_in_child(root, "broken")
    assert status == 0
    assert over.told[0] == 0
    assert over.bytes() == undisturbed.bytes()


def test_a_checkpoint_comes_back_as_it_was(tmp_path: Path) -> None:
    state = {"step": 3, "weights": torch.randn(7), "curve": [{"loss": 0.5, "split": "val"}]}
    save_checkpoint(tmp_path, state)
    found = load_checkpoint(tmp_path)
    assert found is not None
    assert torch.equal(found.pop("weights"), state.pop("weights"))  # type: ignore[arg-type]
    assert found == state


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
