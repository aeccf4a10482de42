"""What every strategy promises, asked of any of them: tables of an index, and properties of draws."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import strategies as st

from mimcore.definition import Definition
from mimcore.sampling.pipeline import Strategy
from mimcore.sampling.source import Source

#: Keys of the drawn rows, from rows and a number of images.
Draw = Callable[[pa.Table, int], list[str]]
Keep = Callable[[pa.Table], list[str]]

KINDS = {"phash": pa.uint64(), "label": pa.int64(), "score": pa.float64(), "caption": pa.string()}
KEYS = st.lists(st.text("abc0123", min_size=1, max_size=9), unique=True, min_size=1, max_size=50)


def tables(**columns: st.SearchStrategy[Any]) -> st.SearchStrategy[pa.Table]:
    """Rows with different keys and the given columns."""
    return KEYS.flatmap(
        lambda keys: st.fixed_dictionaries(
            {name: st.lists(values, min_size=len(keys), max_size=len(keys)) for name, values in columns.items()}
        ).map(
            lambda found: pa.table(
                {"key": keys, **{name: pa.array(values, KINDS[name]) for name, values in found.items()}}
            )
        )
    )


@contextmanager
def source_of(rows: pa.Table) -> Iterator[Source]:
    """The rows in files, one for each chunk of the table."""
    with tempfile.TemporaryDirectory() as folder:
        chunks = max((column.chunks for column in rows.columns), key=len)
        starts = np.cumsum([0, *(len(chunk) for chunk in chunks)]).tolist()
        files = []
        for number, (start, end) in enumerate(zip(starts, [*starts[1:], rows.num_rows], strict=True)):
            if end > start or not number:
                files.append(Path(folder) / f"{number}.parquet")
                pq.write_table(rows.slice(start, end - start), files[-1])
        yield Source(files)


def drawing(module: Any, config: Definition, seed: str = "s0") -> Draw:
    def draw(rows: pa.Table, images: int) -> list[str]:
        with source_of(rows) as source:
            places = Strategy(module, config, "options").draw(source, source.left(), images, seed)
        keys: list[str] = rows["key"].take(pa.array(places)).to_pylist()
        return keys

    return draw


def keeping(module: Any, config: Definition, seed: str = "s0") -> Keep:
    def keep(rows: pa.Table) -> list[str]:
        with source_of(rows) as source:
            left, _ = Strategy(module, config, "options").keep(source, source.left(), seed)
            keys: list[str] = source.table(["key"], left)[0]["key"].to_pylist()
        return keys

    return keep


def shuffled(rows: pa.Table, data: st.DataObject) -> pa.Table:
    """The rows in another order, cut into files elsewhere."""
    order = data.draw(st.permutations(range(rows.num_rows)))
    cut = data.draw(st.integers(0, rows.num_rows))
    mixed = rows.take(pa.array(order, pa.int64()))
    return pa.concat_tables([mixed.slice(0, cut), mixed.slice(cut)])


def check_draw(draw: Draw, rows: pa.Table, data: st.DataObject, nested: bool = True) -> None:
    """No key twice, as many as asked for, nested, and independent of the order of rows and of files."""
    large = data.draw(st.integers(0, rows.num_rows), label="images")
    found = draw(rows, large)
    assert len(set(found)) == len(found) == large
    assert draw(shuffled(rows, data), large) == found
    if nested:
        small = data.draw(st.integers(0, large), label="fewer images")
        assert draw(rows, small) == found[:small]


def check_growth(draw: Draw, rows: pa.Table, data: st.DataObject) -> None:
    """A grown pool brings newcomers in, and nobody who was there and not drawn."""
    before = data.draw(st.integers(1, rows.num_rows), label="rows before")
    images = data.draw(st.integers(1, before), label="images")
    old, new = draw(rows.slice(0, before), images), draw(rows, images)
    assert set(new) - set(old) <= set(rows["key"].to_pylist()[before:])


def check_keep(keep: Keep, rows: pa.Table, data: st.DataObject) -> None:
    """Rows in the order of the index, independent of it and of files."""
    found = keep(rows)
    kept = set(found)
    assert found == [key for key in rows["key"].to_pylist() if key in kept]
    assert set(keep(shuffled(rows, data))) == kept
