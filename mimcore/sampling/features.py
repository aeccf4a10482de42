"""Feature vectors of images, streamed from a file that names each image by its key."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mimcore.definition import Definition
from mimcore.errors import UserError
from mimcore.sampling.files import PinnedFile

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]

#: Vectors in memory at a time.
_ROWS = 1 << 12
#: Bytes of a column that are read at a time; without, a whole row group would be in memory.
_BUFFER = 1 << 20


class FeatureOptions(Definition):
    """Options of a strategy that draws by features."""

    #: Vectors of the pool's images: Parquet with ``key`` and ``feature``, or an ``.npy`` array.
    features: PinnedFile
    #: Text file with the key of each vector of an ``.npy`` array.
    keys: PinnedFile | None = None
    #: Draws with different salts share images only by chance; where the order is by features, it decides among equals.
    salt: str = ""


class Features:
    """The vectors of the rows of an index, in their file."""

    def __init__(self, rows: pa.Table, config: FeatureOptions) -> None:
        """Find each row's vector, by its key.

        Args:
            rows: N rows of an index; only ``key`` is looked at.
            config: the files, their paths absolute.

        Raises:
            UserError: the files do not fit together, or a row has no vector; it begins with the option.
        """
        self._file = config.features
        path = Path(config.features.path)
        names = _keys(config)
        if (different := pc.count_distinct(names).as_py()) != len(names):
            raise UserError(
                f"features: {path} has {len(names)} vectors but {different} different keys; each needs one."
            )
        found = pc.index_in(names, rows["key"].cast(pa.large_string()))
        # Of each vector the row that it belongs to, -1 for none.
        self._rows: I64 = found.fill_null(-1).to_numpy().astype(np.int64)
        missing = np.ones(rows.num_rows, bool)
        missing[self._rows[self._rows >= 0]] = False
        if missing.any():
            first = rows["key"][int(missing.argmax())].as_py()
            raise UserError(
                f"features: {path} has no vector of {missing.sum()} of the {rows.num_rows} images, first of '{first}';"
                " compute these, or keep only what has one by a step of the strategy 'given'."
            )

    def scan(self) -> Iterator[tuple[I64, F64]]:
        """Read the file once.

        Yields:
            some rows, int64 ``(B,)``, in the order of the file, and their vectors, float64 ``(B, D)``, each of length 1.

        Raises:
            UserError: as ``read_vectors``, or there are more or fewer vectors than keys.
        """
        first = 0
        for vectors in _chunks(self._file, "features"):
            rows = self._rows[first : first + len(vectors)]
            first += len(vectors)
            if len(rows) < len(vectors):
                break
            yield rows[rows >= 0], vectors[rows >= 0]
        if first != len(self._rows):
            raise UserError(
                f"features: {self._file.path} has not as many vectors as there are keys ({len(self._rows)}); each needs one."
            )


def read_vectors(file: PinnedFile, option: str) -> F64:
    """All vectors of a file, one a row.

    Args:
        file: a Parquet file with a column ``feature`` of lists of one length, or an ``.npy`` array; its path absolute.
        option: that names it.

    Returns:
        float64 ``(N, D)``, each of length 1: what is compared is the direction.

    Raises:
        UserError: the file is of another kind or empty, or a vector has no direction (zero, NaN); it begins with the
            option.
    """
    chunks = list(_chunks(file, option))
    if not chunks:
        raise UserError(f"{option}: {file.path} has no vector; make the file anew.")
    return np.concatenate(chunks)


def _keys(config: FeatureOptions) -> pa.ChunkedArray:
    """The key of each vector, large_string."""
    path = Path(config.features.path)
    if (path.suffix == ".npy") != (config.keys is not None):
        raise UserError(
            "features: an .npy array needs the file 'keys' beside it, and a Parquet file has a column 'key' instead."
        )
    if config.keys is not None:
        lines = Path(config.keys.path).read_text(encoding="utf-8").splitlines()
        return pa.chunked_array([pa.array(lines, pa.large_string())])
    try:
        return pq.read_table(path, columns=["key"], partitioning=None)["key"].cast(pa.large_string())
    except (KeyError, pa.ArrowException):
        raise UserError(f"features: {path} has no column 'key' of text; make the file anew.") from None


def _chunks(file: PinnedFile, option: str) -> Iterator[F64]:
    """Vectors of length 1 in the order of the file, in parts.

    float64, so that a length does not depend on the processor in any digit that float32 has.
    """
    path = Path(file.path)
    first = 0
    try:
        for part in _array_parts(path) if path.suffix == ".npy" else _column_parts(path, option):
            if part.ndim != 2 or part.dtype.kind != "f":
                raise UserError(
                    f"{option}: {path} holds {part.dtype} of shape {part.shape}, not a vector for each image."
                )
            vectors = part.astype(np.float64)
            lengths = np.linalg.norm(vectors, axis=1)
            fine = np.isfinite(lengths) & (lengths > 0)
            if not fine.all():
                raise UserError(
                    f"{option}: the vector in row {first + int(fine.argmin())} of {path} is zero or not finite; make it anew."
                )
            first += len(vectors)
            yield vectors / lengths[:, None]
    except (OSError, ValueError, KeyError, pa.ArrowException) as error:
        raise UserError(
            f"{option}: {path} cannot be read as features ({error}); give an .npy array, or Parquet with 'key' and 'feature'."
        ) from None


def _array_parts(path: Path) -> Iterator[npt.NDArray[np.generic]]:
    whole = np.load(path, mmap_mode="r", allow_pickle=False)
    if whole.ndim != 2:
        yield whole  # its shape is refused
    for first in range(0, len(whole), _ROWS):
        yield whole[first : first + _ROWS]


def _column_parts(path: Path, option: str) -> Iterator[npt.NDArray[np.generic]]:
    length = None
    with pq.ParquetFile(path, buffer_size=_BUFFER, pre_buffer=False) as file:
        for batch in file.iter_batches(_ROWS, columns=["feature"], use_threads=False):
            if not len(column := batch["feature"]):
                continue
            lengths = pc.unique(pc.list_value_length(column)).to_pylist()
            length = length or lengths[0]
            if lengths != [length] or column.null_count:
                raise UserError(f"{option}: the features in {path} are not all of one length; make the file anew.")
            yield column.flatten().to_numpy(zero_copy_only=False).reshape(len(column), -1)
