"""Metadata alone: Parquet files of addresses, texts and scores whose images are not here yet, such as COYO-700M's.

Subsets are drawn from it as from any pool, and exported as a list to fetch (``mimcore export``). It has no index, since it
is a table already, and no run can be trained on it.
"""

from typing import Literal, NoReturn

from mimcore.data.files import Files
from mimcore.data.pool import PoolConfig, Shard, file_shard
from mimcore.errors import UserError


class Config(PoolConfig):
    """Options of a pool of metadata."""

    format: Literal["metadata"] = "metadata"
    #: Pattern of the files.
    train: str = "**/*.parquet"
    #: Column that tells rows apart: text or whole numbers, each there once.
    key_column: str = "id"
    #: Column of the images' addresses.
    url_column: str = "url"
    #: Column of the captions.
    caption_column: str | None = "text"


def list_shards(config: Config, files: Files) -> list[Shard]:
    """Every file."""
    return [file_shard(files, name) for name in files.match(config.train)]


def index_shard(config: Config, files: Files, shard: Shard) -> NoReturn:
    """There is no image to look at.

    Raises:
        UserError: always, with what to do.
    """
    raise UserError(
        f"{files.where(shard.name)} holds no images; draw a list from it with 'mimcore export', fetch these, and name"
        " the pool of what arrived."
    )
