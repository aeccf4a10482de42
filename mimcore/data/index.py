"""A listing to an index: one row for each image, pointing into its container."""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mimcore import artifacts
from mimcore.data.hashing import bottom
from mimcore.data.listing import read_listing
from mimcore.data.pool import Classes, Pool, Shard, ShardIndex, Skipped, load_pool
from mimcore.data.rows import OPTIONAL, REQUIRED
from mimcore.errors import UserError

#: Seed of the hash that draws the validation split of a pool without one.
VAL_SEED = "val"

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

    Returns:
        the card.

    Raises:
        UserError: a shard has changed or vanished, too many images are broken, a key occurs twice, or the disk is full.
    """
    pool = load_pool(name, options, root)
    wanted = read_listing(listing, name)
    pool.prepare()
    _check_listed(pool, wanted)
    parts_folder = scratch / "index" / _digest(pool)
    parts = []
    for number, shard in enumerate(wanted):
        parts.append(_part(pool, shard, parts_folder))
        progress(number + 1, len(wanted))
    rows = _join([part.rows for part in parts if part.rows.num_rows])
    skipped = [item for part in parts for item in part.skipped]
    classes = pool.classes()
    rows, outside = _check_labels(rows, classes)
    skipped += outside
    _check_skipped(pool, rows.num_rows, skipped)
    _check_keys(pool, rows)
    rows = _draw_validation(pool, rows)
    card = _card(pool, rows, len(wanted), classes, skipped)
    with artifacts.directory(output) as part_folder:
        pq.write_table(rows, part_folder / "index.parquet", compression="zstd", write_statistics=True)
        artifacts.write_json(part_folder / "card.json", card)
    return card


def _check_listed(pool: Pool, wanted: list[Shard]) -> None:
    found = {shard.name: shard for shard in pool.shards()}
    for shard in wanted:
        if found.get(shard.name) != shard:
            what = "has changed since it was listed" if shard.name in found else "is listed, but is not there any more"
            raise UserError(
                f"pool '{pool.name}': shard '{shard.name}' {what}; 'mimcore scan {pool.name} --adopt' pins it anew."
            )


def _digest(pool: Pool) -> str:
    """What the rows of a shard depend on besides the shard: the options, and the code that looks at images."""
    code = hashlib.sha256(PIL.__version__.encode())
    here = Path(__file__).parent
    looking = (here / f"{name}.py" for name in ("decode", "header", "perceptual", "rows"))
    for file in sorted([*(here / "formats").glob("*.py"), *looking]):
        code.update(file.read_bytes())
    config = pool.config.model_dump(mode="json", exclude={"path", "max_skipped_fraction"})
    return artifacts.digest([config, code.hexdigest()])[:16]


def _part(pool: Pool, shard: Shard, folder: Path) -> ShardIndex:
    """The rows of one shard, from the scratch folder if they are there."""
    path = folder / f"{artifacts.digest(list(shard))[:32]}.parquet"
    if not path.is_file():
        found = pool.index_shard(shard)
        with artifacts.file(path) as part:
            metadata = {"skipped": json.dumps([list(item) for item in found.skipped])}
            pq.write_table(found.rows.replace_schema_metadata(metadata), part, compression="zstd")
    # Read back even if just written: Parquet renames the items of lists, and an index must not tell the difference.
    rows = pq.read_table(path, partitioning=None)
    skipped = [Skipped(*item) for item in json.loads(rows.schema.metadata[b"skipped"])]
    return ShardIndex(rows.replace_schema_metadata(None), skipped)


def _join(tables: list[pa.Table]) -> pa.Table:
    """One table, its columns in the order of the index; what only some shards know is null in the others."""
    names = dict.fromkeys(name for table in tables for name in table.column_names)
    ordered = [*REQUIRED, *(name for name in OPTIONAL if name in names)]
    ordered += sorted(name for name in names if name not in ordered)
    known = {**REQUIRED, **OPTIONAL}
    schema = pa.schema([(name, known.get(name) or _common_type(tables, name)) for name in ordered])
    return pa.concat_tables([_with_schema(table, schema) for table in tables] or [schema.empty_table()])


def _common_type(tables: list[pa.Table], name: str) -> pa.DataType:
    kinds = {table.schema.field(name).type for table in tables if name in table.column_names} - {pa.null()}
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


def _check_labels(rows: pa.Table, classes: Classes) -> tuple[pa.Table, list[Skipped]]:
    """Set aside what has a label or a class of a box that has no name."""
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
    if not reasons:
        return rows, []
    bad = sorted(reasons)
    items = rows.select(["key", "shard"]).take(bad).to_pylist()
    skipped = [Skipped(item["key"], item["shard"], reasons[row]) for item, row in zip(items, bad, strict=True)]
    keep = np.ones(rows.num_rows, bool)
    keep[bad] = False
    return rows.filter(pa.array(keep)), skipped


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


def _check_keys(pool: Pool, rows: pa.Table) -> None:
    keys = pl.from_arrow(rows.select(["key", "shard"]))
    assert isinstance(keys, pl.DataFrame)
    twice = keys.filter(pl.col("key").is_duplicated()).sort("key", maintain_order=True)
    if len(twice):
        key = twice["key"][0]
        shards = ", ".join(dict.fromkeys(twice.filter(pl.col("key") == key)["shard"]))
        raise UserError(
            f"pool '{pool.name}': {twice['key'].n_unique()} keys occur more than once, first '{key}' (in {shards});"
            " rename the images, so that each has a key of its own."
        )


def _draw_validation(pool: Pool, rows: pa.Table) -> pa.Table:
    """Move ``val_images`` images to the validation split, where the format has none of its own."""
    splits = rows["split"].to_numpy(zero_copy_only=False).copy()
    images = pool.config.val_images
    if images is not None and "val" not in splits:
        if images >= len(splits):
            raise UserError(
                f"pools.{pool.name}.val_images: {images} of {len(splits)} images leave none to train on; ask for fewer."
            )
        splits[bottom(rows["key"], images, VAL_SEED)] = "val"
    for split in ("train", "val"):
        if split not in splits:
            raise UserError(
                f"pool '{pool.name}': no image is in the split '{split}'; correct pools.{pool.name}.{split}."
            )
    place = rows.column_names.index("split")
    return rows.set_column(place, rows.schema.field("split"), pa.array(splits, pa.string()))


def _card(pool: Pool, rows: pa.Table, shards: int, classes: Classes, skipped: Iterable[Skipped]) -> dict[str, Any]:
    splits = rows["split"].to_pylist()
    items = [item._asdict() for item in skipped]
    return {
        "pool": pool.name,
        "images": len(splits),
        "train": splits.count("train"),
        "val": splits.count("val"),
        "shards": shards,
        "classes": classes.labels,
        "box_classes": classes.boxes,
        "skipped": items,
        "skipped_fraction": len(items) / max(1, len(items) + len(splits)),
    }
