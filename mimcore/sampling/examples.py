"""Stage ``examples``: the images that a task, or the features of probes, train and test on."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mimcore import artifacts
from mimcore.data.splits import pick, read_split
from mimcore.errors import UserError
from mimcore.sampling.shifted import choose_shifted

#: The columns of the index that hold what a task needs to know of every image (``NEEDS`` of its module); of several sets of columns
#: one must be there, whole.
COLUMNS: dict[str, tuple[tuple[str, ...], ...]] = {
    "labels": (("label",),),
    "boxes": (("boxes",),),
    "masks": (("masks",),),
    "clips": (("frames", "label"),),
    "tags": (("tags",), ("box_labels",)),
    "captions": (("caption",),),
}


def choose(
    where: str,
    options: Mapping[str, Any],
    index: Path,
    output: Path,
    needs: Mapping[str, str],
    shifted: Mapping[str, Path] | None = None,
) -> dict[str, Any]:
    """Write ``train.parquet``, ``test.parquet`` (rows of the index), ``shifted-<pool>.parquet`` of each shifted pool, and ``card.json``.

    A task trains on the pool's training split and tests on its validation split; where it names a number of images,
    these are a random part that is the same for every task of the pool, nested over numbers.

    Args:
        where: ``tasks.<name>`` or ``features.<name>``.
        options: of the task or the features; ``train_images`` and ``test_images`` are read, None meaning all.
        index: folder of the pool's index.
        output: folder to write.
        needs: what tasks need to know of every image (a key of ``COLUMNS``), by the task's name.
        shifted: folders of the indexes of the pools that the task names as ``shifted``.

    Raises:
        UserError: more images are asked for than there are, some lack what a task needs to know of them, or the classes of a shifted
            pool are not those of the task's own.
    """
    card = artifacts.read_json(index / "card.json")
    parts = {}
    for part, split in (("train", "train"), ("test", "val")):
        rows = read_split(index, split)
        kind = "training" if part == "train" else "validation"
        images = options.get(f"{part}_images")
        if not len(rows):
            raise UserError(
                f"{where}: pool '{card['pool']}' has no image to {part} on; give it a 'train' and a 'val' split."
            )
        if images is not None and images > len(rows):
            raise UserError(
                f"{where}.{part}_images: {images} are asked for, but pool '{card['pool']}' has {len(rows)} images in its "
                f"{kind} split."
            )
        # Now, not when the task is evaluated, since pretraining lies between.
        for task, need in needs.items():
            if unknown := min(max(_unknown(rows, column) for column in columns) for columns in COLUMNS[need]):
                raise UserError(_lacking(task, need, card["pool"], part, unknown, len(rows)))
        parts[part] = rows if images is None else pick(rows, int(images), f"examples/{part}")
    summary: dict[str, Any] = {
        "examples": where,
        "pool": card["pool"],
        "train": len(parts["train"]),
        "test": len(parts["test"]),
        "classes": card["classes"],
        "box_classes": card["box_classes"],
    }
    if others := choose_shifted(where, options, card, parts["test"], shifted or {}):
        summary["shifted"] = {pool: {"images": len(one.rows), "classes": one.classes} for pool, one in others.items()}
    with artifacts.directory(output) as folder:
        for part, rows in (parts | {f"shifted-{pool}": one.rows for pool, one in others.items()}).items():
            _write(rows, folder / f"{part}.parquet")
        artifacts.write_json(folder / "card.json", summary)
    return summary


def _unknown(rows: pa.Table, column: str) -> int:
    """How many rows have no value, or a list in which one is missing: an instance without a mask."""
    if column not in rows.column_names:
        return len(rows)
    values = rows[column]
    missing = pc.is_null(values).to_numpy()
    if pa.types.is_list(values.type):
        lengths = pc.list_value_length(values).fill_null(0).to_numpy()
        owners = np.repeat(np.arange(len(values)), lengths)
        missing[owners[pc.is_null(pc.list_flatten(values)).to_numpy()]] = True
    return int(missing.sum())


def _lacking(task: str, need: str, pool: str, part: str, unknown: int, images: int) -> str:
    columns = " or ".join(" and ".join(f"'{column}'" for column in columns) for columns in COLUMNS[need])
    return (
        f"tasks.{task}: the task needs {need}, and {unknown} of the {images} images of pool '{pool}' to {part} on have none; "
        f"add {columns} to the pool's annotations, point the task at another pool, or take it out of the study."
    )


def _write(rows: pa.Table, file: Path) -> None:
    pq.write_table(rows, file, compression="zstd")
