import hashlib
from pathlib import Path

import pytest
import yaml
from dvc.repo import Repo
from scratch_checkout import Scratch

from flows import workspace
from flows.graph import Graph
from flows.workspace import open_workspace, overridden_text, prune, want_space
from mimcore.errors import UserError

SHORTER = {"schedules.short.images_seen": 256}


def picture_of(root: Path) -> dict[str, str]:
    """Digest of every file of a checkout that is the user's."""
    files = [
        f
        for f in root.rglob("*")
        if f.is_file() and not {".git", ".mimcore", "tmp", "cache"} & set(f.relative_to(root).parts)
    ]
    return {str(f.relative_to(root)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


def test_without_overrides_it_is_the_checkout_itself(small_study: Scratch) -> None:
    with open_workspace(small_study.root, "current", {}, None) as found:
        assert found.root == found.main == small_study.root
        assert found.experiment is None
    assert not (small_study.root / ".mimcore").exists()


def test_a_worktree_has_the_edits_and_the_cache_and_ends_as_an_experiment(small_study: Scratch) -> None:
    root = small_study.root
    (root / ".dvc/config.local").write_text('[remote "store"]\n    url = ../../store\n')
    small_study.repro()
    small_study.git("add", "--all")
    small_study.git("commit", "--quiet", "--message", "Results")
    (root / "work.py").write_text((root / "work.py").read_text() + "# an edit\n")
    (root / "note.txt").write_text("of no one\n")
    (root / ".dvcignore").unlink()
    (root / "staged.txt").write_text("staged\n")
    small_study.git("add", "staged.txt")
    before, status = picture_of(root), small_study.git("status", "--porcelain")
    with open_workspace(root, "current", SHORTER, None) as found:
        inside = found.root
        assert inside.parent == root / ".mimcore/worktrees"
        assert (inside / "work.py").read_text().endswith("# an edit\n")
        assert (inside / "note.txt").read_text() == "of no one\n"
        assert (inside / "staged.txt").exists()
        assert not (inside / ".dvcignore").exists()
        assert yaml.safe_load((inside / "params.yaml").read_text())["schedules"]["short"]["images_seen"] == 256
        assert (inside / "out/tiny/data.txt").exists()  # from the cache
        assert Graph(inside).cache == Graph(root).cache
        with Repo(str(inside)) as repo:
            assert Path(repo.config["remote"]["store"]["url"]).resolve() == root.parent / "store"
        assert (inside / ".mimcore").resolve() == (root / ".mimcore").resolve()
        Scratch(inside).repro()
        (inside / "metric.json").write_text("{}\n")  # as a stage makes it that keeps it from DVC's cache
        name = found.experiment
    assert name is not None
    assert name.startswith("current-images-seen-256-")
    assert small_study.experiments() == {name}
    [saved] = [ref for ref in small_study.git("for-each-ref", "--format=%(refname)").split() if ref.endswith(name)]
    assert {"metric.json", "note.txt"} <= set(small_study.git("ls-tree", "-r", "--name-only", saved).split())
    assert not inside.exists()
    assert picture_of(root) == before
    assert small_study.git("status", "--porcelain") == status
    assert len(small_study.git("worktree", "list").splitlines()) == 1


def test_a_failed_run_keeps_its_worktree_and_the_next_goes_on_in_it(small_study: Scratch) -> None:
    with pytest.raises(RuntimeError), open_workspace(small_study.root, None, SHORTER, "shorter") as found:
        (found.root / "half").write_text("made so far")
        raise RuntimeError
    assert small_study.experiments() == set()
    not_made = pytest.raises(UserError, match=r"shorter is not saved: 2 stages of .* are stale, pretrain@\w+ first")
    with not_made, open_workspace(small_study.root, None, SHORTER, "shorter") as again:
        assert again.root == found.root
        assert (again.root / "half").exists()
        assert again.experiment == "shorter"
    assert small_study.experiments() == set()
    with open_workspace(small_study.root, None, SHORTER, "shorter") as last:
        assert last.root == found.root
        Scratch(last.root).repro()
    assert small_study.experiments() == {"shorter"}


def test_a_worktree_that_was_never_whole_is_made_anew_and_leftovers_are_pruned(small_study: Scratch) -> None:
    with pytest.raises(RuntimeError), open_workspace(small_study.root, None, SHORTER, None) as found:
        raise RuntimeError
    (found.root / ".mimcore").unlink()
    (found.root / "work.py").unlink()
    with pytest.raises(RuntimeError), open_workspace(small_study.root, None, SHORTER, None) as found:
        assert (found.root / "work.py").exists()
        assert prune(small_study.root) == []  # it is in use
        raise RuntimeError
    assert prune(small_study.root) == [found.root.name]
    assert not found.root.exists()


def test_overrides_keep_the_file_readable() -> None:
    text = overridden_text("# Quick: a question.\n# Cost  little\n\nfit: {bootstrap: 1000}\n", {"fit.bootstrap": 10})
    assert text.startswith("# Quick: a question.\n# Cost  little\n# Overridden by a flow run:\n#   fit.bootstrap: 10\n")
    assert yaml.safe_load(text) == {"fit": {"bootstrap": 10}}


def test_a_pool_that_is_not_pinned_is_refused(small_study: Scratch) -> None:
    text = (small_study.root / "params.yaml").read_text()
    pools = "  digits: {format: digits, images: 100, val_images: 10}\n"
    assert pools in text
    (small_study.root / "params.yaml").write_text(
        text.replace(pools, pools + "  mine: {format: folder, path: x}\n").replace(
            "pools: [digits]", "pools: [digits, mine]"
        )
    )
    with pytest.raises(UserError, match=r"listings/mine.json is missing: pin the pool with 'mimcore scan mine'"):
        open_workspace(small_study.root, None, {}, None).__enter__()


def test_a_disk_that_is_too_small_is_refused_with_the_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Usage:
        free = 3 * 2**30

    monkeypatch.setattr(workspace.shutil, "disk_usage", lambda path: Usage)
    want_space(tmp_path, tmp_path, 2**30)  # twice 1 GiB, and 1 GiB to spare
    with pytest.raises(UserError, match=r"has 3.0 GiB free, and this run needs 2.5 GiB .* and 1 GiB to spare"):
        want_space(tmp_path, tmp_path, 5 * 2**28)


def test_more_untracked_data_than_a_copy_should_take_is_refused(
    small_study: Scratch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workspace, "MOST_UNTRACKED", 10)
    (small_study.root / "photos.bin").write_bytes(b"x" * 11)
    with pytest.raises(UserError, match=r"such as photos.bin; name them in .gitignore"):
        open_workspace(small_study.root, None, SHORTER, None).__enter__()
