"""The embedded pool: scenes of handwritten digits, rendered on the spot, with labels, captions, tags, boxes and masks.

Every study can run on it with nothing to fetch. Scene number i of a split is the same for any number of images, so a
larger pool only adds; the digits of the validation split come from other handwriting than those of the training split.
"""

from typing import Literal

from mimcore.data.files import Files
from mimcore.data.formats._rendered import Kind, RenderedConfig, list_rendered, render
from mimcore.data.formats._scenes import NAMES, PALETTE, TRUTH, VERSION, Renderer
from mimcore.data.formats.tar import index_tar
from mimcore.data.pool import Classes, Shard, ShardIndex


class Config(RenderedConfig):
    """Options of the embedded pool."""

    format: Literal["digits"] = "digits"
    path: str = "data/digits"
    #: What names a scene's class: the digit that shows most or, which a small model learns much sooner, its colour.
    label: Literal["digit", "colour"] = "digit"


def list_shards(config: Config, files: Files) -> list[Shard]:
    """The shards that the options ask for."""
    return list_rendered(config, files, _kind(config))


def index_shard(config: Config, files: Files, shard: Shard) -> ShardIndex:
    """Look at every scene of a shard."""
    return index_tar(files, shard, shard.name.partition("-")[0], config.perceptual_hash)


def classes(config: Config, files: Files) -> Classes:
    """Digits by name for the boxes, and digits or colours for the label."""
    return Classes(list(PALETTE if config.label == "colour" else NAMES), list(NAMES))


def prepare(config: Config, files: Files) -> None:
    """Render what is missing.

    Raises:
        UserError: the folder holds files that were not made here, or is none of this machine.
    """
    render(config, files, _kind(config))


def _kind(config: Config) -> Kind:
    told = {"version": VERSION, "seed": config.seed, "image_size": config.image_size}
    told |= {} if config.label == "digit" else {"label": config.label}
    size, seed, label = config.image_size, config.seed, config.label
    return Kind("mimcore digits", told, TRUTH, "jpg", lambda split: Renderer(size, seed, split, label))
