"""Rows of a pool, streamed from Parquet: on several threads, in their order, a few row groups in memory at a time."""

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from mimcore.errors import UserError

T = TypeVar("T")
I64 = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

#: Bytes of a table that is handed out, about.
_PART = 8 << 20
#: Bytes of a column that are read at a time; without, a whole row group would be in memory.
_BUFFER = 1 << 20
#: Rows of which a pass takes so long that its progress is told.
_LONG = 5_000_000
#: Threads that read: more than these wait for one another.
_THREADS = min(8, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


#: Called with the name of a pass, rows done, and rows in all.
Progress = Callable[[str, int, int], None]


class RowsError(UserError):
    """Files of rows are at fault, and no option."""


class Scan(Protocol):
    """Does work on all rows of a selection, in a new pass each time; yields what it returns, in the order of rows."""

    def __call__(self, work: Callable[[pa.Table], T]) -> Iterator[T]:
        """Begin a pass."""


class Group(NamedTuple):
    """A row group: where it is, and which rows of the source it holds."""

    file: str
    number: int
    first: int
    rows: int


class Left:
    """Which rows of a source are left, one bit each."""

    def __init__(self, rows: int) -> None:
        """All of them."""
        self.count = rows
        self._bits: npt.NDArray[np.uint8] | None = None
        self._rows = rows

    def within(self, first: int, rows: int) -> Bools | None:
        """Which of the rows ``first`` .. ``first + rows - 1`` are left, bool ``(rows,)``; None for all of them."""
        if self._bits is None:
            return None
        start = first // 8
        bits = np.unpackbits(self._bits[start : (first + rows + 7) // 8], bitorder="little")
        return bits[first - 8 * start :][:rows].astype(bool)

    def only(self, kept: Iterator[I64]) -> "Left":
        """Those of some rows alone; they come in parts, each of int64 numbers of rows, ascending."""
        found = Left(self._rows)
        found._bits = np.zeros((self._rows + 7) // 8, np.uint8)
        found.count = 0
        for rows in kept:
            if not len(rows):
                continue
            start, end = int(rows[0]) // 8, int(rows[-1]) // 8 + 1
            mask = np.zeros(8 * (end - start), bool)
            mask[rows - 8 * start] = True
            found._bits[start:end] |= np.packbits(mask, bitorder="little")
            found.count += len(rows)
        return found


class Source:
    """Parquet files, one after the other, as one long table.

    Attributes:
        key: the column whose values are the keys, text or whole numbers.
        rows: N, rows in all.
        schema: of the columns, ``key`` among them.
    """

    def __init__(
        self,
        files: Sequence[str | Path],
        key: str = "key",
        open_file: Callable[[str], Any] = lambda file: file,
        progress: Progress = lambda what, done, total: None,
    ) -> None:
        """Read the ends of the files.

        Args:
            files: in their order, all with the same columns.
            key: column whose values are the keys; as text they are there as ``key`` too.

            open_file: gives what pyarrow opens a file by.
            progress: told of each pass that is long, row group by row group.

        Raises:
            RowsError: a file is missing or broken, or has other columns than the first.
        """
        self._open_file = open_file
        self._progress = progress
        self._passes = 0
        self.key = key
        self._ends: dict[str, pq.FileMetaData] = {}
        self.groups: list[Group] = []
        self.rows = 0
        schema = None
        for file in map(str, files):
            with self._opened(file) as opened:
                self._ends[file] = opened.metadata
                own = opened.schema_arrow.remove_metadata()
                schema = schema or own
                if own != schema:
                    raise RowsError(f"{file} has other columns than {files[0]}; make them alike, or take it out.")
                for number in range(opened.num_row_groups):
                    rows = opened.metadata.row_group(number).num_rows
                    self.groups.append(Group(file, number, self.rows, rows))
                    self.rows += rows
        assert schema is not None
        if key not in schema.names:
            raise RowsError(f"{files[0]}: there is no column '{key}' of keys (known: {', '.join(schema.names)}).")
        if key != "key":
            if "key" in schema.names:
                schema = schema.remove(schema.get_field_index("key"))
            schema = schema.insert(0, pa.field("key", pa.string()))
        self.schema: pa.Schema = schema

    def left(self) -> Left:
        """All rows."""
        return Left(self.rows)

    def scan(
        self, work: Callable[[pa.Table, I64], T], columns: Sequence[str] | None = None, left: Left | None = None
    ) -> Iterator[T]:
        """Do work on all rows, part by part, on several threads.

        Args:
            work: is given a table and the number of each of its rows in the source, int64, ascending.
            columns: the columns wanted, None for all; one that is not there is left out.
            left: rows that are left, None for all.

        Yields:
            what ``work`` returns, in the order of the rows.

        Raises:
            RowsError: a file cannot be read.
        """
        wanted = self.schema.names if columns is None else [name for name in columns if name in self.schema.names]
        if len(self.groups) == 1:
            yield from self._on_group(self.groups[0], work, wanted, left)
            return
        pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="rows")
        waiting: deque[tuple[Group, Future[list[T]]]] = deque()
        groups = iter(self.groups)
        self._passes += 1
        name = f"pass {self._passes}"
        try:
            while True:
                for group in groups:
                    waiting.append((group, pool.submit(self._on_group, group, work, wanted, left)))
                    if len(waiting) > _THREADS:
                        break
                if not waiting:
                    return
                group, coming = waiting.popleft()
                yield from coming.result()
                if self.rows >= _LONG:
                    self._progress(name, group.first + group.rows, self.rows)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def table(
        self,
        columns: Sequence[str] | None = None,
        left: Left | None = None,
        compact: Callable[[pa.Table], pa.Table] = lambda rows: rows,
    ) -> tuple[pa.Table, I64]:
        """Rows that are left, or what ``compact`` leaves of each, and the number of each; all in memory."""
        parts = list(self.scan(lambda rows, numbers: (compact(rows), numbers), columns, left))
        empty = self.schema.empty_table()
        tables = [rows for rows, _ in parts] or [compact(empty if columns is None else empty.select(list(columns)))]
        return pa.concat_tables(tables), np.concatenate([numbers for _, numbers in parts] or [np.empty(0, np.int64)])

    def _on_group(
        self, group: Group, work: Callable[[pa.Table, I64], T], columns: list[str], left: Left | None
    ) -> list[T]:
        mask = left.within(group.first, group.rows) if left else None
        if mask is not None and not mask.any():
            return []
        found, first = [], 0
        renamed = self.key != "key" and "key" in columns
        stored = list(dict.fromkeys(self.key if name == "key" else name for name in columns))
        with self._opened(group.file) as file:
            try:
                for rows in _tables(file, group.number, stored):
                    if self.key in stored and rows[self.key].null_count:
                        raise RowsError(f"{group.file}: some rows have no '{self.key}', which is their key; drop them.")
                    numbers = np.arange(group.first + first, group.first + first + rows.num_rows)
                    first += rows.num_rows
                    if mask is not None:
                        own = mask[numbers[0] - group.first : first]
                        rows, numbers = rows.filter(pa.array(own)), numbers[own]
                    if renamed:
                        keys = rows[self.key].cast(pa.string())
                        rows = pa.table([keys if name == "key" else rows[name] for name in columns], names=columns)
                    found.append(work(rows.select(columns), numbers))
            except (OSError, pa.ArrowException) as error:
                raise RowsError(f"{group.file} cannot be read ({error}); fetch or make it anew.") from error
        return found

    def _opened(self, file: str) -> pq.ParquetFile:
        try:
            # The end of a file, which grows with its row groups, is read once.
            return pq.ParquetFile(
                self._open_file(file), metadata=self._ends.get(file), buffer_size=_BUFFER, pre_buffer=False
            )
        except FileNotFoundError:
            raise RowsError(f"{file} is missing; bring it up to date with 'dvc repro'.") from None
        except (OSError, pa.ArrowException) as error:
            raise RowsError(f"{file} cannot be read ({error}); fetch or make it anew.") from error


def _tables(file: pq.ParquetFile, number: int, columns: list[str]) -> Iterator[pa.Table]:
    """A row group at once if its columns are small, else in parts of some MiB."""
    group = file.metadata.row_group(number)
    held = sum(
        chunk.total_uncompressed_size
        for chunk in map(group.column, range(group.num_columns))
        if chunk.path_in_schema.split(".")[0] in columns
    )
    if held <= _PART:
        yield file.read_row_group(number, columns=columns, use_threads=False)
        return
    rows = max(1, group.num_rows * _PART // held)
    for batch in file.iter_batches(rows, row_groups=[number], columns=columns, use_threads=False):
        yield pa.Table.from_batches([batch])
