"""Keeps the images whose columns meet every condition, such as a least CLIP similarity and a least text length.

As the pools of web images are filtered: COYO-700M (Byeon et al., 2022) and DataComp's basic and CLIP score filters
(Gadre et al., 2023, section 3.4). A growing pool adds rows to what is kept and takes none away.
"""

from typing import Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, model_validator

from mimcore.definition import Definition
from mimcore.errors import UserError
from mimcore.sampling.columns import is_number, named

Number = int | float
_NUMBERS = {
    "at_least": pc.greater_equal,
    "at_most": pc.less_equal,
    "above": pc.greater,
    "below": pc.less,
}
_TEXTS = {
    "min_characters": (pc.greater_equal, pc.utf8_length),
    "max_characters": (pc.less_equal, pc.utf8_length),
    "min_words": (pc.greater_equal, lambda texts: pc.count_substring_regex(texts, r"\S+")),
    "max_words": (pc.less_equal, lambda texts: pc.count_substring_regex(texts, r"\S+")),
}


class Condition(Definition):
    """Comparisons of one column, all of which must hold."""

    column: str
    #: Bounds of a column of numbers; the first two are met by a value that equals them.
    at_least: Number | None = None
    at_most: Number | None = None
    above: Number | None = None
    below: Number | None = None
    #: Bounds of a text's length; words are what white space parts.
    min_characters: int | None = Field(None, ge=0)
    max_characters: int | None = Field(None, ge=0)
    min_words: int | None = Field(None, ge=0)
    max_words: int | None = Field(None, ge=0)
    #: Values of the column's own type.
    one_of: list[bool | int | float | str] | None = Field(None, min_length=1)
    none_of: list[bool | int | float | str] | None = Field(None, min_length=1)
    #: Whether there is a value at all.
    present: bool | None = None
    #: An image without a value (null, or NaN) meets no comparison; true lets it pass.
    keep_missing: bool = False

    @model_validator(mode="after")
    def _compares(self) -> Self:
        if not self.model_fields_set - {"column", "keep_missing"}:
            raise ValueError(f"'{self.column}' is compared with nothing; give a bound such as at_least or one_of")
        if self.present is not None and self.model_fields_set - {"column", "present"}:
            raise ValueError("'present' stands alone; give other comparisons of the column in a condition of their own")
        return self


class Config(Definition):
    """Options of the strategy."""

    #: What an image must meet, all of it.
    where: list[Condition] = Field(min_length=1)


def columns(config: Config) -> list[str]:
    """Those of the conditions."""
    return [condition.column for condition in config.where]


def meets(rows: pa.Table, config: Config) -> npt.NDArray[np.bool_]:
    """Which rows meet every condition.

    Args:
        rows: N rows of an index.
        config: options of the strategy.

    Returns:
        bool ``(N,)``.

    Raises:
        UserError: a column is missing, or its type cannot be compared so; it begins with the option.
    """
    kept = np.ones(rows.num_rows, bool)
    for number, condition in enumerate(config.where):
        kept &= _meets(rows, condition, f"where.{number}")
    return kept


def _meets(rows: pa.Table, condition: Condition, option: str) -> npt.NDArray[np.bool_]:
    values = named(rows, condition.column, f"{option}.column")
    missing = _bools(pc.is_null(values, nan_is_null=True))
    if condition.present is not None:
        return ~missing if condition.present else missing
    met = np.ones(rows.num_rows, bool)
    for name, compare in _NUMBERS.items():
        if (bound := getattr(condition, name)) is not None:
            _check_type(is_number(values.type), values, condition, f"{option}.{name}", "numbers")
            met &= _bools(compare(values, pa.scalar(bound)))
    for name, (compare, measure) in _TEXTS.items():
        if (bound := getattr(condition, name)) is not None:
            text = pa.types.is_string(values.type) or pa.types.is_large_string(values.type)
            _check_type(text, values, condition, f"{option}.{name}", "text")
            met &= _bools(compare(measure(values), pa.scalar(bound)))
    if condition.one_of is not None:
        met &= _bools(pc.is_in(values, _typed(condition.one_of, values, condition, f"{option}.one_of")))
    if condition.none_of is not None:
        met &= ~_bools(pc.is_in(values, _typed(condition.none_of, values, condition, f"{option}.none_of")))
    met[missing] = condition.keep_missing
    return met


def _bools(values: pa.ChunkedArray) -> npt.NDArray[np.bool_]:
    found: npt.NDArray[np.bool_] = values.fill_null(False).to_numpy()
    return found


def _check_type(fits: bool, values: pa.ChunkedArray, condition: Condition, option: str, what: str) -> None:
    if not fits:
        raise UserError(
            f"{option}: '{condition.column}' holds values of type {values.type}, and this compares {what}; take it out, or"
            " name another column."
        )


def _typed(
    wanted: list[bool | int | float | str], values: pa.ChunkedArray, condition: Condition, option: str
) -> pa.Array:
    try:
        return pa.array(wanted, values.type)
    except (pa.ArrowException, TypeError, OverflowError):
        raise UserError(
            f"{option}: '{condition.column}' holds values of type {values.type}, and not all of {wanted!r} are; correct them."
        ) from None
