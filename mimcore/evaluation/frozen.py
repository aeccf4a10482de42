"""Frozen features on disk: an array for each way of pooling, and what is known of the images."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from mimcore import artifacts
from mimcore.definition import Definition
from mimcore.errors import UserError
from mimcore.evaluation.task import Parts, Pooling

#: What probes may want to know of an image.
COLUMNS = ("key", "label", "caption", "tags", "box_labels")
PARTS = ("train", "test")


class ProbeConfig(Definition):
    """Options of every probe."""

    #: Name of the features that it trains and tests on.
    features: str


class PooledConfig(ProbeConfig):
    """Options of a probe that takes an encoder's tokens as one feature."""

    #: ``mean`` over the patches or the class token, ``cls``; raw pixels are taken whole.
    pooling: Pooling = "mean"


@dataclass(frozen=True)
class Split:
    """Features of N images.

    Attributes:
        rows: of the images, a ``pyarrow.Table`` with ``key`` and those of ``label``, ``caption``, ``tags`` and ``box_labels``
            that the pool has.
        arrays: float32 ``(N, D)`` by name: ``mean``, ``cls`` where the encoder has a class token, ``projected`` where the run
            has a projection; or ``pixels`` alone. They may lie on disk.
    """

    rows: Any
    arrays: Mapping[str, np.ndarray]

    def __len__(self) -> int:
        return int(self.rows.num_rows)


class Frozen(Parts[Split]):
    """What a probe trains and tests on."""

    def pooled(self, pooling: Pooling, device: torch.device, where: str) -> tuple[Tensor, Tensor]:
        """The features to train and to test on, float32 ``(N, D)``, on a device; pixels whatever the pooling.

        Raises:
            UserError: the class token is asked for and the encoder has none, or features are not finite.
        """
        name = "pixels" if "pixels" in self.train.arrays else pooling
        if name not in self.train.arrays:
            raise UserError(f"{where}.pooling: the encoder has no class token; use 'mean'.")
        train, test = (torch.tensor(part.arrays[name], device=device) for part in (self.train, self.test))
        if not (train.isfinite().all() and test.isfinite().all()):
            raise UserError(
                f"{where}: the encoder's features are not finite; look at the run's loss, and train it again."
            )
        return train, test


def write_arrays(folder: Path, prefix: str, images: int, batches: Iterable[Mapping[str, Tensor]]) -> dict[str, str]:
    """Write features as they come, ``<prefix>-<name>.npy`` for each name, so that they need not fit in memory.

    Args:
        folder: it exists.
        prefix: such as ``run-train``.
        images: N, rows of all batches together.
        batches: float32 ``(B, D)`` by name.

    Returns:
        SHA-256 of the numbers in each file, by its name.
    """
    digests: dict[str, Any] = {}
    streams: dict[str, Any] = {}
    try:
        for batch in batches:
            for name, part in batch.items():
                numbers = np.ascontiguousarray(part.cpu().numpy(), np.float32)
                file = f"{prefix}-{name}.npy"
                if file not in streams:
                    streams[file], digests[file] = (folder / file).open("wb"), hashlib.sha256()
                    header = {"descr": "<f4", "fortran_order": False, "shape": (images, numbers.shape[1])}
                    np.lib.format.write_array_header_1_0(streams[file], header)
                streams[file].write(numbers.data)
                digests[file].update(numbers.data)
    finally:
        for stream in streams.values():
            stream.close()
    return {file: digest.hexdigest() for file, digest in digests.items()}


def write_rows(folder: Path, rows: Mapping[str, pa.Table], card: Mapping[str, Any]) -> None:
    """Write what is known of the images of each part, and ``card.json``."""
    for part, table in rows.items():
        known = table.select([name for name in COLUMNS if name in table.column_names])
        pq.write_table(known, folder / f"{part}.parquet", compression="zstd")
    artifacts.write_json(folder / "card.json", dict(card))


def read(folder: Path, subject: str) -> Frozen:
    """Read the features of a subject (``run``, ``untrained`` or ``pixels``); arrays stay on disk until they are used.

    Raises:
        UserError: they are missing.
    """
    card = artifacts.read_json(folder / "card.json")
    parts = {}
    for part in PARTS:
        prefix = f"{subject}-{part}-"
        arrays = {
            file.removeprefix(prefix).removesuffix(".npy"): np.load(folder / file, mmap_mode="r")
            for file in card["arrays"]
            if file.startswith(prefix)
        }
        parts[part] = Split(pq.read_table(folder / f"{part}.parquet"), arrays)
    return Frozen(parts["train"], parts["test"], card["classes"], card["box_classes"])
