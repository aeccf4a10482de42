"""Signals that ask a run to end: it saves its state and ends at the next step."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

#: What a cluster sends before it takes the machine: Slurm's SIGTERM, and what ``sbatch --signal`` is told to send.
SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


class Notice:
    """Whether such a signal has come."""

    given = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal."""
        self.given = True


@contextmanager
def heeded() -> Iterator[Notice]:
    """Within the block, the signals set the notice instead of ending the process; in the main thread only."""
    notice = Notice()
    if threading.current_thread() is not threading.main_thread():
        yield notice
        return
    before = {number: signal.signal(number, notice) for number in SIGNALS}
    try:
        yield notice
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
