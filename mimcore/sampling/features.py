"""Feature vectors of images, from a file that names each image by its key."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mimcore.errors import UserError
from mimcore.sampling.files import PinnedFile

F32 = npt.NDArray[np.float32]


def read_vectors(file: PinnedFile, option: str) -> F32:
    """The vectors of a file, one a row.

    Args:
        file: a Parquet file with a column ``feature`` of lists of one length, or an ``.npy`` array; its path absolute.
        option: that names it.

    Returns:
        float32 ``(N, D)``, each of length 1: what is compared is the direction.

    Raises:
        UserError: the file is of another kind, or a vector has no direction (zero, NaN); it begins with the option.
    """
    path = Path(file.path)
    try:
        if path.suffix == ".npy":
            vectors = np.load(path, mmap_mode="r", allow_pickle=False)
        else:
            column = pq.read_table(path, columns=["feature"], partitioning=None)["feature"].combine_chunks()
            lengths = pc.unique(pc.list_value_length(column))
            if len(lengths) != 1 or column.null_count:
                raise UserError(f"{option}: the features in {path} are not all of one length; make the file anew.")
            vectors = column.flatten().to_numpy(zero_copy_only=False).reshape(len(column), -1)
    except (OSError, ValueError, KeyError, pa.ArrowException) as error:
        raise UserError(
            f"{option}: {path} cannot be read as features ({error}); give an .npy array, or Parquet with 'key' and 'feature'."
        ) from None
    if vectors.ndim != 2 or vectors.dtype.kind != "f":
        raise UserError(
            f"{option}: {path} holds {vectors.dtype} of shape {vectors.shape}, not a vector for each image."
        )
    found = np.array(vectors, np.float32)
    norms = np.linalg.norm(found, axis=1, keepdims=True)
    if len(bad := np.flatnonzero(~(np.isfinite(norms[:, 0]) & (norms[:, 0] > 0)))):
        raise UserError(
            f"{option}: {len(bad)} of the vectors in {path} are zero or not finite, first in row {bad[0]}; make them anew."
        )
    found /= norms
    return found


def features_of(rows: pa.Table, file: PinnedFile, keys: PinnedFile | None, option: str) -> F32:
    """The vector of each row.

    Args:
        rows: N rows of an index; ``key`` is looked at.
        file: of the vectors, as in ``read_vectors``.
        keys: a text file with the key of each vector on a line, for an ``.npy`` array; None for Parquet, where the
            column ``key`` says it.
        option: that names the vectors.

    Returns:
        float32 ``(N, D)``, each of length 1.

    Raises:
        UserError: as ``read_vectors``, or a row has no vector.
    """
    path = Path(file.path)
    if (path.suffix == ".npy") != (keys is not None):
        raise UserError(
            f"{option}: an .npy array needs the file 'keys' beside it, and a Parquet file has a column 'key' instead."
        )
    vectors = read_vectors(file, option)
    if keys is None:
        try:
            names = pq.read_table(path, columns=["key"], partitioning=None)["key"].cast(pa.large_string())
        except (KeyError, pa.ArrowException):
            raise UserError(f"{option}: {path} has no column 'key' of text; make the file anew.") from None
    else:
        lines = Path(keys.path).read_text(encoding="utf-8").splitlines()
        names = pa.chunked_array([pa.array(lines, pa.large_string())])
    if len(names) != len(vectors) or len(pc.unique(names)) != len(names):
        raise UserError(
            f"{option}: {path} has {len(vectors)} vectors but {len(pc.unique(names))} different keys; each needs one."
        )
    places = pc.index_in(rows["key"].cast(pa.large_string()), names)
    if places.null_count:
        first = rows["key"].filter(pc.is_null(places))[0].as_py()
        raise UserError(
            f"{option}: {path} has no vector of {places.null_count} of the {rows.num_rows} images, first of '{first}';"
            " compute these, or keep only what has one by a step of the strategy 'given'."
        )
    found: F32 = vectors[places.to_numpy()]
    return found
