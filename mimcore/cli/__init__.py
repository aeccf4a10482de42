"""The command line: one verb per stage, in the module of its room. A verb parses, calls and prints.

To add one, write a function with ``@app.command(rich_help_panel=...)`` beside those of its room. What it works with is
imported inside of it, so that ``--help`` stays fast; which code a stage depends on is read off those imports. A module
that is new is named in ``ROOMS``, where its verbs shall stand in the help.
"""

import os
import sys
from importlib import import_module

from mimcore.cli.base import app
from mimcore.errors import Preempted, UserError
from mimcore.launch import join_launcher
from mimcore.lifetime import die_with_parent
from mimcore.startup import prepare

__all__ = ["app", "main"]

#: Modules with verbs, in the order of the help.
ROOMS = (
    *("study", "data", "sampling", "training", "evaluation", "probes", "health"),
    *("weights", "scaling", "rates", "plan", "advise", "look", "bench"),
)
for room in ROOMS:
    import_module(f"{__name__}.{room}")


def main() -> None:
    """Run a verb; a mistake of the user ends in a sentence and exit status 2."""
    prepare()
    if "DVC_STAGE" in os.environ:
        die_with_parent()
    join_launcher()
    try:
        app()
    except UserError as error:
        print(f"mimcore: {error}", file=sys.stderr)
        sys.exit(2)
    except Preempted as words:
        print(f"mimcore: {words}", file=sys.stderr)
        sys.exit(Preempted.EXIT_STATUS)
    except KeyboardInterrupt:
        print("mimcore: interrupted; nothing half-written was kept.", file=sys.stderr)
        sys.exit(130)
