"""The embedded pool: scenes of handwritten digits, rendered on the spot, with labels, captions, tags, boxes and masks.

Every study can run on it with nothing to fetch. Scene number i of a split is the same for any number of images, so a
larger pool only adds; the digits of the validation split come from other handwriting than those of the training split.
"""

import io
import tarfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Self

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field, model_validator

from mimcore import artifacts
from mimcore.data.files import Files, LocalFiles
from mimcore.data.formats._scenes import NAMES, TRUTH, VERSION, Renderer
from mimcore.data.formats.tar import index_tar
from mimcore.data.pool import Classes, PoolConfig, Shard, ShardIndex
from mimcore.data.rows import OPTIONAL
from mimcore.errors import UserError

_STAMP = "pool.json"
_MAKER = "mimcore digits"


class Config(PoolConfig):
    """Options of the embedded pool."""

    format: Literal["digits"] = "digits"
    path: str = "data/digits"
    #: Scenes in all, training and validation.
    images: int = Field(24000, ge=2)
    #: Side of a scene, pixels.
    image_size: int = Field(64, ge=32, le=1024)
    seed: int = Field(0, ge=0)
    #: Scenes that make the validation split, in shards of their own.
    val_images: int = Field(2000, ge=1)
    images_per_shard: int = Field(4000, ge=1)

    @model_validator(mode="after")
    def _some_to_train_on(self) -> Self:
        if self.val_images >= self.images:
            raise ValueError(f"'val_images' ({self.val_images}) leaves none of {self.images} 'images' to train on")
        return self


@dataclass(frozen=True)
class _Plan:
    """Scenes ``first`` .. ``first + images - 1`` of a split make one shard."""

    split: str
    first: int
    images: int

    def name(self, config: Config) -> str:
        return f"{self.split}-{self.first // config.images_per_shard:05d}.tar"

    def shard(self, config: Config) -> Shard:
        """The listing entry: told from the options alone, since JPEG bytes differ between versions of the encoder."""
        told = {"version": VERSION, "seed": config.seed, "image_size": config.image_size, "plan": asdict(self)}
        return Shard(self.name(config), 0, artifacts.digest(told)[:16])


def list_shards(config: Config, files: Files) -> list[Shard]:
    """The shards that the options ask for."""
    return [plan.shard(config) for plan in _plans(config) if files.exists(plan.name(config))]


def index_shard(config: Config, files: Files, shard: Shard) -> ShardIndex:
    """Look at every scene of a shard."""
    return index_tar(files, shard, shard.name.partition("-")[0], config.perceptual_hash)


def classes(config: Config, files: Files) -> Classes:
    """Digits by name, for the label (the digit that shows most) as for the boxes."""
    return Classes(list(NAMES), list(NAMES))


def prepare(config: Config, files: Files) -> None:
    """Render the shards that are missing or were made with other options, and remove those that are not asked for.

    Raises:
        UserError: the folder holds files that were not made here, or is none of this machine.
    """
    if not isinstance(files, LocalFiles):
        raise UserError(
            f"{files.where()}: the pool of digits is rendered on this machine; give a folder of it as 'path'."
        )
    root = files.folder
    stamp = _read_stamp(root)
    wanted = {plan.name(config): plan for plan in _plans(config)}
    for name in sorted(set(stamp) - set(wanted)):
        (root / name).unlink(missing_ok=True)
        (root / name).with_suffix(".parquet").unlink(missing_ok=True)
        del stamp[name]
    renderers: dict[str, Renderer] = {}
    for name, plan in wanted.items():
        path = root / name
        made = f"{plan.shard(config).etag}-{TRUTH}"
        if stamp.get(name) == made and path.is_file() and path.with_suffix(".parquet").is_file():
            continue
        # Written first: what lies half-finished in a stamped folder is known to be ours.
        stamp.pop(name, None)
        _write_stamp(root, stamp)
        if plan.split not in renderers:
            renderers[plan.split] = Renderer(config.image_size, config.seed, plan.split)
        _write_shard(path, plan, renderers[plan.split])
        stamp[name] = made
        _write_stamp(root, stamp)


def _plans(config: Config) -> Iterator[_Plan]:
    for split, images in (("train", config.images - config.val_images), ("val", config.val_images)):
        for first in range(0, images, config.images_per_shard):
            yield _Plan(split, first, min(config.images_per_shard, images - first))


def _read_stamp(root: Path) -> dict[str, str]:
    """What the shards that lie there were made of, by name: their tag, and how they are told of."""
    found: Any = artifacts.read_json(root / _STAMP) if (root / _STAMP).is_file() else None
    if isinstance(found, dict) and found.get("made_by") == _MAKER:
        return dict(found["shards"])
    if root.is_dir() and any(not path.name.startswith(".") for path in root.iterdir()):
        raise UserError(
            f"{root} holds files that the pool of digits did not make; give it another 'path', or empty the folder."
        )
    return {}


def _write_stamp(root: Path, shards: dict[str, str]) -> None:
    artifacts.write_json(root / _STAMP, {"made_by": _MAKER, "shards": dict(sorted(shards.items()))})


def _write_shard(path: Path, plan: _Plan, renderer: Renderer) -> None:
    truths = []
    with artifacts.file(path) as part, tarfile.open(part, "w", format=tarfile.USTAR_FORMAT) as tar:
        for number in range(plan.first, plan.first + plan.images):
            key = f"{plan.split}-{number:07d}"
            encoded, truth = renderer.scene(number)
            fields = f'{{"background": "{truth.pop("background")}", "digits": {truth.pop("digits")}}}'
            members = {"jpg": encoded, "txt": truth["caption"].encode(), "json": fields.encode()}
            for suffix, data in members.items():
                info = tarfile.TarInfo(f"{key}.{suffix}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
            truths.append({"key": key, **truth})
    known = {name: kind for name, kind in OPTIONAL.items() if name in truths[0]}
    schema = pa.schema({"key": pa.string(), **known})
    with artifacts.file(path.with_suffix(".parquet")) as part:
        pq.write_table(pa.Table.from_pylist(truths, schema), part, compression="zstd")
