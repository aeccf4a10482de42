"""Stage ``examples``: the labelled images that a task trains and tests on."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mimcore import artifacts, registry
from mimcore.data.splits import pick, read_split
from mimcore.errors import UserError

#: The column of the index that holds what a task needs to know of every image (``NEEDS`` of its module).
COLUMNS = {"labels": "label", "boxes": "boxes", "masks": "masks"}


def choose(task: str, options: Mapping[str, Any], index: Path, output: Path) -> dict[str, Any]:
    """Write ``train.parquet``, ``test.parquet`` (rows of the index) and ``card.json``.

    A task trains on the pool's training split and tests on its validation split; where it names a number of images,
    these are a random part that depends on the task's name alone, nested over numbers.

    Args:
        task: name of the task.
        options: of the task; ``train_images`` and ``test_images`` are read, None meaning all.
        index: folder of the pool's index.
        output: folder to write.

    Raises:
        UserError: more images are asked for than there are, or some lack what the task needs to know of them.
    """
    column = COLUMNS[registry.constant("task", str(options["module"]), "NEEDS")]
    card = artifacts.read_json(index / "card.json")
    parts = {}
    for part, split in (("train", "train"), ("test", "val")):
        rows = read_split(index, split)
        images = options.get(f"{part}_images")
        if images is not None and images > len(rows):
            raise UserError(
                f"tasks.{task}.{part}_images: {images} are asked for, but pool '{card['pool']}' has {len(rows)} images in its "
                f"{'training' if part == 'train' else 'validation'} split."
            )
        # Now, not when the task is evaluated, since pretraining lies between.
        unknown = _unknown(rows[column]) if column in rows.column_names else len(rows)
        if unknown or not len(rows):
            raise UserError(_lacking(task, card["pool"], column, part, unknown, len(rows)))
        parts[part] = rows if images is None else pick(rows, int(images), f"examples/{part}")
    summary = {
        "task": task,
        "pool": card["pool"],
        "train": len(parts["train"]),
        "test": len(parts["test"]),
        "classes": card["classes"],
        "box_classes": card["box_classes"],
    }
    with artifacts.directory(output) as folder:
        for part, rows in parts.items():
            _write(rows, folder / f"{part}.parquet")
        artifacts.write_json(folder / "card.json", summary)
    return summary


def _unknown(values: pa.ChunkedArray) -> int:
    """How many rows have no value, or a list in which one is missing: an instance without a mask."""
    missing = pc.is_null(values).to_numpy()
    if pa.types.is_list(values.type):
        lengths = pc.list_value_length(values).fill_null(0).to_numpy()
        owners = np.repeat(np.arange(len(values)), lengths)
        missing[owners[pc.is_null(pc.list_flatten(values)).to_numpy()]] = True
    return int(missing.sum())


def _lacking(task: str, pool: str, column: str, part: str, unknown: int, images: int) -> str:
    if not images:
        return f"tasks.{task}: pool '{pool}' has no image to {part} on; give it a 'train' and a 'val' split."
    what = next(name for name, known in COLUMNS.items() if known == column)
    return (
        f"tasks.{task}: the task needs {what}, and {unknown} of the {images} images of pool '{pool}' to {part} on have none; "
        f"add '{column}' to the pool's annotations, point the task at another pool, or take it out of study.tasks."
    )


def _write(rows: pa.Table, file: Path) -> None:
    pq.write_table(rows, file, compression="zstd")
