"""Why a stage is stale, in words. DVC decides; this reads what it says."""

import json
import subprocess
import sys
from typing import Any

from mimcore.definition import nearest
from mimcore.errors import UserError

WORDS = {"modified": "has changed", "new": "is new", "deleted": "is gone", "not in cache": "is not in the cache"}


def explain(stage: str) -> str:
    """Say why ``stage`` is stale, with the stages above it that are stale too.

    Raises:
        UserError: there is no such stage, or DVC cannot read the pipeline.
    """
    known = [line.split()[0] for line in _dvc("stage", "list", "--name-only").splitlines() if line]
    if stage not in known:
        raise UserError(f"dvc.yaml has no stage '{stage}'; {nearest(stage, known)}")
    status: dict[str, list[Any]] = json.loads(_dvc("status", "--json", "--with-deps", stage) or "{}")
    own = status.pop(stage, None)
    lines = [f"{stage} is stale:" if own else f"{stage} itself is up to date."]
    lines += [f"  - {reason}" for reason in _reasons(own or [])]
    if status:
        above = ", ".join(sorted(status)[:8]) + (f" and {len(status) - 8} more" if len(status) > 8 else "")
        lines.append(f"It comes after stale stages and runs again if they give another result: {above}.")
    return "\n".join(lines)


def _reasons(status: list[Any]) -> list[str]:
    reasons = []
    for item in status:
        if item == "always changed":
            reasons.append("it runs every time.")
        elif isinstance(item, str):
            reasons.append("its command has changed." if item == "changed command" else f"{item}.")
        else:
            for what, changes in item.items():
                reasons += [_sentence(what, name, change) for name, change in changes.items()]
    return reasons


def _sentence(what: str, name: str, change: Any) -> str:
    if isinstance(change, dict):
        return "; ".join(f"parameter {key} {WORDS.get(word, word)}" for key, word in change.items()) + f" in {name}."
    kind = "output" if what == "changed outs" else "code" if name.startswith("mimcore") else "input"
    word = "is missing" if what == "changed outs" and change == "deleted" else WORDS.get(change, change)
    return f"{kind} {name} {word}."


def _dvc(*arguments: str) -> str:
    done = subprocess.run([sys.executable, "-m", "dvc", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        reason = done.stderr.strip().removeprefix("ERROR: ") or "it gave no reason"
        raise UserError(f"dvc {' '.join(arguments)} failed: {reason}")
    return done.stdout
