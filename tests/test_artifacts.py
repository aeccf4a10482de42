import errno
from pathlib import Path

import pytest

from mimcore import artifacts
from mimcore.errors import UserError


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "a" / "b"
    with pytest.raises(RuntimeError), artifacts.directory(target) as part:
        (part / "x").write_text("half")
        raise RuntimeError
    assert not target.exists()
    with artifacts.directory(target) as part:
        (part / "x").write_text("1")
    with artifacts.directory(target) as part:
        (part / "y").write_text("2")
    assert [p.name for p in target.iterdir()] == ["y"]
    assert [p.name for p in target.parent.iterdir()] == ["b"]


def test_a_failed_write_keeps_the_old_file(tmp_path: Path) -> None:
    artifacts.write_json(tmp_path / "v.json", {"old": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        artifacts.write_json(tmp_path / "v.json", {"new": float("nan")})
    assert artifacts.read_json(tmp_path / "v.json") == {"old": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["v.json"]


@pytest.mark.parametrize("kind", ["file", "directory"])
def test_a_full_disk_is_one_sentence(tmp_path: Path, kind: str) -> None:
    write = artifacts.file if kind == "file" else artifacts.directory
    with (
        pytest.raises(UserError, match=r"cannot write .*out: no space left on device; nothing was left there"),
        write(tmp_path / "out"),
    ):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert list(tmp_path.iterdir()) == []


def test_reading_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"is missing; bring it up to date with 'dvc repro'"):
        artifacts.read_json(tmp_path / "x.json")
    (tmp_path / "x.json").write_text('{"a": ')
    with pytest.raises(UserError, match="is not valid JSON"):
        artifacts.read_json(tmp_path / "x.json")


def test_provenance_is_written_only_for_work_that_ended_well(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), artifacts.Provenance(tmp_path / "p.json", "stage", {"a": 1}, {}):
        raise RuntimeError
    assert not (tmp_path / "p.json").exists()
    with artifacts.Provenance(tmp_path / "p.json", "stage", {"a": 1}, {"in": "x"}) as provenance:
        provenance.record["images_seen"] = 7
    record = artifacts.read_json(tmp_path / "p.json")
    assert record["definition"] == {"a": 1}
    assert record["images_seen"] == 7
    assert record["libraries"]["torch"]
    assert record["wall_seconds"] >= 0


def test_digest_does_not_depend_on_order() -> None:
    assert artifacts.digest({"a": 1, "b": [1, 2]}) == artifacts.digest({"b": [1, 2], "a": 1})
    assert artifacts.digest({"a": 1}) != artifacts.digest({"a": 2})
