"""A small run as a program, for ``mimcore.launch``: ``ranked_run.py ROOT NAME OPTIONS``, the options as JSON.

``schedule`` and ``execution`` are options of these, ``objective`` is another objective, ``trunk`` has the ``name`` and the ``schedule`` of
the run that this one branches off; ``signal`` and ``at`` say which
signal ``rank`` sends itself before it takes that step, once; ``pause`` slows each step down, in seconds.
Each rank writes the digest of its objective's state before the last step, ``NAME.state-RANK``.
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import small_run
import torch

from mimcore.errors import Preempted
from mimcore.launch import join_launcher
from mimcore.training import loop
from mimcore.training.state import Run


def main(root: Path, name: str, options: dict[str, Any]) -> None:
    step, sent = loop.train_step, root / f"{name}.sent"
    harm = int(options.get("signal", 0)) if os.environ.get("RANK", "0") == str(options.get("rank", 0)) else 0

    def disturbed(run: Run, images: torch.Tensor, read: None) -> None:
        (root / f"{name}.stepping-{os.getpid()}").touch()
        if harm and run.step == options["at"] and not sent.exists():
            sent.touch()
            os.kill(os.getpid(), harm)
        if run.step == small_run.STEPS - 1:
            (root / f"{name}.state-{os.environ.get('RANK', '0')}").write_text(small_run.digest(run))
        time.sleep(options.get("pause", 0.0))
        step(run, images, read)

    loop.train_step = disturbed
    declared = small_run.definition(**options.get("schedule", {}))
    declared["objective"] = options.get("objective", declared["objective"])
    after = None
    if trunk := options.get("trunk"):
        declared |= {"use": "state", "after": small_run.definition(**trunk["schedule"])}
        after = root / "artifacts/runs" / trunk["name"]
    trained = small_run.train(root, name, declared, after, **options.get("execution", {}))
    if os.environ.get("RANK", "0") == "0":
        (root / f"{name}.told.json").write_text(json.dumps(trained.told))


if __name__ == "__main__":
    join_launcher()
    try:
        main(Path(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3]))
    except Preempted:
        sys.exit(Preempted.EXIT_STATUS)
