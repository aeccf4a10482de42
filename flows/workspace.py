"""Where a flow run works: the user's checkout as it is, or a git worktree on the same DVC cache that ends as an experiment."""

import hashlib
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from dvc.config import Config
from dvc.repo import Repo

from flows.graph import Graph
from flows.parameters import CURRENT, overridden, study_file
from flows.resources import wait_for
from flows.stage import go_on
from mimcore import layout
from mimcore.errors import UserError
from mimcore.study import Study

WORKTREES = layout.SCRATCH / "worktrees"
#: Untracked files are copied into a worktree; more than this is data that belongs into .gitignore. Bytes.
MOST_UNTRACKED = 100 * 2**20
#: Pools that are made from their definition, and lie nowhere: their listing says nothing that the study does not say.
GENERATED = {"digits"}
#: Free space that a flow run leaves to others, bytes.
MARGIN = 2**30


@dataclass(frozen=True)
class Workspace:
    """A folder with a study in force, and the checkout that it belongs to."""

    root: Path
    main: Path
    """The user's checkout; the same folder as ``root`` where nothing is overridden."""
    experiment: str | None = None
    """Name of the DVC experiment that this ends as; None in the user's checkout."""


@contextmanager
def open_workspace(
    main: Path, study: str | None, overrides: Mapping[str, Any], name: str | None
) -> Iterator[Workspace]:
    """Yield a workspace with the study in force.

    Without overrides, name and another study it is the user's checkout. Else it is a git worktree that has the
    uncommitted edits, untracked files and local DVC configuration of the checkout. If the block ends well, it is saved as a DVC
    experiment and removed; if not, it is kept, so that the next run of the same goes on in it.

    Args:
        main: the user's checkout.
        study: ``current`` or None for its ``params.yaml``, else a name of ``studies/``.
        overrides: dotted paths of the study file and their values.
        name: of the experiment; made from the study and the overrides if None.

    Raises:
        UserError: the study is wrong, the checkout is no git and DVC repository, or stages are stale after the block.
    """
    main = main.resolve()
    study = study or CURRENT
    if study == CURRENT and not overrides and not name:
        Study.read(main / "params.yaml")
        _want_listings(main)
        yield Workspace(main, main)
        return
    if not (main / ".dvc").is_dir() or not (main / ".git").exists():
        raise UserError(
            f"{main} is no git and DVC repository, which a run with overrides needs; run 'git init' and 'dvc init'."
        )
    source = study_file(main, study)
    content = overridden_text(source.read_text(encoding="utf-8"), overrides)
    base = _Base.of(main)
    digest = hashlib.sha256(json.dumps([base.head, base.tree, base.untracked_digest, content]).encode()).hexdigest()[:8]
    experiment = name or f"{_readable(study, overrides)}-{digest}"
    root = main / WORKTREES / (f"{name}-{digest}" if name else experiment)
    root.parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as held:
        wait_for(root.with_name(f"{root.name}.lock"), held, go_on)
        if not (root / ".mimcore").exists():  # made last: a worktree without it was never whole
            _remove(main, root)
            _make(main, root, base)
        (root / "params.yaml").write_text(content, encoding="utf-8")
        Study.read(root / "params.yaml")
        _want_listings(root)
        _bring_artifacts(root)
        yield Workspace(root, main, experiment)
        graph = Graph(root)
        if stale := graph.stale_ones(graph.stages):  # DVC would save old results as if they were these
            first = next(name for name in graph.stages if name in stale)
            raise UserError(
                f"{experiment} is not saved: {len(stale)} stages of {root} are stale, {first} first; 'dvc status' there says why."
            )
        save_experiment(root, experiment)
        _remove(main, root)


def overridden_text(text: str, overrides: Mapping[str, Any]) -> str:
    """A study file with other values at dotted paths; its opening comment is kept."""
    if not overrides:
        return text
    changed = overridden(yaml.safe_load(text), overrides)
    opening = re.match(r"(?:#.*\n)*", text)
    said = "".join(f"#   {path}: {json.dumps(value)}\n" for path, value in sorted(overrides.items()))
    body = yaml.safe_dump(changed, sort_keys=False, allow_unicode=True, width=120)
    return f"{opening.group() if opening else ''}# Overridden by a flow run:\n{said}\n{body}"


@dataclass(frozen=True)
class _Base:
    """What a worktree starts from."""

    head: str
    edits: str
    """A commit of the uncommitted edits; empty without any."""
    tree: str
    untracked: tuple[str, ...]
    untracked_digest: str

    @classmethod
    def of(cls, main: Path) -> "_Base":
        head = _git(main, "rev-parse", "HEAD")
        edits = _git(main, "stash", "create")
        names = _untracked(main)
        taken = sum((main / n).lstat().st_size for n in names)
        if taken > MOST_UNTRACKED:
            raise UserError(
                f"{main} has {taken / 2**20:,.0f} MiB of files that git neither tracks nor ignores, such as {names[0]}; "
                "name them in .gitignore or commit them: a run with overrides works in a copy of the checkout."
            )
        digest = hashlib.sha256()
        for n in names:
            digest.update(n.encode() + b"\0" + ((main / n).read_bytes() if (main / n).is_file() else b""))
        return cls(head, edits, _git(main, "rev-parse", f"{edits or head}^{{tree}}"), names, digest.hexdigest())


def _make(main: Path, root: Path, base: _Base) -> None:
    _git(main, "worktree", "add", "--detach", "--force", str(root), base.head)
    if base.edits:
        _git(root, "restore", f"--source={base.edits}", "--worktree", "--", ".")
    for name in base.untracked:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(main / name, root / name, follow_symlinks=False)
    share_cache(main, root)
    (main / layout.SCRATCH).mkdir(exist_ok=True)
    (root / ".mimcore").symlink_to(main / layout.SCRATCH)


def share_cache(main: Path, root: Path) -> None:
    """Give the worktree the checkout's DVC configuration, relative paths resolved, and its cache."""
    dvc_dir = str(root / ".dvc")
    with Repo(str(main)) as repo:
        cache = str(repo.cache.legacy.path)
        levels = [repo.config.load_one(level) for level in ("repo", "local")]
    with Config(dvc_dir=dvc_dir, validate=True).edit("local") as local:
        for level in levels:
            for section, options in level.items():
                if section in ("remote", "machine", "db"):
                    for key, values in options.items():
                        local.setdefault(section, {}).setdefault(key, {}).update(values)
                else:
                    local.setdefault(section, {}).update(options)
        local.setdefault("cache", {})["dir"] = cache


def _bring_artifacts(root: Path) -> None:
    """Check out every output that the lock file knows and the cache has: what is up to date needs no process then."""
    with Repo(str(root), _wait_for_lock=True) as repo:
        if (root / "dvc.lock").exists():
            repo.checkout(force=True, allow_missing=True)


def save_experiment(root: Path, name: str) -> None:
    """Save the state of a worktree as a DVC experiment of its checkout; one of the same name is replaced.

    Raises:
        UserError: DVC could not.
    """
    # The user's own, and metrics that git keeps: DVC would leave out one that was never committed.
    also = [option for file in _untracked(root) for option in ("--include-untracked", file)]
    command = [
        sys.executable,
        "-m",
        "dvc",
        "--quiet",
        "--wait-for-lock",
        "exp",
        "save",
        "--force",
        "--name",
        name,
        *also,
    ]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(f"dvc exp save failed in {root}: {_last_line(done.stderr)}")


def _remove(main: Path, root: Path) -> None:
    """Remove a worktree and what DVC keeps for it elsewhere; the experiment and the cache stay."""
    if root.exists():
        if (root / ".dvc" / "config").exists():
            with Repo(str(root)) as repo:
                state = Path(repo.site_cache_dir)
            shutil.rmtree(state, ignore_errors=True)
        (root / ".mimcore").unlink(missing_ok=True)
        _git(main, "worktree", "remove", "--force", "--force", str(root), check=False)
        shutil.rmtree(root, ignore_errors=True)
    _git(main, "worktree", "prune")


def prune(main: Path) -> list[str]:
    """Remove the worktrees of runs that failed and that no flow run works in; returns their names, sorted."""
    removed = []
    for root in sorted(path for path in (main / WORKTREES).glob("*") if path.is_dir()):
        with ExitStack() as held:
            from flows.resources import try_lock

            if try_lock(root.with_name(f"{root.name}.lock"), held):
                _remove(main, root)
                removed.append(root.name)
    return removed


def want_space(root: Path, cache: Path, outputs: int) -> None:
    """Refuse to start where the disk cannot hold what is to be made.

    Args:
        root: the workspace.
        cache: DVC's cache.
        outputs: what the stale stages' outputs will take, bytes. Each is in the cache and, as a copy, in the workspace.

    Raises:
        UserError: with the numbers.
    """
    places = {path.stat().st_dev: path for path in (cache, root)}
    each = outputs * 2 // len(places)
    for path in places.values():
        free = shutil.disk_usage(path).free
        if free < each + MARGIN:
            raise UserError(
                f"the disk of {path} has {free / 2**30:.1f} GiB free, and this run needs {each / 2**30:.1f} GiB for its "
                f"outputs and {MARGIN / 2**30:.0f} GiB to spare; free some with 'dvc gc' (docs/flows.md says how)."
            )


def _want_listings(root: Path) -> None:
    """See that every pool is pinned; one that is made from its definition is listed now."""
    study = Study.read(root / "params.yaml")
    for pool in study.grid.pools:
        if (root / layout.listing(pool)).exists():
            continue
        if study.options("pools", pool).get("format") not in GENERATED:
            raise UserError(
                f"{layout.listing(pool)} is missing: pin the pool with 'mimcore scan {pool}' in the checkout, and commit it."
            )
        command = [sys.executable, "-m", "mimcore", "scan", pool]
        done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
        if done.returncode:
            raise UserError(_last_line(done.stderr).removeprefix("mimcore: "))


def _untracked(root: Path) -> tuple[str, ...]:
    """Files that git neither tracks nor ignores; in a worktree, the scratch folder is a link that it would follow."""
    names = _git(root, "ls-files", "--others", "--exclude-standard", "-z").split("\0")
    return tuple(name for name in names if name and name != str(layout.SCRATCH))


def _readable(study: str, overrides: Mapping[str, Any]) -> str:
    """A few words of the study and its overrides, for the name of an experiment."""
    words = [study]
    for path, value in sorted(overrides.items()):
        text = "-".join(map(str, value)) if isinstance(value, list) else str(value)
        words.append(f"{path.rpartition('.')[2]}-{text}")
    return re.sub(r"[^A-Za-z0-9]+", "-", "-".join(words)).strip("-")[:40].rstrip("-")


def _last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1].removeprefix("ERROR: ") if lines else "it gave no reason"


def _git(folder: Path, *arguments: str, check: bool = True) -> str:
    done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=False)
    if check and done.returncode:
        raise UserError(f"git {arguments[0]} failed in {folder}: {_last_line(done.stderr)}")
    return done.stdout.strip()
