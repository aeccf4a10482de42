"""Pools that are rendered on this machine: tar shards that are made when they are missing, and known by their options alone."""

import io
import json
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, Self

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field, model_validator

from mimcore import artifacts
from mimcore.data.files import Files, LocalFiles
from mimcore.data.pool import PoolConfig, Shard
from mimcore.data.rows import OPTIONAL
from mimcore.errors import UserError

_STAMP = "pool.json"


class RenderedConfig(PoolConfig):
    """Options of every pool that is rendered."""

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


class Scenes(Protocol):
    """What draws the scenes of one split."""

    def scene(self, number: int) -> tuple[bytes, dict[str, Any]]:
        """A scene, encoded, and what is true of it: columns of the index, and others."""
        ...


@dataclass(frozen=True)
class Kind:
    """What is rendered.

    Attributes:
        maker: name that the folder is stamped with.
        told: what decides the bytes of a scene, besides its number and split.
        truth: goes up whenever the same scenes are told of in another way: they are rendered again, and stay pinned.
        suffix: of an encoded scene.
        scenes: makes what draws a split.
    """

    maker: str
    told: dict[str, Any]
    truth: int
    suffix: str
    scenes: Callable[[str], Scenes]


@dataclass(frozen=True)
class _Plan:
    """Scenes ``first`` .. ``first + images - 1`` of a split make one shard."""

    split: str
    first: int
    images: int

    def name(self, config: RenderedConfig) -> str:
        return f"{self.split}-{self.first // config.images_per_shard:05d}.tar"

    def shard(self, config: RenderedConfig, kind: Kind) -> Shard:
        """The listing entry: told from the options alone, since encoded bytes differ between versions of the encoder."""
        return Shard(self.name(config), 0, artifacts.digest({**kind.told, "plan": asdict(self)})[:16])


def list_rendered(config: RenderedConfig, files: Files, kind: Kind) -> list[Shard]:
    """The shards that the options ask for."""
    return [plan.shard(config, kind) for plan in _plans(config) if files.exists(plan.name(config))]


def render(config: RenderedConfig, files: Files, kind: Kind) -> None:
    """Render the shards that are missing or were made with other options, and remove those that are not asked for.

    Raises:
        UserError: the folder holds files that were not made here, or is none of this machine.
    """
    if not isinstance(files, LocalFiles):
        raise UserError(
            f"{files.where()}: the pool of {_called(kind)} is rendered on this machine; give a folder of it as 'path'."
        )
    root = files.folder
    stamp = _read_stamp(root, kind)
    wanted = {plan.name(config): plan for plan in _plans(config)}
    for name in sorted(set(stamp) - set(wanted)):
        (root / name).unlink(missing_ok=True)
        (root / name).with_suffix(".parquet").unlink(missing_ok=True)
        del stamp[name]
    scenes: dict[str, Scenes] = {}
    for name, plan in wanted.items():
        path = root / name
        made = f"{plan.shard(config, kind).etag}-{kind.truth}"
        if stamp.get(name) == made and path.is_file() and path.with_suffix(".parquet").is_file():
            continue
        # Written first: what lies half-finished in a stamped folder is known to be ours.
        stamp.pop(name, None)
        _write_stamp(root, stamp, kind)
        if plan.split not in scenes:
            scenes[plan.split] = kind.scenes(plan.split)
        _write_shard(path, plan, scenes[plan.split], kind)
        stamp[name] = made
        _write_stamp(root, stamp, kind)


def _plans(config: RenderedConfig) -> Iterator[_Plan]:
    for split, images in (("train", config.images - (config.val_images or 0)), ("val", config.val_images or 0)):
        for first in range(0, images, config.images_per_shard):
            yield _Plan(split, first, min(config.images_per_shard, images - first))


def _called(kind: Kind) -> str:
    return kind.maker.removeprefix("mimcore ")


def _read_stamp(root: Path, kind: Kind) -> dict[str, str]:
    """What the shards that lie there were made of, by name: their tag, and how they are told of."""
    found: Any = artifacts.read_json(root / _STAMP) if (root / _STAMP).is_file() else None
    if isinstance(found, dict) and found.get("made_by") == kind.maker:
        return dict(found["shards"])
    if root.is_dir() and any(not path.name.startswith(".") for path in root.iterdir()):
        raise UserError(
            f"{root} holds files that the pool of {_called(kind)} did not make; give it another 'path', or empty the folder."
        )
    return {}


def _write_stamp(root: Path, shards: dict[str, str], kind: Kind) -> None:
    artifacts.write_json(root / _STAMP, {"made_by": kind.maker, "shards": dict(sorted(shards.items()))})


def _write_shard(path: Path, plan: _Plan, scenes: Scenes, kind: Kind) -> None:
    truths = []
    with artifacts.file(path) as part, tarfile.open(part, "w", format=tarfile.USTAR_FORMAT) as tar:
        for number in range(plan.first, plan.first + plan.images):
            key = f"{plan.split}-{number:07d}"
            encoded, truth = scenes.scene(number)
            fields = {name: truth.pop(name) for name in list(truth) if name not in OPTIONAL}
            members = {kind.suffix: encoded, "txt": truth["caption"].encode(), "json": json.dumps(fields).encode()}
            for suffix, data in members.items():
                info = tarfile.TarInfo(f"{key}.{suffix}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
            truths.append({"key": key, **truth})
    known = {name: type_ for name, type_ in OPTIONAL.items() if name in truths[0]}
    schema = pa.schema({"key": pa.string(), **known})
    with artifacts.file(path.with_suffix(".parquet")) as part:
        pq.write_table(pa.Table.from_pylist(truths, schema), part, compression="zstd")
