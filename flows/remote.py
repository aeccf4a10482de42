"""What checkouts without a common disk share: DVC's remote, a stage at a time.

``dvc push --run-cache`` and its counterparts send every entry of the run-cache each time, and leave out what
``cache: false`` keeps from the cache (the headline metric), so that no other checkout can restore that stage. Here only
the entries of one stage travel, with all that they name.
"""

import os
import posixpath
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import yaml
from dvc.config import NoRemoteError
from dvc.exceptions import CollectCacheError
from dvc.repo import Repo
from dvc.stage import PipelineStage, create_stage
from dvc.stage.cache import _can_hash, _get_stage_hash  # what DVC itself files a result under
from dvc.stage.loader import StageLoader

from mimcore.errors import UserError

if TYPE_CHECKING:
    from dvc.stage import Stage
    from dvc_data.hashfile.hash_info import HashInfo
    from dvc_objects.db import ObjectDB


def has_remote(root: Path) -> bool:
    """Whether a checkout has a default DVC remote."""
    with Repo(str(root)) as repo:
        return bool(repo.config["core"].get("remote"))


def fetch_inputs(root: Path, stage: str) -> None:
    """Bring what a stage reads, as ``dvc.lock`` names it, from the remote into a checkout.

    Raises:
        UserError: there is no remote, it cannot be reached, or it lacks something.
    """
    with _open(root) as (repo, _):
        upstream = repo.index.graph.successors(_stage(repo, stage))
        if targets := [f"{root / 'dvc.yaml'}:{_name(other)}" for other in upstream]:
            repo.pull(targets=targets, force=True)


def fetch_result(root: Path, stage: str) -> Literal["fetched", "unknown", "unfiled"]:
    """Bring the result of a stage into a checkout's cache, if the remote has one, whole, for these inputs.

    The stage itself is left as it is: ``dvc repro`` finds the result in its run-cache and restores it.

    Returns:
        ``unfiled`` where DVC files no result: the stage has no inputs or no outputs, or an input is missing.

    Raises:
        UserError: there is no remote, or it cannot be reached.
    """
    with _open(root) as (repo, remote):
        key = _key(_stage(repo, stage))
        if key is None:
            return "unfiled"
        here, there = _folders(repo, remote, key)
        entries = [posixpath.basename(path) for path in remote.fs.find(there)] if remote.fs.exists(there) else []
        known = False
        for entry in entries:
            part = here.parents[2] / f".{key}-{entry}.part-{os.getpid()}-{threading.get_ident()}"
            part.parent.mkdir(parents=True, exist_ok=True)
            try:
                remote.fs.get_file(posixpath.join(there, entry), str(part))
                if _transfer(repo, part, repo.cloud.pull):
                    here.mkdir(parents=True, exist_ok=True)  # DVC stumbles over one that is empty
                    part.replace(here / entry)
                    known = True
            finally:
                part.unlink(missing_ok=True)
        return "fetched" if known else "unknown"


def publish(root: Path, *stages: str) -> int:
    """Send results to the remote: outputs, then the run-cache entries by which other checkouts find them.

    Args:
        root: a checkout.
        stages: names of stages; all if none is given.

    Returns:
        How many stages had a result that the remote lacked. DVC files none of a stage without inputs or outputs.

    Raises:
        UserError: there is no remote, or it cannot be written.
    """
    sent = set()
    with _open(root) as (repo, remote):
        runs = posixpath.join(remote.path, "runs")
        known = (
            {posixpath.relpath(path, remote.path) for path in remote.fs.find(runs)} if remote.fs.exists(runs) else set()
        )
        for stage in [_stage(repo, name) for name in stages] or repo.index.stages:
            if (key := _key(stage)) is None:
                continue
            here, there = _folders(repo, remote, key)
            for entry in sorted(path for path in here.glob("*") if not path.name.startswith(".")):
                target = posixpath.join(there, entry.name)
                # The objects first: an entry must never name what is not there.
                if posixpath.relpath(target, remote.path) not in known and _transfer(repo, entry, repo.cloud.push):
                    remote.fs.put_file(str(entry), target)
                    sent.add(stage.addressing)
    return len(sent)


@contextmanager
def _open(root: Path) -> Iterator[tuple[Repo, "ObjectDB"]]:
    """A checkout and the part of its remote that holds the run-cache."""
    with Repo(str(root)) as repo:
        try:
            yield repo, repo.cloud.get_remote_odb(None, hash_name="md5-dos2unix")
        except NoRemoteError:
            raise UserError(
                f"{root} has no DVC remote; add one with 'dvc remote add --default NAME URL', or set 'share: disk' "
                "in the cluster file."
            ) from None
        except Exception as error:  # every kind of storage raises its own
            name = repo.config["core"]["remote"]
            reason = " ".join(str(error).split()) or type(error).__name__
            raise UserError(
                f"the DVC remote '{name}' of {root} failed: {reason}; see that it can be reached ('dvc status --cloud') and "
                "holds what this study has made ('dvc push')."
            ) from error


def _folders(repo: Repo, remote: "ObjectDB", key: str) -> tuple[Path, str]:
    """Where a checkout and its remote keep the run-cache entries of a key."""
    here = Path(repo.stage_cache.cache_dir) / key[:2] / key
    return here, posixpath.join(remote.path, "runs", key[:2], key)


def _transfer(repo: Repo, entry: Path, move: Callable[[set["HashInfo"]], object]) -> bool:
    """Move the objects that a run-cache entry names, those of ``cache: false`` too; whether all are here afterwards."""
    found = yaml.safe_load(entry.read_text(encoding="utf-8"))
    where = {"path": str(Path(repo.root_dir) / "dvc.yaml"), "wdir": repo.root_dir}
    stage = create_stage(PipelineStage, repo, cmd=found["cmd"], outs=[out["path"] for out in found["outs"]], **where)
    StageLoader.fill_from_lock(stage, found)
    try:
        for objects in stage.get_used_objs().values():
            move(objects)
    except CollectCacheError:  # a folder's list of files is nowhere
        return False
    return bool(stage.outs_cached())


def _name(stage: "Stage") -> str:
    return str(stage.addressing.rpartition(":")[2])


def _stage(repo: Repo, name: str) -> "Stage":
    return next(stage for stage in repo.index.stages if _name(stage) == name)


def _key(stage: "Stage") -> str | None:
    """What DVC files a stage's result under; None where it files none, or an input is missing."""
    if not all(dep.exists for dep in stage.deps):
        return None
    stage.save_deps()
    return str(_get_stage_hash(stage)) if _can_hash(stage) else None
