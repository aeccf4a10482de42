"""Kills at random moments against an undisturbed twin: the same weights, bit for bit, on a CPU."""

import json
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
import small_run
import test_ranks
from small_run import Trained

SCHEDULE = {"images_seen": 6400, "ema_decay": 0.9}


@pytest.fixture(scope="module")
def twin(root: Path) -> Trained:
    return small_run.train(root, "twin", small_run.definition(**SCHEDULE))


@pytest.mark.parametrize("kills", [3, pytest.param(20, marks=pytest.mark.slow)])
def test_kills_at_random_moments_leave_the_same_bytes(root: Path, twin: Trained, kills: int) -> None:
    name, draw = f"chaos{kills}", random.Random(0)
    options = {"schedule": SCHEDULE, "execution": {"checkpoint_seconds": 0.02}, "pause": 0.02}
    command = [sys.executable, str(test_ranks.SCRIPT), str(root), name, json.dumps(options)]
    for number in range(kills):
        process = subprocess.Popen(command)
        if number % 5 == 4:  # now and then on the way to the first step, or before
            time.sleep(draw.uniform(0.0, 5.0))
        else:
            stepping = root / f"{name}.stepping-{process.pid}"
            while process.poll() is None and not stepping.exists():
                time.sleep(0.01)
            time.sleep(draw.uniform(0.0, 0.6))
        assert process.poll() is None, "it ended before it was killed: make the run longer"
        process.kill()
        process.wait()
    status, resumed = test_ranks.train(root, name, 1, schedule=SCHEDULE)
    assert status == 0
    assert resumed.told[0] > 0
    assert resumed.bytes() == twin.bytes()
