"""Which stages would run: DVC says what has changed, and what comes after that may run too."""

import json
import subprocess
import sys
from collections.abc import Sequence

from mimcore.errors import UserError
from mimcore.plan.work import Stage


def stale(stages: Sequence[Stage]) -> list[Stage]:
    """Those of ``stages`` (each after what it needs) that DVC finds changed or that come after one.

    Raises:
        UserError: DVC cannot read the pipeline.
    """
    done = subprocess.run(
        [sys.executable, "-m", "dvc", "status", "--json"], capture_output=True, text=True, check=False
    )
    if done.returncode:
        reason = done.stderr.strip().removeprefix("ERROR: ") or "it gave no reason"
        raise UserError(f"dvc status failed: {reason}; price the whole study with --all.")
    return spread(stages, set(json.loads(done.stdout or "{}")))


#: Stages whose output is the same whatever they look at: what comes after them does not run again for it.
THE_SAME = {"check"}


def spread(stages: Sequence[Stage], changed: set[str]) -> list[Stage]:
    """Those that are ``changed``, or come after one that is and whose output may be another for it."""
    found: dict[str, Stage] = {}
    for stage in stages:
        if stage.name in changed or any(name in found and name not in THE_SAME for name in stage.after):
            found[stage.name] = stage
    return list(found.values())
