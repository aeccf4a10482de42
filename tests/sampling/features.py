"""Files of feature vectors, pinned as options pin them."""

import hashlib
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from mimcore.sampling.files import PinnedFile


def pinned(path: Path) -> PinnedFile:
    return PinnedFile(path=str(path), sha256=hashlib.sha256(path.read_bytes()).hexdigest())


def write_features(path: Path, keys: list[str], vectors: npt.NDArray[np.float32]) -> PinnedFile:
    pq.write_table(pa.table({"key": keys, "feature": list(vectors)}), path)
    return pinned(path)


def blobs(counts: list[int], dimensions: int = 8) -> tuple[pa.Table, npt.NDArray[np.float32]]:
    """Rows around well separated directions, ``label`` being the direction, in a mixed order."""
    generator = np.random.default_rng(0)
    labels = generator.permutation(np.repeat(np.arange(len(counts)), counts))
    vectors = np.eye(dimensions)[labels] + 0.02 * generator.normal(size=(len(labels), dimensions))
    return pa.table({"key": [f"{n:03d}" for n in range(len(labels))], "label": labels}), vectors.astype(np.float32)
