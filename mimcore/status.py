"""What is stale: as DVC says, but that of code it says what ``modules`` would say now, which the stages look at when it has run."""

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from mimcore import layout
from mimcore.artifacts import json_text
from mimcore.errors import UserError

#: Stages that run and give the same, or whose result is looked into here: none runs again because one of them is stale.
LOOKED_INTO = {"check", "modules"}


def status(code: Mapping[str, Mapping[str, str]]) -> dict[str, list[Any]]:
    """What has changed of each stale stage, in the form of ``dvc status --json``; changed files of code are ``changed deps``.

    Where a stage's older code is no longer in DVC's cache, the file of ``artifacts/modules`` stands for what has changed of it.

    Args:
        code: what ``mimcore.modules.read_code`` finds.

    Raises:
        UserError: DVC cannot read the pipeline.
    """
    found: dict[str, list[Any]] = json.loads(dvc("status", "--json") or "{}")
    objects = cache(lambda: Path(dvc("cache", "dir").strip(), "files/md5"))
    for stage, made_with in _code_of_stages().items():
        items = [kept for item in found.pop(stage, []) if (kept := _without(item, made_with))]
        for name, md5 in made_with.items():
            if changed := _changed(name, md5, code.get(name.removeprefix(f"{layout.MODULES}/"), {}), objects):
                items.append({"changed deps": changed})
        if items:
            found[stage] = items
    return found


def dvc(*arguments: str) -> str:
    """What DVC prints.

    Raises:
        UserError: it failed.
    """
    done = subprocess.run([sys.executable, "-m", "dvc", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        reason = done.stderr.strip().removeprefix("ERROR: ") or "it gave no reason"
        raise UserError(f"dvc {' '.join(arguments)} failed: {reason}")
    return done.stdout


def _code_of_stages() -> dict[str, dict[str, str]]:
    """Of each stage that was made, the files of ``artifacts/modules`` that it was made with, and their MD5."""
    file = Path("dvc.lock")
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    stages = yaml.load(file.read_text(encoding="utf-8"), loader)["stages"] if file.exists() else {}
    return {
        name: {dep["path"]: dep["md5"] for dep in made.get("deps", []) if dep["path"].startswith(f"{layout.MODULES}/")}
        for name, made in stages.items()
    }


def _without(item: Any, names: Mapping[str, str]) -> Any:
    """A line of DVC's without what it says of these dependencies; nothing if nothing is left."""
    if not isinstance(item, dict) or "changed deps" not in item:
        return item
    left = {name: how for name, how in item["changed deps"].items() if name not in names}
    return {"changed deps": left} if left else None


def _changed(name: str, md5: str, now: Mapping[str, str], objects: Callable[[], Path]) -> dict[str, str]:
    """Which of the files that the file ``name`` speaks of differ from those that it spoke of when it had this MD5."""
    if hashlib.md5(json_text(now).encode(), usedforsecurity=False).hexdigest() == md5:
        return {}
    kept = objects() / md5[:2] / md5[2:]
    if not kept.is_file():
        return {name: "modified"}
    before = json.loads(kept.read_text(encoding="utf-8"))
    changed = {file: "modified" if file in before else "new" for file in now if now[file] != before.get(file)}
    return changed | {file: "deleted" for file in before if file not in now}
