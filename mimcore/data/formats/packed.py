"""Another pool made smaller: its images with a short side of so many pixels, encoded anew into tar shards.

The shards are made while the pool is indexed, one for each shard of the other pool, and again only where that has
changed. They lie in a folder of their own for each set of options, and are tars as the format ``tar`` reads them. What
the other pool sets aside is left out, its splits stay, and boxes and masks are scaled along. Of videos, frames are taken.
"""

from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, Literal, Self
from urllib.parse import unquote

import numpy as np
import pyarrow as pa
from pydantic import Field, model_validator

from mimcore import artifacts, registry
from mimcore.data.files import Files, LocalFiles
from mimcore.data.formats._frames import encoded_frames, frame_rows
from mimcore.data.formats._packing import VERSION, About, pack_shard, read_about
from mimcore.data.formats.tar import index_tar
from mimcore.data.loader import Images
from mimcore.data.pool import Classes, Made, Pool, PoolConfig, Shard, ShardIndex, load_pool
from mimcore.definition import problems
from mimcore.errors import UserError

#: Formats with no images of their own, or with clips, which would become their first frames.
_NOT_PACKED = {"metadata", "moving_digits", "packed"}
#: The format of videos, of which frames are taken.
VIDEOS = "video_folder"
#: Options of the other pool that change none of its images.
_ELSEWHERE = {"path", "max_skipped_fraction", "perceptual_hash", "val_images", "caption_template"}


class Config(PoolConfig):
    """Options of a packed pool; ``path`` is where the smaller images go, on this machine."""

    format: Literal["packed"] = "packed"
    #: The pool that is made smaller: its ``format``, ``path`` and options, as under ``pools``.
    of: dict[str, Any]
    #: Shorter side of the packed images, pixels. An image whose shorter side is no longer keeps its bytes.
    short_side: int = Field(ge=16, le=4096)
    #: JPEG quality. 90 leaves artefacts hardly to be seen, in about half of the bytes of 95.
    quality: int = Field(90, ge=1, le=100)
    #: Images made of each video, where the other pool has videos: of as many equal parts the middle frame, as in testing by
    #: segments (Wang et al. 2016, temporal segment networks).
    frames_per_video: int = Field(1, ge=1)

    @model_validator(mode="before")
    @classmethod
    def _split_of_the_other(cls, options: Any) -> Any:
        of = options.get("of") if isinstance(options, dict) else None
        if not isinstance(of, dict):
            return options
        if "val_images" in options:
            raise ValueError("'val_images' belongs to the pool that is packed; write it within 'of'")
        if "frames_per_video" in options and of.get("format") != VIDEOS:
            raise ValueError(f"'frames_per_video' belongs to videos, and 'of' is no pool of the format '{VIDEOS}'")
        if options.get("frames_per_video", 1) != 1 and of.get("val_images") is not None:
            raise ValueError(
                "'val_images' would draw frames of one video for both splits; give the videos a validation split, 'val'"
            )
        if "caption_template" in of:
            raise ValueError("'caption_template' belongs to the packed pool itself; write it beside 'of'")
        return {**options, "val_images": of.get("val_images")}

    @model_validator(mode="after")
    def _the_other_is_a_pool(self) -> Self:
        kind = str(self.of.get("format"))
        known = [name for name in registry.names("format") if name not in _NOT_PACKED]
        if kind not in known:
            raise ValueError(f"'of.format' is '{kind}'; one of {', '.join(known)} is needed")
        if wrong := problems(registry.load("format", kind).Config, self.of, "of"):
            raise ValueError("; ".join(wrong))
        return self


class PackedFiles(LocalFiles):
    """The folder of the packed shards, with the pool that they are made from."""

    def __init__(self, name: str, config: Config, folder: Path, root: Path) -> None:
        """Look at nothing yet."""
        super().__init__(folder)
        # Pixels are looked at while packing.
        self.options = {**config.of, "perceptual_hash": False}
        self.root = root
        self.source: Pool = load_pool(f"{name}.of", self.options, root)
        self._config = config

    @cached_property
    def plan(self) -> dict[str, tuple[Shard, Shard]]:
        """Packed shards by name, each with the shard that it is made from."""
        config = self._config
        other = self.source.config.model_dump(mode="json", exclude=_ELSEWHERE)
        told = {"version": VERSION, "short_side": config.short_side, "quality": config.quality, "of": other}
        if config.of["format"] == VIDEOS:
            told["frames_per_video"] = config.frames_per_video
        variant = f"{config.short_side}px-q{config.quality}-{artifacts.digest(told)[:8]}"
        plan: dict[str, tuple[Shard, Shard]] = {}
        for shard in self.source.shards():
            name = f"{variant}/{_tar_name(shard.name)}"
            if name in plan:
                raise UserError(
                    f"{self.source.files.where()}: '{plan[name][1].name}' and '{shard.name}' would be packed into one file;"
                    " rename one."
                )
            plan[name] = Shard(name, 0, artifacts.digest([told, list(shard)])[:16]), shard
        return plan


def files(name: str, config: Config, found: Files, root: Path) -> PackedFiles:
    """The files of the pool.

    Raises:
        UserError: they are to lie on S3, or the other pool's options are wrong.
    """
    if not isinstance(found, LocalFiles):
        raise UserError(
            f"pools.{name}.path: images are packed on this machine; give a folder of it, not {found.where()}."
        )
    return PackedFiles(name, config, found.folder, root)


def prepare(config: Config, files: PackedFiles) -> None:
    """See to the other pool; shards are packed when they are indexed."""
    files.source.prepare()


def list_shards(config: Config, files: PackedFiles) -> list[Shard]:
    """A shard for each of the other pool's: told from that and the options, since JPEG bytes differ between encoders."""
    return [packed for packed, _ in files.plan.values()]


def is_made(config: Config, files: PackedFiles, shard: Shard) -> bool:
    """Whether a shard lies there, whole, and made from what it is now to be made from."""
    about = read_about(files.folder / shard.name)
    return about is not None and about.etag == shard.etag


def index_shard(config: Config, files: PackedFiles, shard: Shard) -> ShardIndex:
    """Pack a shard if it is not there, and look at its images."""
    tar = files.folder / shard.name
    about = read_about(tar)
    if about is None or about.etag != shard.etag:
        _, source = files.plan[shard.name]
        found = files.source.index_shard(source)
        rows, images = found.rows, Images(files.options, found.rows, 1, files.root)
        encoded = images.encoded(np.arange(len(images)))
        if config.of["format"] == VIDEOS:
            rows, chosen = frame_rows(rows, config.frames_per_video)
            encoded = encoded_frames(images, chosen)
        # A process that is one of many has one thread.
        threads = pa.cpu_count()
        pack_shard(tar, shard.etag, rows, found.skipped, encoded, config.short_side, config.quality, threads)
        about = read_about(tar)
    assert isinstance(about, About)
    packed = index_tar(files, shard, about.split, config.perceptual_hash, unquote)
    return ShardIndex(packed.rows, [*about.skipped, *packed.skipped])


def classes(config: Config, files: PackedFiles) -> Classes:
    """Those of the other pool."""
    return files.source.classes()


def made(config: Config, files: PackedFiles) -> Made:
    """What lies there packed."""
    found = [one for name in files.plan if (one := read_about(files.folder / name))]
    return Made(*(sum(getattr(one, name) for one in found) for name in Made._fields))


def _tar_name(shard: str) -> str:
    """The name of a packed shard: that of the shard it is made from, with the ending of a tar."""
    path = PurePosixPath(shard)
    if path.suffix in (".tar", ".parquet", ".json"):
        return path.with_suffix(".tar").as_posix()
    return "_.tar" if shard == "." else f"{shard}.tar"
