"""A small run as a program, for ``mimcore.launch``: ``ranked_run.py ROOT NAME OPTIONS``, the options as JSON.

``schedule`` and ``execution`` are options of these, ``objective`` is another objective; ``signal`` and ``at`` say which
signal ``rank`` sends itself before it takes that step, once; ``pause`` slows each step down, in seconds.
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
        time.sleep(options.get("pause", 0.0))
        step(run, images, read)

    loop.train_step = disturbed
    declared = small_run.definition(**options.get("schedule", {}))
    declared["objective"] = options.get("objective", declared["objective"])
    trained = small_run.train(root, name, declared, **options.get("execution", {}))
    if os.environ.get("RANK", "0") == "0":
        (root / f"{name}.told.json").write_text(json.dumps(trained.told))


if __name__ == "__main__":
    join_launcher()
    try:
        main(Path(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3]))
    except Preempted:
        sys.exit(Preempted.EXIT_STATUS)
