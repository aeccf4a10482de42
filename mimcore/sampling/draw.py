"""Index to subset: a manifest, a card that says what was drawn, and a picture of it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field

from mimcore import artifacts, definition, registry
from mimcore.data.splits import read_split
from mimcore.definition import Definition
from mimcore.errors import UserError
from mimcore.sampling.card import describe
from mimcore.sampling.sheet import write_sheet


class Subset(Definition):
    """``subsets.<name>`` of ``params.yaml``."""

    #: Name of the pool that images are drawn from; only its ``train`` split is.
    pool: str
    #: Module of ``mimcore.sampling.strategies``.
    strategy: str = "random"
    #: Images to draw; None takes the whole ``train`` split.
    images: int | None = Field(None, ge=1)
    #: Options of the strategy.
    options: dict[str, Any] = Field(default_factory=dict)


def sample(
    name: str,
    options: Mapping[str, Any],
    seed: str,
    pool_options: Mapping[str, Any],
    index: Path,
    output: Path,
    root: Path,
) -> dict[str, Any]:
    """Draw a subset and write ``manifest.parquet``, ``validation.parquet``, ``card.json`` and ``contact_sheet.png``.

    The pool's validation split travels with the subset: a run then depends on its subset alone.

    Args:
        name: of the subset, as in ``params.yaml``.
        options: ``subsets.<name>`` of ``params.yaml``.
        seed: name of the replicate, such as ``s0``.
        pool_options: ``pools.<pool>`` of ``params.yaml``.
        index: ``artifacts/index/<pool>``.
        output: the folder to write, ``artifacts/subsets/<subset>-<seed>``.
        root: the folder that relative pool paths count from.

    Returns:
        the card.

    Raises:
        UserError: an option is wrong, or the pool has fewer images than are asked for.
    """
    subset = definition.resolve(Subset, options, f"subsets.{name}")
    try:
        strategy = registry.load("strategy", subset.strategy)
    except UserError as error:
        raise UserError(f"subsets.{name}.strategy: {error}") from None
    config = definition.resolve(strategy.Config, subset.options, f"subsets.{name}.options")
    rows = read_split(index, "train")
    images = rows.num_rows if subset.images is None else subset.images
    if images > rows.num_rows:
        raise UserError(
            f"subsets.{name}.images: {images} are asked for but pool '{subset.pool}' has {rows.num_rows} training"
            " images; ask for fewer, or grow the pool and pin it anew with 'mimcore scan' and '--adopt'."
        )
    drawn = rows.take(pa.array(strategy.draw(rows, config, images, seed)))
    manifest = drawn.append_column("rank", pa.array(np.arange(images), pa.int64()))
    card = {
        "subset": name,
        "pool": subset.pool,
        "strategy": subset.strategy,
        "options": config.model_dump(mode="json"),
        "seed": seed,
        **describe(drawn, rows, artifacts.read_json(index / "card.json").get("classes")),
    }
    with artifacts.directory(output) as part:
        pq.write_table(manifest, part / "manifest.parquet", compression="zstd")
        pq.write_table(read_split(index, "val"), part / "validation.parquet", compression="zstd")
        artifacts.write_json(part / "card.json", card)
        write_sheet(part / "contact_sheet.png", drawn, pool_options, root)
    return card
