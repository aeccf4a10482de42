"""The embedded pool of clips: a handwritten digit moves in one of eight directions, which is the class of the clip.

One frame is not enough to tell it. Clips are animated WebP; other tasks see their first frame.
"""

from typing import Literal

from pydantic import Field

from mimcore.data.files import Files
from mimcore.data.formats._motion import DIRECTIONS, VERSION, MotionRenderer
from mimcore.data.formats._rendered import Kind, RenderedConfig, list_rendered, render
from mimcore.data.formats.tar import index_tar
from mimcore.data.pool import Classes, Shard, ShardIndex


class Config(RenderedConfig):
    """Options of the embedded pool of clips."""

    format: Literal["moving_digits"] = "moving_digits"
    path: str = "data/moving_digits"
    #: Clips in all, training and validation.
    images: int = Field(3000, ge=2)
    #: Side of a frame, pixels.
    image_size: int = Field(32, ge=32, le=256)
    #: Clips that make the validation split, in shards of their own.
    val_images: int = Field(500, ge=1)
    images_per_shard: int = Field(1000, ge=1)
    #: Frames of a clip.
    frames: int = Field(16, ge=2, le=256)


def list_shards(config: Config, files: Files) -> list[Shard]:
    """The shards that the options ask for."""
    return list_rendered(config, files, _kind(config))


def index_shard(config: Config, files: Files, shard: Shard) -> ShardIndex:
    """Look at the first frame of every clip of a shard."""
    return index_tar(files, shard, shard.name.partition("-")[0], config.perceptual_hash)


def classes(config: Config, files: Files) -> Classes:
    """Directions by name."""
    return Classes(list(DIRECTIONS))


def prepare(config: Config, files: Files) -> None:
    """Render what is missing.

    Raises:
        UserError: the folder holds files that were not made here, or is none of this machine.
    """
    render(config, files, _kind(config))


def _kind(config: Config) -> Kind:
    told = {"motion": VERSION, "seed": config.seed, "image_size": config.image_size, "frames": config.frames}

    def scenes(split: str) -> MotionRenderer:
        return MotionRenderer(config.image_size, config.seed, split, config.frames)

    return Kind("mimcore moving digits", told, 1, "webp", scenes)
