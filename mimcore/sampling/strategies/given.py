"""The images of a list that somebody else has made, or that a draw from metadata has.

As one of the steps it keeps what is listed; as the draw it takes the first that are there, in the order of the list.

A text file has a key on each line. A Parquet file has them in the column ``list_column``, such as the list that
``mimcore export`` writes, in the order of its draw. An ``.npy`` file is an array of DataComp's, of the type ``u8,u8``:
each of its items is a uid, 128 bits, of which the first number has the first 16 hexadecimal digits (Gadre et al., 2023;
the ``resharder`` of the benchmark's code).

A growing pool adds rows to what is kept and takes none away.
"""

from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import Field

from mimcore.data.hashing import U64, hash64
from mimcore.definition import Definition
from mimcore.errors import UserError
from mimcore.sampling.bottom import Order
from mimcore.sampling.columns import complete
from mimcore.sampling.files import PinnedFile

_UIDS = np.dtype("u8,u8")


class Config(Definition):
    """Options of the strategy."""

    #: The list: ``.npy`` for uids, ``.parquet``, any other ending for text.
    file: PinnedFile
    #: Column that the list speaks of, different in each row; of text, for uids of 32 hexadecimal digits.
    column: str = "key"
    #: Column of a ``.parquet`` list.
    list_column: str = "key"
    #: Part of the list that the rows may lack, such as images that earlier steps have dropped, or that could not be fetched.
    max_missing_fraction: float = Field(0.0, ge=0, le=1)


class _List(NamedTuple):
    """What is listed, each item once: hashes, ascending, with the place and the text of each; uids are their own hash."""

    hashes: U64
    places: npt.NDArray[np.int64]
    texts: pa.LargeStringArray | U64


def nested(config: Config) -> bool:
    """Smaller draws are parts of larger ones."""
    return True


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
    return _places(rows, config) >= 0


def order(rows: pa.Table, config: Config, seed: str, facts: Any) -> Order:
    """The order of the list; only listed rows may come here."""
    return Order(scores=_places(rows, config).astype(np.float64))


def check(kept: int, rows: int, config: Config) -> dict[str, int]:
    """Compare the number of rows that were kept with the list.

    Returns:
        for the card: ``listed`` and ``missing``.

    Raises:
        UserError: too much of the list is missing; it begins with the option.
    """
    listed = len(_read(config.file, config.list_column).hashes)
    missing = listed - kept
    if missing > config.max_missing_fraction * listed:
        raise UserError(
            f"max_missing_fraction: {missing} of the {listed} images that {config.file.path} lists are not among the"
            f" {rows} rows; correct the list or 'column' (now '{config.column}'), or raise it (now"
            f" {config.max_missing_fraction:g})."
        )
    return {"listed": listed, "missing": missing}


def _places(rows: pa.Table, config: Config) -> npt.NDArray[np.int64]:
    """Place of each row in the list, -1 for none."""
    values = complete(rows, config.column, "column").cast(pa.large_string())
    listed = _read(config.file, config.list_column)
    if not len(listed.hashes) or not len(values):
        return np.full(len(values), -1)
    if isinstance(listed.texts, np.ndarray):
        own = _parse_uids(values, config.column)
        hashes, texts = own["f0"].copy(), own["f1"].copy()
    else:
        hashes, texts = hash64(values, "given"), values
    found = np.minimum(np.searchsorted(listed.hashes, hashes), len(listed.hashes) - 1)
    same = _equal(listed.texts, found, texts) & (listed.hashes[found] == hashes)
    # Of equal hashes, of which a list of any length has hardly any, others than the first are looked at too.
    step = 1
    while True:
        further = np.minimum(found + step, len(listed.hashes) - 1)
        more = np.flatnonzero(
            ~same & (listed.hashes[further] == hashes) & (listed.hashes[found] == hashes) & (further > found)
        )
        if not len(more):
            break
        fits = more[_equal(listed.texts, further[more], _picked(texts, more))]
        found[fits], same[fits] = further[fits], True
        step += 1
    return np.where(same, listed.places[found], -1)


def _equal(listed: Any, places: npt.NDArray[np.int64], texts: Any) -> npt.NDArray[np.bool_]:
    if isinstance(listed, np.ndarray):
        return np.asarray(listed[places] == texts)
    found: npt.NDArray[np.bool_] = pc.equal(pa.chunked_array([listed.take(pa.array(places))]), texts).to_numpy()
    return found


def _picked(texts: Any, places: npt.NDArray[np.int64]) -> Any:
    return texts[places] if isinstance(texts, np.ndarray) else texts.take(pa.array(places))


@lru_cache(maxsize=2)
def _read(file: PinnedFile, list_column: str) -> _List:
    path = Path(file.path)
    if path.suffix == ".npy":
        uids = _read_uids(path)
        return _List(uids["f0"].copy(), np.arange(len(uids)), uids["f1"].copy())
    texts = pc.unique(_read_table(path, list_column) if path.suffix == ".parquet" else _read_lines(path))
    hashes = hash64(texts, "given")
    places = np.argsort(hashes, kind="stable")
    return _List(hashes[places], places, texts.take(pa.array(places)))


def _read_lines(path: Path) -> pa.LargeStringArray:
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise UserError(f"file: {path} is no text in UTF-8 ({error}); name a list with a key on each line.") from None
    return pa.array([line.removesuffix("\r") for line in lines if line.strip()], pa.large_string())


def _read_table(path: Path, column: str) -> pa.LargeStringArray:
    try:
        return pq.read_table(path, columns=[column], partitioning=None)[column].cast(pa.large_string()).combine_chunks()
    except (OSError, KeyError, pa.ArrowException) as error:
        raise UserError(f"file: {path} has no keys in a column '{column}' ({error}); correct 'list_column'.") from None


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
    if not pc.all(pc.match_substring_regex(values, "^[0-9a-fA-F]{32}$")).as_py():
        raise UserError(
            f"column: not every '{column}' is a uid of 32 hexadecimal digits; name the column that holds the uids."
        )
    numbers: U64 = np.frombuffer(bytes.fromhex("".join(values.to_pylist())), ">u8").astype(np.uint64)
    found["f0"], found["f1"] = numbers[::2], numbers[1::2]
    return found
