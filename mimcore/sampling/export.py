"""Metadata to a list of images to fetch, in the order of a draw."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mimcore import artifacts, definition
from mimcore.data.listing import read_listing
from mimcore.data.pool import load_pool
from mimcore.errors import UserError
from mimcore.sampling.draw import choose, resolve
from mimcore.sampling.manifest import write_manifest
from mimcore.sampling.source import Progress, Source

#: The list, in the folder that is written.
LIST = "urls.parquet"


def export(
    name: str,
    options: Mapping[str, Any],
    seed: str,
    pool_options: Mapping[str, Any],
    listing: Path,
    indexes: Path,
    output: Path,
    root: Path,
    progress: Progress = lambda what, done, total: None,
) -> dict[str, Any]:
    """Draw a subset of metadata and write ``urls.parquet`` and ``card.json``.

    The list has all columns, with ``key`` and the ``rank`` in the draw, and is what img2dataset takes.

    Args:
        name: of the subset, as in ``params.yaml``.
        options: ``subsets.<name>`` of ``params.yaml``.
        seed: name of the replicate, such as ``s0``.
        pool_options: ``pools.<pool>`` of ``params.yaml``, of the format ``metadata``.
        listing: ``listings/<pool>.json``.
        indexes: folder of the indexes of the pools that ``overlap.pools`` names.
        output: the folder to write.
        root: the folder that relative paths count from.
        progress: told of each pass over many rows.

    Returns:
        the card, with ``command``, which fetches the images, and ``list_sha256``, by which a subset names the list.

    Raises:
        UserError: the pool is of another format or has changed, an option is wrong, or fewer rows are left than are
            asked for.
    """
    subset = resolve(name, options)
    pool = load_pool(subset.pool, pool_options, root)
    if pool.format_name != "metadata":
        raise UserError(
            f"subsets.{name}.pool: pool '{subset.pool}' is of the format '{pool.format_name}', whose images are here already; draw"
            " from it with 'mimcore sample', or name a pool of the format 'metadata'."
        )
    pool.prepare()
    shards = read_listing(listing, subset.pool)
    if changed := sorted({*shards} ^ {*pool.shards()}):
        raise UserError(
            f"pool '{subset.pool}': '{changed[0].name}' is not as it was listed; 'mimcore scan {subset.pool} --adopt' pins it"
            " anew."
        )
    tags = {shard.name: shard.etag for shard in shards}
    key = pool.config.key_column  # type: ignore[attr-defined]
    source = Source([*tags], key, lambda file: pool.files.table(file, tags[file]), progress)
    for column in (pool.config.url_column, pool.config.caption_column):  # type: ignore[attr-defined]
        if column is not None and column not in source.schema.names:
            raise UserError(
                f"pools.{subset.pool}: there is no column '{column}'; {definition.nearest(column, source.schema.names)}"
            )
    others = {other: indexes / other for other in subset.overlap.pools}
    drawn, record = choose(source, source.left(), subset, name, seed, others, root)
    with artifacts.directory(output) as part:
        write_manifest(part / LIST, source, drawn)
        card = {
            **record,
            "images": len(drawn),
            "pool_images": source.rows,
            "list_sha256": artifacts.file_digest(part / LIST),
            "command": _command(output / LIST, pool.config, source.schema.names),
        }
        artifacts.write_json(part / "card.json", card)
    return card


def _command(file: Path, config: Any, columns: list[str]) -> str:
    """What fetches the images; columns go along, so that each image can be found in the list."""
    kept = [name for name in columns if name not in ("key", config.url_column, config.caption_column)]
    kept = [config.key_column, *(name for name in kept if name != config.key_column), "rank"]
    caption = f" --caption_col {config.caption_column}" if config.caption_column else ""
    names = ", ".join(f'"{name}"' for name in dict.fromkeys(kept))
    return (
        f"img2dataset --input_format parquet --url_list {file} --url_col {config.url_column}{caption}"
        f" --output_format webdataset --output_folder {file.parent.name}-images --save_additional_columns '[{names}]'"
    )
