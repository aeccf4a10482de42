"""Index to subset: a manifest, a card that says what was drawn, and a picture of it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import Field

from mimcore import artifacts, definition
from mimcore.data.splits import read_split
from mimcore.definition import Definition
from mimcore.errors import UserError
from mimcore.sampling import pipeline
from mimcore.sampling.card import COLUMNS, Counts, Keys, describe
from mimcore.sampling.manifest import write_manifest
from mimcore.sampling.overlap import Overlap, leave_out
from mimcore.sampling.pipeline import Step
from mimcore.sampling.sheet import SHOWN, write_sheet
from mimcore.sampling.source import I64, Left, Progress, RowsError, Source


class Subset(Definition):
    """``subsets.<name>`` of ``params.yaml``."""

    #: Name of the pool that images are drawn from; only its ``train`` split is.
    pool: str
    #: Copies of validation images.
    overlap: Overlap = Overlap()
    #: What narrows the pool before the draw, in this order.
    steps: list[Step] = Field(default_factory=list)
    #: Module of ``mimcore.sampling.strategies`` that draws.
    strategy: str = "random"
    #: Images to draw; None takes all that are left.
    images: int | None = Field(None, ge=1)
    #: Options of the strategy.
    options: dict[str, Any] = Field(default_factory=dict)


def mistakes(options: Mapping[str, Any], where: str) -> list[str]:
    """Everything that is wrong with a subset's definition, each with its dotted path below ``where``."""
    found = definition.problems(Subset, options, where)
    if found:
        return found
    subset = Subset.model_validate(dict(options))
    return list(pipeline.mistakes(subset.strategy, subset.options, subset.steps, where))


def resolve(name: str, options: Mapping[str, Any]) -> Subset:
    """A subset's definition, checked.

    Raises:
        UserError: with all mistakes at once.
    """
    if wrong := mistakes(options, f"subsets.{name}"):
        raise UserError("\n".join(wrong))
    return Subset.model_validate(dict(options))


def sample(
    name: str,
    options: Mapping[str, Any],
    seed: str,
    pool_options: Mapping[str, Any],
    index: Path,
    output: Path,
    root: Path,
    progress: Progress = lambda what, done, total: None,
) -> dict[str, Any]:
    """Draw a subset and write ``manifest.parquet``, ``validation.parquet``, ``card.json`` and ``contact_sheet.png``.

    The pool's validation split travels with the subset: a run then depends on its subset alone.

    Args:
        name: of the subset, as in ``params.yaml``.
        options: ``subsets.<name>`` of ``params.yaml``.
        seed: name of the replicate, such as ``s0``.
        pool_options: ``pools.<pool>`` of ``params.yaml``.
        index: ``artifacts/index/<pool>``; those of other pools lie beside it.
        output: the folder to write, ``artifacts/subsets/<subset>-<seed>``.
        root: the folder that relative pool paths count from.
        progress: told of each pass over many rows.

    Returns:
        the card.

    Raises:
        UserError: an option is wrong, a file that it names is not what was pinned, or fewer images are left than are
            asked for.
    """
    subset = resolve(name, options)
    source = Source([index / "index.parquet"], progress=progress)
    training = source.left().only(source.scan(_training, ["split"]))
    indexes = {**{pool: index.parent / pool for pool in subset.overlap.pools}, subset.pool: index}
    drawn, record = choose(source, training, subset, name, seed, indexes, root)
    of_pool, of_subset, keys = Counts(), Counts(), Keys()
    for counts in source.scan(lambda rows, _: _counted(rows), COLUMNS, training):
        of_pool.merge(counts)

    def look(rows: pa.Table) -> None:
        of_subset.add(rows)
        keys.add(rows["key"])

    with artifacts.directory(output) as part:
        write_manifest(part / "manifest.parquet", source, drawn, look=look)
        pq.write_table(read_split(index, "val"), part / "validation.parquet", compression="zstd")
        classes = artifacts.read_json(index / "card.json").get("classes")
        card = {**record, **describe(of_subset, of_pool, keys, classes)}
        artifacts.write_json(part / "card.json", card)
        shown = next(pq.ParquetFile(part / "manifest.parquet").iter_batches(SHOWN))
        write_sheet(part / "contact_sheet.png", pa.Table.from_batches([shown]), pool_options, root)
    return card


def choose(
    source: Source, left: Left, subset: Subset, name: str, seed: str, indexes: Mapping[str, Path], root: Path
) -> tuple[I64, dict[str, Any]]:
    """Leave copies out, narrow, draw.

    Args:
        source: rows of the pool.
        left: those that may be drawn.
        subset: its definition.
        name: of the subset.
        seed: name of the replicate.
        indexes: of the pools whose validation splits must not be met, the folder of each one's index by its name.
        root: the folder that relative paths count from.

    Returns:
        numbers of the drawn rows in the order of the draw, int64; and for the card what was
        done.

    Raises:
        UserError: as ``sample``.
    """
    where = f"subsets.{name}"
    strategy = pipeline.load_draw(subset.strategy, subset.options, where)
    images = left.count
    try:
        left, overlap = leave_out(source, left, indexes, subset.overlap)
    except RowsError:
        raise
    except UserError as error:
        raise UserError(f"{where}.overlap.{error}") from None
    left, steps = pipeline.run_steps(source, left, subset.steps, seed, root, where)
    pinned = strategy.pinned(root)
    told: dict[str, Any] = {}
    if pinned.keeps:
        left, told = pinned.keep(source, left, seed)
    wanted = _images(subset, name, images, left.count)
    drawn = pinned.draw(source, left, wanted, seed)
    record = {
        "subset": name,
        "pool": subset.pool,
        "strategy": subset.strategy,
        "options": strategy.config.model_dump(mode="json"),
        "seed": seed,
        "nested": strategy.nested(),
        **told,
        "overlap": overlap,
        "steps": steps,
    }
    return drawn, record


def _training(rows: pa.Table, numbers: I64) -> I64:
    return np.asarray(numbers[pc.equal(rows["split"], "train").to_numpy()])


def _counted(rows: pa.Table) -> Counts:
    counts = Counts()
    counts.add(rows)
    return counts


def _images(subset: Subset, name: str, pool_images: int, left: int) -> int:
    """How many images to draw.

    Raises:
        UserError: there are fewer.
    """
    cure = "grow the pool and pin it anew with 'mimcore scan' and '--adopt'."
    if not left:
        raise UserError(
            f"subsets.{name}: no image of pool '{subset.pool}' is left after 'overlap' and 'steps'; loosen them, or {cure}"
        )
    if subset.images is not None and subset.images > left:
        there = (
            f"pool '{subset.pool}' has {left} training images"
            if left == pool_images
            else f"of the {pool_images} training images of pool '{subset.pool}' {left} are left after 'overlap' and 'steps'"
        )
        raise UserError(f"subsets.{name}.images: {subset.images} are asked for but {there}; ask for fewer, or {cure}")
    return left if subset.images is None else subset.images
