"""DVC's own graph, read in this process: stages, arrows, what is stale, and what a stage's result depends on."""

import hashlib
import json
import logging
import os
import shutil
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from dvc.exceptions import DvcException
from dvc.lock import make_lock
from dvc.repo import Repo
from dvc.repo.reproduce import plan_repro

from mimcore.definition import nearest
from mimcore.errors import UserError

#: DVC is not made for threads: one at a time calls it.
_ONE = threading.RLock()


@dataclass(frozen=True)
class Stage:
    """A stage as the flows see it."""

    name: str
    """As ``dvc stage list`` names it, such as ``pretrain@mae-tiny-n64-short-s0``."""
    label: str
    """Its verb and run, such as ``pretrain mae-tiny-n64-short-s0``."""
    meta: Mapping[str, Any] = field(hash=False)
    """What ``dvc.yaml`` says under ``meta``."""
    outs: tuple[str, ...] = ()
    """Its outputs, relative to the root of the workspace."""

    @property
    def verb(self) -> str:
        """The first word of the label."""
        return self.label.partition(" ")[0]


class Graph:
    """The graph of a workspace, as its files are at this moment.

    Raises:
        UserError: DVC cannot read the pipeline.
    """

    def __init__(self, root: Path) -> None:
        self.root = root = root.resolve()
        with _ONE, _sentences(root):
            self._repo = Repo(str(root))
            with make_lock(str(Path(self._repo.tmp_dir or "") / "lock"), wait=True, **self._lock_options()):
                arrows = self._repo.index.graph
            self._stages = {_name(stage, root): stage for stage in plan_repro(arrows)}
            self.cache = Path(self._repo.cache.legacy.path)
            self.cache.mkdir(parents=True, exist_ok=True)
        self.parents = {n: {_name(s, root) for s in arrows.successors(stage)} for n, stage in self._stages.items()}
        # DVC's arrows point from a stage to what it needs: the postorder has what is needed first.
        self.stages = {name: _described(name, stage) for name, stage in self._stages.items()}

    def _lock_options(self) -> dict[str, Any]:
        hardlink = bool(self._repo.config["core"].get("hardlink_lock", False))
        return {"tmp_dir": self._repo.tmp_dir, "hardlink_lock": hardlink, "friendly": False}

    def wanted(self, targets: Iterable[str]) -> list[str]:
        """The targets and all that they need, what is needed first; every stage if there is no target.

        Raises:
            UserError: there is no such stage.
        """
        targets = list(targets)
        for target in targets:
            if target not in self.stages:
                raise UserError(f"dvc.yaml has no stage '{target}'; {nearest(target, self.stages)}")
        found, more = set(), list(targets)
        while more:
            if (name := more.pop()) not in found:
                found.add(name)
                more += self.parents[name]
        return [name for name in self.stages if not targets or name in found]

    def stale(self, name: str) -> bool:
        """Whether DVC would bring the stage up to date by its own inputs and outputs, as they are now."""
        with _ONE, _sentences(self.root):
            stage = self._stages[name]
            return bool(
                stage.changed_stage()
                or stage.is_callback
                or stage.always_changed
                or any(dependency.status() for dependency in stage.deps)
                or any(out.status() for out in stage.outs)
            )

    def stale_ones(self, names: Iterable[str]) -> set[str]:
        """The stages that are stale, and those below one: whether these are is known only when their turn comes."""
        found: set[str] = set()
        for name in names:
            if not self.parents[name].isdisjoint(found) or self.stale(name):
                found.add(name)
        return found

    def key(self, name: str) -> str | None:
        """A digest of the command and everything that the stage reads: two stages of one key give one result.

        None where an input is missing: DVC says so better.
        """
        with _ONE:
            stage = self._stages[name]
            try:
                inputs = [[dependency.def_path, str(dependency.get_hash().value)] for dependency in stage.deps]
            except (DvcException, OSError):
                return None
        outs = sorted(out.def_path for out in stage.outs)
        content = json.dumps([stage.cmd, sorted(inputs), outs], ensure_ascii=False)
        return hashlib.sha256(content.encode()).hexdigest()

    def output_bytes(self, names: Iterable[str]) -> int:
        """What the outputs of stages will take, bytes: as much as when they were last made.

        For a stage that was never made here, as much as the mean of its verb; nothing where that is unknown as well.
        """
        made: dict[str, int] = {}
        by_verb: dict[str, list[int]] = {}
        for name, stage in self._stages.items():
            sizes = [out.meta.size for out in stage.outs if out.meta and out.meta.size]
            if sizes:
                made[name] = sum(sizes)
                by_verb.setdefault(self.stages[name].verb, []).append(made[name])
        mean = {verb: sum(sizes) // len(sizes) for verb, sizes in by_verb.items()}
        return sum(made.get(name, mean.get(self.stages[name].verb, 0)) for name in names)


def mend(root: Path, log: logging.Logger | logging.LoggerAdapter[Any]) -> None:
    """Clear what a killed ``dvc`` left in a workspace and DVC itself would leave to a person; says so at debug level.

    DVC's repository lock is the kernel's and ends with its process. Its list of files in use names processes: one that
    is gone, or whose number another process has now, is taken out. A list or a ``dvc.lock`` that was cut short while
    it was written is set aside: what ``dvc.lock`` no longer knows is restored from the run-cache. What a stage had
    begun to write (``mimcore.artifacts``) is removed where its process is gone.
    """
    _remove_parts(root, log)
    tmp = root / ".dvc" / "tmp"
    if tmp.is_dir():
        with make_lock(str(tmp / "rwlock.lock"), tmp_dir=str(tmp), wait=True, friendly=False):
            _mend_list(tmp / "rwlock", log)
        with make_lock(str(tmp / "lock"), tmp_dir=str(tmp), wait=True, friendly=False):
            _mend_lock_file(root / "dvc.lock", tmp / "dvc.lock.broken", log)


def _remove_parts(root: Path, log: logging.Logger | logging.LoggerAdapter[Any]) -> None:
    inside = os.walk(root / "artifacts")  # which passes over what another stage removes meanwhile
    for part in [
        *root.glob(".dvc.lock.part-*"),
        *(Path(at) / name for at, dirs, files in inside for name in dirs + files),
    ]:
        process = part.name.rpartition(".part-")[2]
        if part.name.startswith(".") and process.isdigit() and not psutil.pid_exists(int(process)):
            log.debug("%s was begun by a process that was killed; it was removed.", part)
            if part.is_dir():
                shutil.rmtree(part, ignore_errors=True)
            else:
                part.unlink(missing_ok=True)


def _mend_list(file: Path, log: logging.Logger | logging.LoggerAdapter[Any]) -> None:
    try:
        users = json.loads(file.read_text(encoding="utf-8"))
        kept = {
            "read": {
                path: alive for path, infos in users.get("read", {}).items() if (alive := [*filter(_runs, infos)])
            },
            "write": {path: info for path, info in users.get("write", {}).items() if _runs(info)},
        }
    except FileNotFoundError:
        return
    except (ValueError, AttributeError, KeyError, TypeError):
        log.debug("%s was cut short by a process that was killed; it was cleared.", file)
        file.unlink()
        return
    if kept != {"read": users.get("read", {}), "write": users.get("write", {})}:
        log.debug("%s named processes that have ended; they were taken out.", file)
        part = file.with_name("rwlock.part")
        part.write_text(json.dumps(kept), encoding="utf-8")
        part.replace(file)


def _runs(info: Mapping[str, Any]) -> bool:
    """Whether the process that put itself on the list still runs, and is not another one of the same number."""
    try:
        process = psutil.Process(int(info["pid"]))
        # sys.argv of Python: the script, which -m names differently, then the arguments as they were given.
        _, _, arguments = info["cmd"].partition(" ")
        return process.status() != psutil.STATUS_ZOMBIE and " ".join(process.cmdline()).endswith(arguments)
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        return True


def _mend_lock_file(file: Path, aside: Path, log: logging.Logger | logging.LoggerAdapter[Any]) -> None:
    from dvc.schema import COMPILED_LOCKFILE_SCHEMA
    from dvc.utils.serialize import ParseError, load_yaml
    from voluptuous import Invalid

    if not file.exists():
        return
    try:
        COMPILED_LOCKFILE_SCHEMA(load_yaml(str(file)))
    except (ParseError, Invalid):
        file.replace(aside)
        log.debug("%s was cut short by a process that was killed; it is now %s.", file, aside)


def _name(stage: Any, root: Path) -> str:
    """As ``dvc repro`` takes it in the root of the workspace; DVC's own depends on the working directory."""
    file = Path(stage.path).relative_to(root).as_posix()
    name = getattr(stage, "name", None)
    return str(name) if name and file == "dvc.yaml" else f"{file}:{name}" if name else file


def _described(name: str, stage: Any) -> Stage:
    words = str(stage.cmd).split()
    if words[:3] == ["python", "-m", "mimcore"]:
        words = words[3:]
        options = (i for i, word in enumerate(words) if word.startswith("-"))
        label = " ".join(words[: next(options, len(words))])
    else:
        label = name.replace("@", " ", 1)
    outs = tuple(out.def_path for out in stage.outs)
    return Stage(name, label, dict(stage.meta or {}), outs)


@contextmanager
def _sentences(root: Path) -> Iterator[None]:
    try:
        yield
    except DvcException as error:
        raise UserError(f"DVC cannot read the pipeline in {root}: {error}") from error
