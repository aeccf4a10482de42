"""Progress of long work: a bar in a terminal, a line now and then in a log, and a file for whoever started the process."""

import json
import os
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

#: Seconds between two lines where the output is no terminal.
LINE_SECONDS = 10.0
#: Seconds between two writes of the file that the environment names as MIMCORE_PROGRESS.
FILE_SECONDS = 1.0


class Meter:
    """Shows how far some work is, how fast it goes and how long it will take.

    Args:
        title: what is being done.
        total: how many ``unit`` there are in all.
        unit: plural noun, such as ``images``.
        done: how many were done before, by a run that was interrupted.
    """

    def __init__(self, title: str, total: int, unit: str = "images", done: int = 0) -> None:
        self.title, self.total, self.unit, self.done = title, total, unit, done
        self._first = done
        self._start = self._line = time.monotonic()
        self._file = os.environ.get("MIMCORE_PROGRESS")
        self._written = self._start - FILE_SECONDS
        console = Console(file=sys.stderr)
        self._bar: Progress | None = None
        if console.is_terminal:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.fields[note]}"),
                TimeRemainingColumn(),
            )
            self._bar = Progress(*columns, console=console, transient=True)
            self._task = self._bar.add_task(title, total=total, completed=done, note="")

    @property
    def rate(self) -> float:
        """Units per second since the start."""
        return (self.done - self._first) / max(time.monotonic() - self._start, 1e-9)

    def _pace(self) -> str:
        """The rate in words, of slow work by the minute."""
        return f"{self.rate:,.0f} {self.unit}/s" if self.rate >= 1 else f"{self.rate * 60:.2g} {self.unit}/min"

    def update(self, done: int, note: str = "") -> None:
        """Say that ``done`` units are ready, with a few words such as the latest loss."""
        self.done = done
        left = (self.total - done) / self.rate if done > self._first else None  # nobody knows yet
        words = [self._pace()] if left is not None else []
        words += [note] if note else []
        if self._file and time.monotonic() - self._written >= FILE_SECONDS:
            self._written = time.monotonic()
            self._write(Path(self._file), left)
        if self._bar is not None:
            self._bar.update(self._task, completed=done, note=", ".join(words))
        elif time.monotonic() - self._line >= LINE_SECONDS:
            self._line = time.monotonic()
            words = [f"{done / max(self.total, 1):4.0%}", *words]
            words += [f"{duration(left)} left"] if left is not None else []
            print(f"{self.title}: {', '.join(words)}", file=sys.stderr, flush=True)

    def _write(self, file: Path, left: float | None) -> None:
        """Write the state for another process, in one piece; a file that cannot be written is no reason to stop.

        Before the first advance ``rate`` is 0 and ``left_seconds`` null.
        """
        state = {"title": self.title, "unit": self.unit, "done": self.done, "total": self.total}
        part = file.with_name(f"{file.name}.part")
        try:
            part.write_text(json.dumps(state | {"rate": self.rate, "left_seconds": left}), encoding="utf-8")
            part.replace(file)
        except OSError:
            self._file = None

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
        if kind is None:
            seconds = time.monotonic() - self._start
            # Work that was told of once, at its end, has no rate.
            rate = f", {self._pace()}" if self.done > self._first else ""
            print(f"{self.title}: done{rate}, {duration(seconds)}", file=sys.stderr, flush=True)


class Phases:
    """A meter for work of several phases: called with the phase, and how many of its units are done and in all.

    Stages are given one and import none, so that a change of what is shown retrains nothing.
    """

    def __init__(self, title: str, unit: str = "images") -> None:
        self.title, self.unit = title, unit
        self._phase = ""
        self._meter: Meter | None = None

    def __call__(self, phase: str, done: int, total: int, note: str = "") -> None:
        """Show the progress of a phase; a new one begins when its name changes or its count starts anew."""
        if self._meter is None or phase != self._phase or done < self._meter.done:
            self._end(None)
            self._phase = phase
            title = f"{self.title}, {phase}" if phase else self.title
            self._meter = Meter(title, total, self.unit, done).__enter__()
        self._meter.update(done, note)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end(kind)

    def _end(self, kind: type[BaseException] | None) -> None:
        if self._meter is not None:
            self._meter.__exit__(kind, None, None)
            self._meter = None


def duration(seconds: float) -> str:
    """A length of time in words."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
