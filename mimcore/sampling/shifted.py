"""Pools of shifted images, such as ImageNet-A, -R, -Sketch and -V2: a task's classes under other conditions than its own pool's."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from mimcore import artifacts
from mimcore.data.splits import pick, read_split
from mimcore.errors import UserError

#: Names of unknown classes that an error lists.
LISTED = 10


class Shifted(NamedTuple):
    """Images of a shifted pool.

    Attributes:
        rows: of its index; ``label`` is the number that the task's own pool gives the class of this name.
        classes: those numbers, of all images of the pool, ascending.
    """

    rows: pa.Table
    classes: list[int]


def choose_shifted(
    where: str, options: Mapping[str, Any], card: Mapping[str, Any], test: pa.Table, indexes: Mapping[str, Path]
) -> dict[str, Shifted]:
    """The images of the validation split of each pool that ``shifted`` names.

    Args:
        where: ``tasks.<name>``.
        options: of the task; ``shifted`` (names of pools) and ``shifted_images`` (numbers of images by pool) are read.
        card: of the index of the task's own pool.
        test: the task's own test images.
        indexes: folders of the indexes of these pools.

    Raises:
        UserError: classes cannot be matched by name, an image has no label, or there are fewer images than are asked for.
    """
    named = list(options.get("shifted") or ())
    if not named:
        return {}
    if not card["classes"]:
        raise UserError(
            f"{where}.shifted: classes are matched by their names, and pool '{card['pool']}' names none; give it names."
        )
    return {
        pool: _one(where, pool, (options.get("shifted_images") or {}).get(pool), card, test, indexes[pool])
        for pool in named
    }


def _one(where: str, pool: str, images: int | None, card: Mapping[str, Any], test: pa.Table, index: Path) -> Shifted:
    names = artifacts.read_json(index / "card.json")["classes"]
    rows = read_split(index, "val")
    if not len(rows):
        raise UserError(f"{where}.shifted: pool '{pool}' has no image in its validation split; give it a 'val' split.")
    if not names or "label" not in rows.column_names or rows["label"].null_count:
        raise UserError(
            f"{where}.shifted: every image of pool '{pool}' needs a label, and each label a name; add them."
        )
    if images is not None and images > len(rows):
        raise UserError(
            f"{where}.shifted_images.{pool}: {images} are asked for, but the pool has {len(rows)} to test on."
        )
    numbers = _numbers(where, pool, [names[label] for label in pc.unique(rows["label"]).to_pylist()], card)
    if not pc.any(pc.is_in(test["label"], pa.array(numbers.values(), pa.int64()))).as_py():
        raise UserError(
            f"{where}.shifted: no image that is tested on of pool '{card['pool']}' is of a class of pool '{pool}'; test on more."
        )
    chosen = rows if images is None else pick(rows, images, f"examples/shifted/{pool}")
    labels = pa.array([numbers[names[label]] for label in chosen["label"].to_pylist()], pa.int64())
    at = chosen.column_names.index("label")
    return Shifted(chosen.set_column(at, "label", labels), sorted(numbers.values()))


def _numbers(where: str, pool: str, names: Sequence[str], card: Mapping[str, Any]) -> dict[str, int]:
    """The number of each class in the task's own pool, by its name."""
    known = Counter(card["classes"])
    if unknown := sorted(set(names) - set(known)):
        listed = ", ".join(f"'{name}'" for name in unknown[:LISTED])
        rest = f" and {len(unknown) - LISTED} more" if len(unknown) > LISTED else ""
        raise UserError(
            f"{where}.shifted: pool '{pool}' has classes that pool '{card['pool']}' does not know: {listed}{rest}; rename them"
            " or leave their images out of the pool."
        )
    if twice := sorted(name for name in names if known[name] > 1):
        raise UserError(
            f"{where}.shifted: pool '{card['pool']}' has two classes of the name '{twice[0]}', so that those of pool '{pool}'"
            " cannot be matched by name; name them apart."
        )
    return {name: card["classes"].index(name) for name in names}
