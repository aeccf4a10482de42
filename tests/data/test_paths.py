import subprocess
from pathlib import Path

import pytest

from mimcore.data.paths import main_checkout, pool_root


def git(folder: Path, *arguments: str) -> None:
    person = ["-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run(["git", "-C", str(folder), *person, *arguments], check=True, capture_output=True)


def test_a_worktree_uses_the_pools_of_the_main_checkout(tmp_path: Path) -> None:
    main = tmp_path / "main"
    (main / "study").mkdir(parents=True)
    git(tmp_path, "init", "-q", "main")
    (main / "study/params.yaml").write_text("")
    git(main, "add", ".")
    git(main, "commit", "-q", "-m", "first")
    git(main, "worktree", "add", "-q", str(tmp_path / "deep/tree"))
    assert main_checkout(main) == main
    assert main_checkout(tmp_path / "deep/tree") == main
    assert main_checkout(tmp_path / "deep/tree/study") == main / "study"
    assert pool_root({"path": "pools/a"}, tmp_path / "deep/tree/study") == main / "study/pools/a"


def test_without_git_or_in_a_submodule_a_folder_is_its_own(tmp_path: Path) -> None:
    assert main_checkout(tmp_path) == tmp_path
    (tmp_path / "real").mkdir()
    (tmp_path / ".git").write_text("gitdir: real\n")
    assert main_checkout(tmp_path) == tmp_path


def test_home_variables_and_the_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POOLS", "/somewhere")
    monkeypatch.setenv("HOME", "/home/me")
    assert pool_root({"path": "$POOLS/a"}, tmp_path) == Path("/somewhere/a")
    assert pool_root({"path": "~/a"}, tmp_path) == Path("/home/me/a")
    assert pool_root({"format": "digits"}, tmp_path) == tmp_path / "data/digits"
