"""Verbs of pools: what lies there, and its index."""

import time
from pathlib import Path
from typing import Annotated

import typer

from mimcore import layout
from mimcore.cli.base import PARAMS, PREPARE, WORK, Params, PoolName, app
from mimcore.study import Study


@app.command(rich_help_panel=PREPARE)
def scan(
    pools: Annotated[
        list[str] | None, typer.Argument(help="Names of pools; all of the study's if none is given.")
    ] = None,
    adopt: Annotated[bool, typer.Option("--adopt", help="Pin the pool as it is now, where it has changed.")] = False,
    params: Params = PARAMS,
) -> None:
    """List the files of a pool and pin that snapshot in listings/, which git keeps."""
    from mimcore.data.listing import scan as scan_pool
    from mimcore.data.pool import load_pool

    study = Study.read(params)
    for name in pools or study.grid.pools:
        pool = load_pool(name, study.options("pools", name), Path.cwd())
        print(scan_pool(pool, layout.listing(name), adopt).sentence())


@app.command(rich_help_panel=WORK)
def index(pool: PoolName, params: Params = PARAMS) -> None:
    """Index the images of a pool: one row per image, broken ones set aside."""
    from mimcore.artifacts import Provenance
    from mimcore.data.index import build_index
    from mimcore.data.listing import read_listing
    from mimcore.data.pool import load_pool
    from mimcore.progress import Meter

    study = Study.read(params)
    options, execution = study.options("pools", pool), study.execution
    output, listing = layout.index(pool), layout.listing(pool)
    shards = len(read_listing(listing, pool))
    made = load_pool(pool, options, Path.cwd()).made
    before, start = made(), time.monotonic()
    record = Provenance(layout.provenance(output), f"index {pool}", options, {"listing": str(listing)})
    with record, Meter(f"index {pool}", shards, "shards") as meter:
        card = build_index(
            pool,
            options,
            listing,
            output,
            Path.cwd(),
            layout.SCRATCH,
            progress=lambda done, total: meter.update(done),
            workers=execution.index_processes(),
            cluster=execution.index_cluster,
        )
    print(
        f"{pool}: {card['train']:,} training and {card['val']:,} validation images, {len(card['skipped'])} set aside."
    )
    if videos := _length(output / "index.parquet"):
        print(f"{pool}: {videos}")
    if after := made():
        print(f"{pool}: {after.sentence(before, time.monotonic() - start)}")


def _length(index: Path) -> str | None:
    """How much there is of videos; None of images."""
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    if not {"frames", "seconds"} <= set(pq.read_schema(index).names):
        return None
    table = pq.read_table(index, columns=["frames", "seconds"])
    hours = (pc.sum(table["seconds"]).as_py() or 0) / 3600
    return f"{pc.sum(table['frames']).as_py():,} frames, {hours:,.2f} hours."
