"""A pool: a format, its options, and a folder of images, here or on S3, that nobody repacks."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from types import ModuleType
from typing import Any, NamedTuple, Self

import pyarrow as pa
from pydantic import Field, field_validator, model_validator

from mimcore import artifacts, definition, registry
from mimcore.data.files import Files, files_of
from mimcore.data.paths import pool_root
from mimcore.definition import Definition
from mimcore.errors import UserError

#: How the names of images end, in lower case.
IMAGE_SUFFIXES = frozenset({"jpg", "jpeg", "png", "webp", "bmp", "tif", "tiff", "gif"})

#: Bytes read at each end of a small file for its fingerprint, one of many in an entry of a listing.
_SMALL_END = 1 << 12


class PoolConfig(Definition):
    """Options that every format has."""

    #: Folder of the pool, or its address on S3; see ``mimcore.data.paths.pool_root``.
    path: str
    #: Validation images drawn by hash from all images, where the pool has no validation split of its own.
    val_images: int | None = Field(None, ge=1)
    #: Broken images are left out and counted; more than this fraction of them is an error.
    max_skipped_fraction: float = Field(0.01, ge=0, le=1)
    #: Whether images are decoded while indexing for a perceptual hash, by which copies are found.
    perceptual_hash: bool = True
    #: Text with '{label}' where the name of a class stands: the caption of images that have a label and none of their own.
    caption_template: str | None = None

    @field_validator("caption_template")
    @classmethod
    def _with_a_place(cls, value: str | None) -> str | None:
        if value is not None and value.count("{label}") != 1:
            raise ValueError("it must have '{label}' once, where the name of the class stands")
        return value


class SplitConfig(PoolConfig):
    """Options of formats whose splits are told apart by a name or pattern of files."""

    #: Where the training images are.
    train: str | None = None
    #: Where the validation images are; they are taken out of ``train``. Or ``val_images`` are drawn.
    val: str | None = None

    @model_validator(mode="after")
    def _one_validation_split(self) -> Self:
        if (self.val is None) == (self.val_images is None):
            raise ValueError(
                "exactly one of 'val' (where the images are) and 'val_images' (how many to draw) is needed"
            )
        return self


class Shard(NamedTuple):
    """One line of a listing: a container of images, pinned by its tag."""

    name: str
    bytes: int
    etag: str


class Skipped(NamedTuple):
    """An image that is left out of the index."""

    key: str
    shard: str
    reason: str


class Made(NamedTuple):
    """Images that a format has made of others, and the bytes of the encoded images before and after."""

    images: int
    source_bytes: int
    bytes: int

    def sentence(self, before: "Made | None", seconds: float) -> str:
        """What lies there and, if some of it is newer than ``before``, how fast that was made."""
        share = f"{self.bytes / max(self.source_bytes, 1):.0%}"
        words = f"{self.source_bytes / 2**20:,.1f} MiB of images made {self.bytes / 2**20:,.1f} MiB ({share})"
        new = self.images - (before.images if before else 0)
        return f"{words}; {new:,} now, {new / max(seconds, 1e-9):,.0f} images/s." if new > 0 else f"{words}."


@dataclass(frozen=True)
class ShardIndex:
    """The rows of the index that one shard gives, and what was left out."""

    rows: pa.Table
    skipped: list[Skipped] = field(default_factory=list)


class Classes(NamedTuple):
    """Names of the classes of labels and boxes, where the pool knows them."""

    labels: list[str] | None = None
    boxes: list[str] | None = None


@dataclass(frozen=True)
class Pool:
    """A pool with its options checked.

    ``format`` is a module of ``mimcore.data.formats``, with ``Config``, ``list_shards(config, files) -> list[Shard]``,
    ``index_shard(config, files, shard) -> ShardIndex``, and if there is a need for them
    ``classes(config, files) -> Classes`` and ``prepare(config, files)``, which makes what is missing. One that makes its
    shards when they are indexed has ``is_made(config, files, shard) -> bool`` and ``made(config, files) -> Made``; one
    whose files are more than those below its path has ``files(name, config, files, root) -> Files``.
    """

    name: str
    config: PoolConfig
    format: ModuleType
    files: Files

    def prepare(self) -> None:
        """Make what the format makes by itself; an ordinary pool has to be there."""
        if hasattr(self.format, "prepare"):
            self.format.prepare(self.config, self.files)
        elif wrong := self.files.check():
            raise UserError(f"pools.{self.name}.path: {wrong}")

    def shards(self) -> list[Shard]:
        """What lies in the pool now, by name.

        Raises:
            UserError: nothing does.
        """
        found: list[Shard] = sorted(self.format.list_shards(self.config, self.files))
        if not found:
            raise UserError(
                f"pools.{self.name}: no images of format '{self.format_name}' in {self.files.where()}; correct the options."
            )
        return found

    def index_shard(self, shard: Shard) -> ShardIndex:
        """Look at every image of a shard."""
        found: ShardIndex = self.format.index_shard(self.config, self.files, shard)
        return found

    def is_made(self, shard: Shard) -> bool:
        """Whether the images of a shard lie there; of an ordinary pool they do."""
        return not hasattr(self.format, "is_made") or bool(self.format.is_made(self.config, self.files, shard))

    def made(self) -> "Made | None":
        """What the format has made of other images; None for an ordinary pool."""
        found: Made | None = self.format.made(self.config, self.files) if hasattr(self.format, "made") else None
        return found

    def classes(self) -> Classes:
        """Names of the classes."""
        found: Classes = self.format.classes(self.config, self.files) if hasattr(self.format, "classes") else Classes()
        return found

    @property
    def format_name(self) -> str:
        """Name of the format, as in ``params.yaml``."""
        return self.format.__name__.rpartition(".")[2]


def load_pool(name: str, options: Mapping[str, Any], root: Path) -> Pool:
    """Check the options of a pool.

    Args:
        name: as in ``params.yaml``.
        options: ``pools.<name>`` of ``params.yaml``: ``format``, ``path`` and what the format has.
        root: the folder of ``params.yaml``.

    Raises:
        UserError: the format is unknown or an option wrong.
    """
    if "format" not in options:
        raise UserError(f"pools.{name}.format: required, but not given; one of {', '.join(registry.names('format'))}.")
    try:
        module = registry.load("format", str(options["format"]))
    except UserError as error:
        raise UserError(f"pools.{name}.format: {error}") from None
    config = definition.resolve(module.Config, options, f"pools.{name}")
    try:
        files = files_of(pool_root(options, root))
    except UserError as error:
        raise UserError(f"pools.{name}.{error}") from None
    if hasattr(module, "files"):
        files = module.files(name, config, files, root)
    return Pool(name, config, module, files)


def file_shard(files: Files, name: str) -> Shard:
    """The listing entry of one file."""
    return Shard(name, *files.tag(name))


def files_shard(name: str, files: Files, names: list[str]) -> Shard:
    """One listing entry for many files with an image each, so that a listing stays readable.

    A file that is missing has its place in the tag too.
    """
    total = 0
    lines: list[list[Any]] = []
    # By parts of the path, as paths sort: 'a/b' comes before 'a-b'.
    names = sorted(names, key=lambda one: PurePosixPath(one).parts)
    for one, tag in zip(names, files.tags(names, _SMALL_END), strict=True):
        last = PurePosixPath(one).name
        lines.append([last, *tag] if tag else [last, -1, ""])
        total += tag.bytes if tag else 0
    return Shard(name, total, artifacts.digest(lines)[:16])
