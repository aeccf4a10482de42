"""Progress of long work: a bar in a terminal, a line every ten seconds elsewhere."""

import sys
import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

#: Seconds between lines where the output is not a terminal.
SECONDS = 10.0


class Terminal:
    """Shows images per second and the time left; call it with what is done, images done and images in all."""

    def __init__(self, name: str, console: Console | None = None) -> None:
        self.name = name
        self.console = console or Console(file=sys.stderr)
        self.bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed:.0f}/{task.total:.0f}  {task.fields[rate]:.0f} images/s"),
            TimeRemainingColumn(),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        self.tasks: dict[str, TaskID] = {}
        self.starts: dict[str, float] = {}
        self.printed = time.monotonic()

    def __enter__(self) -> Self:
        self.bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bars.stop()

    def __call__(self, what: str, done: int, total: int) -> None:
        """Show that ``done`` of ``total`` images are through ``what``."""
        now = time.monotonic()
        if what not in self.tasks:
            self.tasks[what] = self.bars.add_task(f"{self.name}: {what}", total=total, rate=0.0)
            self.starts[what] = now
        seconds = now - self.starts[what]
        rate = done / seconds if seconds > 0 else 0.0
        self.bars.update(self.tasks[what], completed=done, total=total, rate=rate)
        if not self.console.is_terminal and now - self.printed >= SECONDS:
            self.printed = now
            left = (total - done) / rate if rate else float("nan")
            self.console.print(
                f"{self.name}: {what} {done}/{total}  {rate:.0f} images/s  {left:.0f} s left", soft_wrap=True
            )
