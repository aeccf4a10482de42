"""Which stages would run: DVC says what has changed, and what comes after that may run too."""

from collections.abc import Mapping, Sequence

from mimcore.errors import UserError
from mimcore.plan.work import Stage
from mimcore.status import LOOKED_INTO, status


def stale(stages: Sequence[Stage], code: Mapping[str, Mapping[str, str]]) -> list[Stage]:
    """Those of ``stages`` (each after what it needs) that have changed or that come after one.

    Args:
        stages: of the study.
        code: what ``mimcore.modules.read_code`` finds.

    Raises:
        UserError: DVC cannot read the pipeline.
    """
    try:
        return spread(stages, set(status(code)))
    except UserError as error:
        raise UserError(f"{error}; price the whole study with --all.") from None


def spread(stages: Sequence[Stage], changed: set[str]) -> list[Stage]:
    """Those that are ``changed``, or come after one that is and whose output may be another for it."""
    found: dict[str, Stage] = {}
    for stage in stages:
        if stage.name in changed or any(name in found and name not in LOOKED_INTO for name in stage.after):
            found[stage.name] = stage
    return list(found.values())
