"""A listing to an index: one row for each image, pointing into its container.

The rows of each shard lie on disk as parts, and the index is written from these one after the other: memory holds the
rows of a shard and of a row group, and 8 bytes for each image of the pool.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mimcore import artifacts
from mimcore.data.hashing import bottom, hash64
from mimcore.data.listing import read_listing
from mimcore.data.parts import Part, make_parts
from mimcore.data.pool import Classes, Pool, Shard, Skipped, load_pool
from mimcore.data.rows import OPTIONAL, REQUIRED
from mimcore.errors import UserError

#: Seed of the hash that draws the validation split of a pool without one.
VAL_SEED = "val"
#: Rows of a row group of the index, so that a reader can go through it in pieces.
ROW_GROUP = 1 << 17

#: Called with (shards done, shards in all).
Progress = Callable[[int, int], None]


def build_index(
    name: str,
    options: Mapping[str, Any],
    listing: Path,
    output: Path,
    root: Path,
    scratch: Path,
    progress: Progress = lambda done, total: None,
    workers: int = 1,
    cluster: str | None = None,
) -> dict[str, Any]:
    """Look at every image of a listing once and write ``index.parquet`` and ``card.json``.

    Args:
        name: of the pool, as in ``params.yaml``.
        options: ``pools.<name>`` of ``params.yaml``.
        listing: ``listings/<pool>.json``.
        output: the folder to write, ``artifacts/index/<pool>``.
        root: the folder that relative pool paths count from.
        scratch: ``.mimcore``; rows of shards that have not changed are taken from there.
        progress: told of each shard.
        workers: processes that look at shards; neither these nor the cluster change the index.
        cluster: address of a Dask scheduler, whose workers look at shards instead.

    Returns:
        the card.

    Raises:
        UserError: a shard has changed or vanished, too many images are broken, a key occurs twice, or the disk is full.
    """
    pool = load_pool(name, options, root)
    wanted = read_listing(listing, name)
    pool.prepare()
    _check_listed(pool, wanted)
    parts = make_parts(name, options, root, wanted, scratch, progress, workers, cluster)
    join = _Join(pool, parts)
    splits = join.check()
    card = {
        "pool": pool.name,
        "images": join.rows,
        **splits,
        "shards": len(wanted),
        "classes": join.classes.labels,
        "box_classes": join.classes.boxes,
        "skipped": [item._asdict() for item in join.skipped],
        "skipped_fraction": len(join.skipped) / (len(join.skipped) + join.rows),
    }
    with artifacts.directory(output) as folder:
        _write(folder / "index.parquet", join.schema, join.tables())
        artifacts.write_json(folder / "card.json", card)
    return card


def _check_listed(pool: Pool, wanted: list[Shard]) -> None:
    found = {shard.name: shard for shard in pool.shards()}
    for shard in wanted:
        if found.get(shard.name) != shard:
            what = "has changed since it was listed" if shard.name in found else "is listed, but is not there any more"
            raise UserError(
                f"pool '{pool.name}': shard '{shard.name}' {what}; 'mimcore scan {pool.name} --adopt' pins it anew."
            )


class _Join:
    """The parts as one table, of which only pieces are ever in memory."""

    def __init__(self, pool: Pool, parts: list[Part]) -> None:
        self._pool = pool
        self._parts = [part for part in parts if part.rows]
        self.classes = pool.classes()
        self.schema = _schema([part.schema for part in self._parts])
        #: The caption of each class, where captions are made of labels.
        self._captions: list[str] | None = None
        if template := pool.config.caption_template:
            self._captions = _captions(pool.name, template, self.classes, self.schema)
            if "caption" not in self.schema.names:
                place = self.schema.get_field_index("label") + 1
                self.schema = self.schema.insert(place, pa.field("caption", OPTIONAL["caption"]))
        self.skipped = [item for part in parts for item in part.skipped]
        self.rows = 0
        #: Rows to set aside, by the number of the part.
        self._outside: dict[int, list[int]] = {}
        #: Rows of the validation split that is drawn, ascending.
        self._val = np.empty(0, np.int64)

    def check(self) -> dict[str, int]:
        """Set aside what has no name of a class, look for keys that occur twice, and draw the validation split.

        Returns:
            images by split.
        """
        hashes = np.empty(sum(part.rows for part in self._parts), np.uint64)
        wanted = self._pool.config.val_images
        lowest = _Lowest(wanted) if wanted is not None else None
        splits = {"train": 0, "val": 0}
        for number, table in enumerate(self._read(["key", "shard", "split", "label", "box_labels"])):
            table = self._set_aside(number, table)
            stop = self.rows + table.num_rows
            hashes[self.rows : stop] = hash64(table["key"], 0)
            if lowest is not None:
                lowest.add(table["key"], self.rows)
            for split, count in zip(
                *(side.to_pylist() for side in table["split"].value_counts().flatten()), strict=True
            ):
                splits[split] += count
            self.rows = stop
        _check_skipped(self._pool, self.rows, self.skipped)
        self._check_keys(hashes[: self.rows])
        if lowest is not None and wanted is not None and not splits["val"]:
            if wanted >= self.rows:
                raise UserError(
                    f"pools.{self._pool.name}.val_images: {wanted} of {self.rows} images leave none to train on; ask for"
                    " fewer."
                )
            self._val = np.sort(lowest.rows())
            splits = {"train": self.rows - wanted, "val": wanted}
        # A pool may be there to be tested on alone, where it says so: 'val' is all that there is.
        train, val = (getattr(self._pool.config, name, None) for name in ("train", "val"))
        tested = val is not None and train in (None, val)
        for split, count in splits.items():
            if not count and not (split == "train" and tested):
                raise UserError(
                    f"pool '{self._pool.name}': no image is in the split '{split}'; correct"
                    f" pools.{self._pool.name}.{split}."
                )
        return splits

    def tables(self) -> Iterator[pa.Table]:
        """The rows of the index, a shard at a time."""
        start = 0
        for number, table in enumerate(self._read(None)):
            table = _captioned(self._without_outside(number, table), self._captions)
            stop = start + table.num_rows
            first, last = np.searchsorted(self._val, (start, stop))
            if last > first:
                splits = table["split"].to_numpy(zero_copy_only=False).copy()
                splits[self._val[first:last] - start] = "val"
                place = self.schema.get_field_index("split")
                table = table.set_column(place, self.schema.field("split"), pa.array(splits, pa.string()))
            yield table
            start = stop

    def _read(self, columns: list[str] | None) -> Iterator[pa.Table]:
        """Each part, in the columns of the index; those that are named if some are."""
        fields = [field for field in self.schema if columns is None or field.name in columns]
        for part in self._parts:
            yield _with_schema(part.read(columns), pa.schema(fields))

    def _set_aside(self, number: int, table: pa.Table) -> pa.Table:
        reasons = _outside(table, self.classes)
        if reasons:
            self._outside[number] = bad = sorted(reasons)
            items = table.select(["key", "shard"]).take(bad).to_pylist()
            self.skipped += [
                Skipped(item["key"], item["shard"], reasons[row]) for item, row in zip(items, bad, strict=True)
            ]
        return self._without_outside(number, table)

    def _without_outside(self, number: int, table: pa.Table) -> pa.Table:
        if number not in self._outside:
            return table
        keep = np.ones(table.num_rows, bool)
        keep[self._outside[number]] = False
        return table.filter(pa.array(keep))

    def _check_keys(self, hashes: npt.NDArray[np.uint64]) -> None:
        """Keys are compared where their hashes agree; the hashes are sorted in place."""
        hashes.sort()
        agree = np.unique(hashes[1:][hashes[1:] == hashes[:-1]])
        if not len(agree):
            return
        found = []
        for number, table in enumerate(self._read(["key", "shard"])):
            table = self._without_outside(number, table)
            found.append(table.filter(pa.array(np.isin(hash64(table["key"], 0), agree))))
        keys = pl.from_arrow(pa.concat_tables(found))
        assert isinstance(keys, pl.DataFrame)
        twice = keys.filter(pl.col("key").is_duplicated()).sort("key", maintain_order=True)
        if len(twice):
            key = twice["key"][0]
            shards = ", ".join(dict.fromkeys(twice.filter(pl.col("key") == key)["shard"]))
            raise UserError(
                f"pool '{self._pool.name}': {twice['key'].n_unique()} keys occur more than once, first '{key}' (in"
                f" {shards}); rename the images, so that each has a key of its own."
            )


class _Lowest:
    """The rows of the ``count`` smallest hashes of keys that come in pieces; memory holds a few times as many."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._limit: np.uint64 | None = None
        self._keys: list[pa.ChunkedArray] = []
        self._rows: list[npt.NDArray[np.int64]] = []

    def add(self, keys: pa.ChunkedArray, first_row: int) -> None:
        """Look at the keys of rows ``first_row``, ``first_row + 1``, ..."""
        rows = np.arange(first_row, first_row + len(keys))
        if self._limit is not None:
            low = hash64(keys, VAL_SEED) <= self._limit
            keys, rows = keys.filter(pa.array(low)), rows[low]
        self._keys.append(keys)
        self._rows.append(rows)
        if sum(map(len, self._rows)) > 4 * self._count + ROW_GROUP:
            keys, rows = self._all()
            chosen = bottom(keys, self._count, VAL_SEED)
            self._keys, self._rows = [keys.take(pa.array(chosen))], [rows[chosen]]
            self._limit = hash64(self._keys[0], VAL_SEED).max()

    def rows(self) -> npt.NDArray[np.int64]:
        """The rows that were chosen, smallest hash first."""
        keys, rows = self._all()
        return rows[bottom(keys, self._count, VAL_SEED)]

    def _all(self) -> tuple[pa.ChunkedArray, npt.NDArray[np.int64]]:
        keys = pa.chunked_array([chunk for piece in self._keys for chunk in piece.chunks], pa.string())
        return keys, np.concatenate(self._rows)


def _write(path: Path, schema: pa.Schema, tables: Iterator[pa.Table]) -> None:
    """One file, in row groups of equal length."""
    waiting = schema.empty_table()
    with pq.ParquetWriter(path, schema, compression="zstd", write_statistics=True) as writer:
        for table in tables:
            waiting = pa.concat_tables([waiting, table])
            whole = waiting.num_rows - waiting.num_rows % ROW_GROUP
            for start in range(0, whole, ROW_GROUP):
                writer.write_table(waiting.slice(start, ROW_GROUP).combine_chunks(), ROW_GROUP)
            waiting = waiting.slice(whole)
        if waiting.num_rows:
            writer.write_table(waiting.combine_chunks(), ROW_GROUP)


def _schema(parts: list[pa.Schema]) -> pa.Schema:
    """The columns of the index in their order; what only some shards know is null in the others."""
    names = dict.fromkeys(name for part in parts for name in part.names)
    ordered = [*REQUIRED, *(name for name in OPTIONAL if name in names)]
    ordered += sorted(name for name in names if name not in ordered)
    known = {**REQUIRED, **OPTIONAL}
    return pa.schema([(name, known.get(name) or _common_type(parts, name)) for name in ordered])


def _common_type(parts: list[pa.Schema], name: str) -> pa.DataType:
    kinds = {part.field(name).type for part in parts if name in part.names} - {pa.null()}
    if len(kinds) == 1:
        return kinds.pop()
    if kinds and all(pa.types.is_integer(kind) or pa.types.is_floating(kind) for kind in kinds):
        return pa.float64() if any(pa.types.is_floating(kind) for kind in kinds) else pa.int64()
    return pa.string()


def _with_schema(table: pa.Table, schema: pa.Schema) -> pa.Table:
    def fitted(field: pa.Field) -> pa.Array | pa.ChunkedArray:
        if field.name not in table.column_names:
            return pa.nulls(table.num_rows, field.type)
        values = table[field.name]
        if pa.types.is_string(field.type) and pa.types.is_nested(values.type):
            return pa.array([None if value is None else json.dumps(value) for value in values.to_pylist()], field.type)
        return values.cast(field.type)

    return pa.table([fitted(field) for field in schema], schema=schema)


def _captions(name: str, template: str, classes: Classes, schema: pa.Schema) -> list[str]:
    """The caption of each class.

    Raises:
        UserError: the pool has no labels, or these have no names.
    """
    lacking = None if "label" in schema.names else "no label of any image"
    if classes.labels is None:
        lacking = lacking or "no names of the classes"
    if lacking or classes.labels is None:
        raise UserError(
            f"pools.{name}.caption_template: captions are made of the names of labels, and the pool has {lacking}; give it"
            " labels with names (docs/pools.md), or leave the option out."
        )
    return [template.replace("{label}", label) for label in classes.labels]


def _captioned(table: pa.Table, captions: list[str] | None) -> pa.Table:
    """Fill in the captions that are missing or blank where there is a label."""
    if captions is None:
        return table
    place = table.schema.get_field_index("caption")
    blank = pc.equal(pc.utf8_trim_whitespace(table["caption"]), "")
    own = pc.if_else(blank, pa.scalar(None, pa.string()), table["caption"])
    made = pc.take(pa.array(captions, pa.string()), table["label"].combine_chunks())
    return table.set_column(place, table.schema.field(place), pc.coalesce(own, made))


def _outside(rows: pa.Table, classes: Classes) -> dict[int, str]:
    """Rows with a label or a class of a box that has no name, and what is wrong."""
    reasons: dict[int, str] = {}
    if classes.boxes is not None and "box_labels" in rows.column_names:
        lengths = pc.list_value_length(rows["box_labels"]).fill_null(0).to_numpy()
        parents = np.repeat(np.arange(rows.num_rows), lengths)
        values = pc.list_flatten(rows["box_labels"]).to_numpy()
        for place in np.flatnonzero((values < 0) | (values >= len(classes.boxes))):
            reasons[int(parents[place])] = f"box label {values[place]} is outside the {len(classes.boxes)} classes"
    if classes.labels is not None and "label" in rows.column_names:
        labels = rows["label"].fill_null(0).to_numpy()
        for row in np.flatnonzero((labels < 0) | (labels >= len(classes.labels))):
            reasons[int(row)] = f"label {labels[row]} is outside the {len(classes.labels)} classes"
    return reasons


def _check_skipped(pool: Pool, good: int, skipped: list[Skipped]) -> None:
    looked_at = good + len(skipped)
    if good and len(skipped) <= pool.config.max_skipped_fraction * looked_at:
        return
    first = "; ".join(f"'{item.key}' in {item.shard}: {item.reason}" for item in skipped[:3])
    raise UserError(
        f"pool '{pool.name}': {len(skipped)} of {looked_at} images cannot be used ({first or 'there are none'});"
        f" mend or remove them, or raise pools.{pool.name}.max_skipped_fraction"
        f" (now {pool.config.max_skipped_fraction:g})."
    )
