"""The chosen rows with all their columns, in the order of the draw, in memory for a part of them only."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq

from mimcore.sampling.memory import give_back
from mimcore.sampling.source import I64, Source

#: Rows of a row group of the manifest.
_GROUP = 1 << 16
#: Parts that chosen rows are sorted into while they are read: more would be too many open files.
_PARTS = 64
#: Bytes of chosen rows in memory before they go to disk.
_HELD = 32 << 20


def write_manifest(
    path: Path,
    source: Source,
    drawn: I64,
    columns: Sequence[str] | None = None,
    look: Callable[[pa.Table], None] = lambda rows: None,
) -> None:
    """Write the chosen rows, each with its ``rank`` in the draw, int64.

    Rows come in the order of the source, and are put into parts by rank, which wait on disk beside ``path`` if they are
    many; each part is then sorted and written.

    Args:
        path: the Parquet file to write, in a folder of its own.
        source: of the rows.
        drawn: their numbers in the order of the draw, int64 ``(K,)``.
        columns: the columns wanted, None for all.
        look: is shown the rows as they are written, part by part.
    """
    give_back()  # of the draw before
    wanted = list(source.schema.names if columns is None else columns)
    schema = pa.schema([source.schema.field(name) for name in wanted]).append(pa.field("rank", pa.int64()))
    by_number = np.argsort(drawn)
    numbers = drawn[by_number]
    size = max(_GROUP, -(-len(drawn) // _PARTS))
    parts = _Parts(path.parent, schema, -(-len(drawn) // size))

    def pick(rows: pa.Table, places: I64) -> tuple[pa.Table, I64]:
        first, last = np.searchsorted(numbers, [places[0], places[-1] + 1]) if len(places) else (0, 0)
        # Sorted by rank, so that each part takes a slice.
        ranks = by_number[first:last]
        order = np.argsort(ranks)
        chosen = np.searchsorted(places, numbers[first:last])[order]
        return rows.take(pa.array(chosen)).append_column("rank", pa.array(ranks[order])), ranks[order] // size

    chosen = source.left().only(iter([numbers]))
    for rows, of_part in source.scan(pick, wanted, chosen):
        starts = np.flatnonzero(np.diff(of_part, prepend=-1))
        for start, end in zip(starts, np.append(starts[1:], len(of_part)), strict=True):
            parts.add(int(of_part[start]), rows.slice(start, end - start))
    # A part is sorted while the one before it is written.
    with pq.ParquetWriter(path, schema, compression="zstd") as writer, ThreadPoolExecutor(1) as beside:
        coming = beside.submit(parts.take, 0)
        for number in range(len(parts)):
            rows = coming.result()
            if number + 1 < len(parts):
                coming = beside.submit(parts.take, number + 1)
            look(rows)
            writer.write_table(rows, row_group_size=_GROUP)


class _Parts:
    """Rows in so many parts; when they are many, they go to disk."""

    def __init__(self, folder: Path, schema: pa.Schema, parts: int) -> None:
        self._files = [folder / f"part-{number}.arrow" for number in range(parts)]
        self._schema = schema
        self._held: list[list[pa.Table]] = [[] for _ in range(parts)]
        self._bytes = 0
        self._writers: dict[int, pa.ipc.RecordBatchStreamWriter] = {}

    def __len__(self) -> int:
        return len(self._files)

    def add(self, number: int, rows: pa.Table) -> None:
        """Put rows into a part."""
        self._held[number].append(rows)
        self._bytes += rows.nbytes
        if self._bytes > _HELD:
            for part, tables in enumerate(self._held):
                if tables:
                    if part not in self._writers:
                        self._writers[part] = pa.ipc.new_stream(self._files[part], self._schema)
                    for table in tables:
                        self._writers[part].write_table(table)
                    tables.clear()
            self._bytes = 0

    def take(self, number: int) -> pa.Table:
        """All rows of a part by rank; it forgets them."""
        tables, self._held[number] = self._held[number], []
        if writer := self._writers.pop(number, None):
            writer.close()
            with pa.ipc.open_stream(self._files[number]) as stream:
                tables = [stream.read_all(), *tables]
            self._files[number].unlink()
        rows = pa.concat_tables(tables)
        return rows.take(pa.array(np.argsort(rows["rank"].to_numpy())))
