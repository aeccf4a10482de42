"""What the execution block comes to on this machine."""

import os

import pytest

from mimcore.execution import Execution


def test_indexing_takes_every_core_that_the_process_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # as the flows set it, for training
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(7)))
    assert Execution().index_processes() == 7
    assert Execution(index_workers=3).index_processes() == 3
