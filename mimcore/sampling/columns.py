"""Columns of an index as arrays; whatever is wrong with one is said by the name of the option that named it."""

from contextlib import suppress

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from mimcore.data.hashing import U64
from mimcore.definition import nearest
from mimcore.errors import UserError


def named(rows: pa.Table, name: str, option: str) -> pa.ChunkedArray:
    """A column by its name.

    Raises:
        UserError: there is none, with the nearest names.
    """
    if name not in rows.column_names:
        raise UserError(f"{option}: the pool's index has no column '{name}'; {nearest(name, rows.column_names)}")
    return rows[name]


def is_number(kind: pa.DataType) -> bool:
    """Whether values of a type can be compared with numbers."""
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))


def complete(rows: pa.Table, name: str, option: str) -> pa.ChunkedArray:
    """A column that every row has a value in; NaN is none.

    Raises:
        UserError: there is no such column, or some rows have no value in it.
    """
    values = named(rows, name, option)
    if pc.any(pc.is_null(values, nan_is_null=True)).as_py():
        raise UserError(
            f"{option}: some images have no '{name}'; drop them before in a step of the strategy 'filter' with"
            f" {{column: {name}, present: true}}."
        )
    return values


def numbers(rows: pa.Table, name: str, option: str) -> npt.NDArray[np.float64]:
    """A column of numbers, float64 ``(N,)``.

    Raises:
        UserError: it is missing, not of numbers, or some rows have no value in it.
    """
    values = complete(rows, name, option)
    if not is_number(values.type):
        raise UserError(f"{option}: '{name}' holds values of type {values.type}; name a column of numbers.")
    return np.asarray(values.to_numpy(), np.float64)


def bits64(rows: pa.Table, name: str, option: str) -> tuple[U64, npt.NDArray[np.bool_]]:
    """A column of 64-bit hashes: whole numbers (negative ones modulo 2^64), or text of 16 hexadecimal digits.

    Returns:
        the hashes, uint64 ``(N,)``, 0 where there is none; and where there is one, bool ``(N,)``.

    Raises:
        UserError: the column is missing, or of another kind.
    """
    values = named(rows, name, option)
    known = values.is_valid().to_numpy()
    if pa.types.is_integer(values.type):
        return values.fill_null(0).to_numpy().astype(np.uint64), known
    if pa.types.is_string(values.type) or pa.types.is_large_string(values.type):
        text = values.fill_null("0" * 16).combine_chunks().cast(pa.large_string())
        ends = np.frombuffer(text.buffers()[1], np.int64)[text.offset : text.offset + len(text) + 1]
        if (np.diff(ends) == 16).all():
            digits = memoryview(text.buffers()[2] or b"")[ends[0] : ends[-1]]
            # White space is passed over by fromhex, and other text is an error of it.
            with suppress(ValueError):
                found = np.frombuffer(bytes.fromhex(str(digits, "ascii")), ">u8").astype(np.uint64)
                if len(found) == len(values):
                    return found, known
    raise UserError(
        f"{option}: '{name}' holds no 64-bit hashes (its type is {values.type}); name a column of whole numbers or of 16"
        " hexadecimal digits."
    )
