"""Why a stage is stale, in words. DVC decides; this reads what it says."""

import re
from collections.abc import Mapping
from typing import Any

from mimcore import layout
from mimcore.definition import nearest
from mimcore.errors import UserError
from mimcore.status import LOOKED_INTO, dvc, status

WORDS = {"modified": "has changed", "new": "is new", "deleted": "is gone", "not in cache": "is not in the cache"}


def explain(stage: str, code: Mapping[str, Mapping[str, str]]) -> str:
    """Say why ``stage`` is stale, with the stages above it that are stale too.

    Args:
        stage: its name.
        code: what ``mimcore.modules.read_code`` finds.

    Raises:
        UserError: there is no such stage, or DVC cannot read the pipeline.
    """
    known = [line.split()[0] for line in dvc("stage", "list", "--name-only").splitlines() if line]
    if stage not in known:
        raise UserError(f"dvc.yaml has no stage '{stage}'; {nearest(stage, known)}")
    changed = status(code)
    own = changed.pop(stage, None)
    lines = [f"{stage} is stale:" if own else f"{stage} itself is up to date."]
    lines += [f"  - {reason}" for reason in _reasons(own or [])]
    needed = re.findall(r'"([^"]+)"', dvc("dag", "--dot", stage))
    if stale := sorted(changed.keys() & set(needed) - LOOKED_INTO):
        above = ", ".join(stale[:8]) + (f" and {len(stale) - 8} more" if len(stale) > 8 else "")
        lines.append(f"It comes after stale stages and runs again if they give another result: {above}.")
    return "\n".join(lines)


def _reasons(items: list[Any]) -> list[str]:
    reasons = []
    for item in items:
        if item == "always changed":
            reasons.append("it runs every time.")
        elif isinstance(item, str):
            reasons.append("its command has changed." if item == "changed command" else f"{item}.")
        else:
            for what, changes in item.items():
                reasons += [_sentence(what, name, change) for name, change in changes.items()]
    return list(dict.fromkeys(reasons))


def _sentence(what: str, name: str, change: Any) -> str:
    if isinstance(change, dict):
        return "; ".join(f"parameter {key} {WORDS.get(word, word)}" for key, word in change.items()) + f" in {name}."
    if what == "changed deps" and name.startswith(f"{layout.MODULES}/"):
        return "its code has changed."
    kind = "output" if what == "changed outs" else "code" if name.startswith("mimcore") else "input"
    word = "is missing" if what == "changed outs" and change == "deleted" else WORDS.get(change, change)
    return f"{kind} {name} {word}."
