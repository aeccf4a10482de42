"""The images of a list that somebody else has made.

A text file has a key on each line. An ``.npy`` file is an array of DataComp's, of the type ``u8,u8``: each of its
items is a uid, 128 bits, of which the first number has the first 16 hexadecimal digits (Gadre et al., 2023; the
``resharder`` of the benchmark's code).

A growing pool adds rows to what is kept and takes none away.
"""

from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from mimcore.data.hashing import U64
from mimcore.definition import Definition
from mimcore.errors import UserError
from mimcore.sampling.columns import complete
from mimcore.sampling.files import PinnedFile

_UIDS = np.dtype("u8,u8")


class Config(Definition):
    """Options of the strategy."""

    #: The list: ``.npy`` for uids, any other ending for text.
    file: PinnedFile
    #: Column that the list speaks of, different in each row; of text, for uids of 32 hexadecimal digits.
    column: str = "key"
    #: Part of the list that the rows may lack, such as images that earlier steps have dropped.
    max_missing_fraction: float = Field(0.0, ge=0, le=1)


def columns(config: Config) -> list[str]:
    """That which the list speaks of."""
    return [config.column]


def meets(rows: pa.Table, config: Config) -> npt.NDArray[np.bool_]:
    """Which rows are listed.

    Args:
        rows: N rows of an index; the column is looked at.
        config: options of the strategy, the path of the file absolute.

    Returns:
        bool ``(N,)``.

    Raises:
        UserError: the file or the column cannot be read; it begins with the option.
    """
    values = complete(rows, config.column, "column").cast(pa.large_string())
    wanted = _read(config.file)
    if isinstance(wanted, np.ndarray):
        own = _parse_uids(values, config.column)
        places = np.minimum(np.searchsorted(wanted, own), len(wanted) - 1)
        return np.asarray(wanted[places] == own) if len(wanted) else np.zeros(len(own), bool)
    found: npt.NDArray[np.bool_] = pc.is_in(values, wanted).to_numpy()
    return found


def check(kept: int, rows: int, config: Config) -> None:
    """Compare the number of rows that were kept with the list.

    Raises:
        UserError: too much of the list is missing; it begins with the option.
    """
    listed = len(_read(config.file))
    missing = listed - kept
    if missing > config.max_missing_fraction * listed:
        raise UserError(
            f"max_missing_fraction: {missing} of the {listed} images that {config.file.path} lists are not among the"
            f" {rows} rows; correct the list or 'column' (now '{config.column}'), or raise it (now"
            f" {config.max_missing_fraction:g})."
        )


@lru_cache(maxsize=2)
def _read(file: PinnedFile) -> pa.Array | npt.NDArray[np.void]:
    """The list, each image once; uids are sorted."""
    path = Path(file.path)
    return _read_uids(path) if path.suffix == ".npy" else pc.unique(pa.array(_read_lines(path), pa.large_string()))


def _read_lines(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise UserError(f"file: {path} is no text in UTF-8 ({error}); name a list with a key on each line.") from None
    return [line.removesuffix("\r") for line in lines if line.strip()]


def _read_uids(path: Path) -> npt.NDArray[np.void]:
    try:
        found = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise UserError(f"file: {path} is no NumPy array ({error}); fetch it again.") from None
    if found.ndim != 1 or found.dtype != _UIDS:
        raise UserError(
            f"file: {path} holds {found.dtype} of shape {found.shape}, not uids of the type 'u8,u8'; name another list."
        )
    uids: npt.NDArray[np.void] = np.unique(found)
    return uids


def _parse_uids(values: pa.ChunkedArray, column: str) -> npt.NDArray[np.void]:
    found = np.empty(len(values), _UIDS)
    if not len(values):
        return found
    if not pc.all(pc.match_substring_regex(values, "^[0-9a-fA-F]{32}$")).as_py():
        raise UserError(
            f"column: not every '{column}' is a uid of 32 hexadecimal digits; name the column that holds the uids."
        )
    numbers: U64 = np.frombuffer(bytes.fromhex("".join(values.to_pylist())), ">u8").astype(np.uint64)
    found["f0"], found["f1"] = numbers[::2], numbers[1::2]
    return found
