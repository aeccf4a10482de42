"""What checkouts without a common disk share: DVC's remote, a stage at a time.

``dvc push --run-cache`` and its counterparts send every entry of the run-cache each time, and leave out what
``cache: false`` keeps from the cache (the headline metric), so that no other checkout can restore that stage. Here only
the entries of one stage travel, with all that they name.
"""

import posixpath
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import yaml
from dvc.config import NoRemoteError
from dvc.exceptions import DvcException
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
        UserError: there is no remote, or it lacks something.
    """
    with Repo(str(root)) as repo:
        _remote(repo)
        upstream = [other.addressing for other in repo.index.graph.successors(_stage(repo, stage))]
        if not upstream:
            return
        try:
            repo.pull(targets=[f"{root / 'dvc.yaml'}:{name}" for name in upstream], force=True)
        except DvcException as error:
            raise UserError(
                f"what {stage} reads cannot be had from the DVC remote ({error}); publish it there with 'dvc push', or run 'dvc repro' where it was made."
            ) from error


def fetch_result(root: Path, stage: str) -> bool:
    """Bring the result of a stage into a checkout's cache, if the remote has one for these inputs.

    The stage itself is left as it is: ``dvc repro`` finds the result in its run-cache and restores it.

    Returns:
        Whether the remote had it.

    Raises:
        UserError: there is no remote, or it cannot be reached.
    """
    with Repo(str(root)) as repo:
        remote = _remote(repo)
        key = _key(_stage(repo, stage))
        if key is None:
            return False
        there = posixpath.join(remote.path, "runs", key[:2], key)
        here = Path(repo.stage_cache.cache_dir) / key[:2] / key
        entries = [posixpath.basename(path) for path in remote.fs.find(there)] if remote.fs.exists(there) else []
        for entry in entries:
            if not (here / entry).is_file():
                here.mkdir(parents=True, exist_ok=True)
                part = here.with_name(f".{entry}.part")
                remote.fs.get_file(posixpath.join(there, entry), str(part))
                part.replace(here / entry)
        for objects in _named_objects(repo, here, entries):
            repo.cloud.pull(objects)
        return bool(entries)


def publish(root: Path, stage: str) -> bool:
    """Send a stage's result to the remote: its outputs, then the run-cache entries by which others find them.

    Returns:
        Whether there was a result that others can find: DVC keeps none of a stage without inputs or outputs.

    Raises:
        UserError: there is no remote, or it cannot be written.
    """
    with Repo(str(root)) as repo:
        remote = _remote(repo)
        key = _key(_stage(repo, stage))
        here = Path(repo.stage_cache.cache_dir) / key[:2] / key if key else None
        if key is None or here is None or not here.is_dir():
            return False
        entries = sorted(path.name for path in here.iterdir() if not path.name.startswith("."))
        # The objects first: an entry must never name what is not there.
        for objects in _named_objects(repo, here, entries):
            repo.cloud.push(objects)
        for entry in entries:
            there = posixpath.join(remote.path, "runs", key[:2], key, entry)
            if not remote.fs.exists(there):
                remote.fs.put_file(str(here / entry), there)
        return bool(entries)


def _remote(repo: Repo) -> "ObjectDB":
    try:
        return repo.cloud.get_remote_odb(None, hash_name="md5-dos2unix")
    except NoRemoteError:
        raise UserError(
            f"{repo.root_dir} has no DVC remote; add one with 'dvc remote add --default NAME URL', or say in the cluster file that the disk is shared."
        ) from None


def _stage(repo: Repo, name: str) -> "Stage":
    return next(stage for stage in repo.index.stages if stage.addressing.rpartition(":")[2] == name)


def _named_objects(repo: Repo, folder: Path, entries: list[str]) -> Iterator[set["HashInfo"]]:
    """The objects that entries of the run-cache name, those that ``cache: false`` keeps from a push too."""
    for entry in entries:
        found = yaml.safe_load((folder / entry).read_text(encoding="utf-8"))
        where = {"path": str(Path(repo.root_dir) / "dvc.yaml"), "wdir": repo.root_dir}
        stage = create_stage(PipelineStage, repo, cmd=found["cmd"], outs=[out["path"] for out in found["outs"]], **where)
        StageLoader.fill_from_lock(stage, found)
        yield from stage.get_used_objs().values()


def _key(stage: "Stage") -> str | None:
    """What DVC files a stage's result under; None where it files none, or an input is missing."""
    if not all(dep.exists for dep in stage.deps):
        return None
    stage.save_deps()
    return str(_get_stage_hash(stage)) if _can_hash(stage) else None
