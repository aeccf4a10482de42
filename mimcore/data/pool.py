"""A pool: a format, its options, and a folder of images that nobody repacks."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple, Self

import pyarrow as pa
from pydantic import Field, model_validator

from mimcore import artifacts, definition, registry
from mimcore.data.paths import pool_root
from mimcore.definition import Definition
from mimcore.errors import UserError

#: How the names of images end, in lower case.
IMAGE_SUFFIXES = frozenset({"jpg", "jpeg", "png", "webp", "bmp", "tif", "tiff", "gif"})

#: Bytes read at each end of a file for its fingerprint.
_END = 1 << 16


class PoolConfig(Definition):
    """Options that every format has."""

    #: Folder of the pool; see ``mimcore.data.paths.pool_root``.
    path: str
    #: Validation images drawn by hash from all images, where the pool has no validation split of its own.
    val_images: int | None = Field(None, ge=1)
    #: Broken images are left out and counted; more than this fraction of them is an error.
    max_skipped_fraction: float = Field(0.01, ge=0, le=1)
    #: Whether images are decoded while indexing for a perceptual hash, by which copies are found.
    perceptual_hash: bool = True


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

    ``format`` is a module of ``mimcore.data.formats``, with ``Config``, ``list_shards(config, root) -> list[Shard]``,
    ``index_shard(config, root, shard) -> ShardIndex``, and if there is a need for them
    ``classes(config, root) -> Classes`` and ``prepare(config, root)``, which makes what is missing.
    """

    name: str
    config: PoolConfig
    format: ModuleType
    root: Path

    def prepare(self) -> None:
        """Make what the format makes by itself; an ordinary pool has to be there."""
        if hasattr(self.format, "prepare"):
            self.format.prepare(self.config, self.root)
        elif not self.root.is_dir():
            raise UserError(
                f"pools.{self.name}.path: there is no folder {self.root}; correct the path, or fetch the images."
            )

    def shards(self) -> list[Shard]:
        """What lies in the pool now, by name.

        Raises:
            UserError: nothing does.
        """
        found: list[Shard] = sorted(self.format.list_shards(self.config, self.root))
        if not found:
            raise UserError(
                f"pools.{self.name}: no images of format '{self.format_name}' in {self.root}; correct the options."
            )
        return found

    def index_shard(self, shard: Shard) -> ShardIndex:
        """Look at every image of a shard."""
        found: ShardIndex = self.format.index_shard(self.config, self.root, shard)
        return found

    def classes(self) -> Classes:
        """Names of the classes."""
        found: Classes = self.format.classes(self.config, self.root) if hasattr(self.format, "classes") else Classes()
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
    return Pool(name, config, module, pool_root(options, root))


def fingerprint(path: Path, end_bytes: int = _END) -> str:
    """A cheap digest of a file: of its length, first and last bytes. A copy has the same, wherever and whenever made.

    An edit in the middle that keeps the length is not seen here, but by the checksum of the image when it is read.
    """
    length = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(end_bytes)
        file.seek(max(len(head), length - end_bytes))
        tail = file.read(end_bytes)
    return hashlib.sha256(b"%d\n" % length + head + tail).hexdigest()[:16]


def file_shard(root: Path, path: Path) -> Shard:
    """The listing entry of one file."""
    try:
        return Shard(path.relative_to(root).as_posix(), path.stat().st_size, fingerprint(path))
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); mend or remove it.") from error


def files_shard(name: str, files: Iterable[Path]) -> Shard:
    """One listing entry for many files with an image each, so that a listing stays readable.

    A file that is missing has its place in the tag too.
    """
    total, lines = 0, []
    for path in sorted(files):
        try:
            length = path.stat().st_size
            lines.append([path.name, length, fingerprint(path, end_bytes=1 << 12)])
            total += length
        except OSError:
            lines.append([path.name, -1, ""])
    return Shard(name, total, artifacts.digest(lines)[:16])


def match(root: Path, pattern: str | None) -> list[Path]:
    """Files of a pool that match a pattern such as ``train-*.tar``, sorted; none for no pattern."""
    return sorted(path for path in root.glob(pattern) if path.is_file()) if pattern else []
