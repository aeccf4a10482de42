"""A mapping given on the command line, for tables whose columns hold numbers: ``mimcore fit TABLE --metric loss --column N=COLUMN``."""

from collections.abc import Sequence

from mimcore.errors import UserError
from mimcore.scaling.mapping import Map


def mapping_of(metric: str | None, columns: Sequence[str], ceiling: float | None) -> Map:
    """Make of options what a mapping file says.

    Args:
        metric: the column of the metric.
        columns: variables as ``NAME=COLUMN`` or ``NAME=COLUMN*FACTOR``; the factor is what one of the column's units is in the
            variable's.
        ceiling: the best value there is, of a metric of which more is better.

    Raises:
        UserError: one of the two that are needed is missing, or a column is not written so.
    """
    if metric is None or not columns:
        raise UserError(
            "a mapping on the command line takes both --metric COLUMN and --column NAME=COLUMN, such as --metric loss --column "
            "encoder_params=params_m*1e6; --map reads one from a file."
        )
    variables: dict[str, dict[str, str | float]] = {}
    for column in columns:
        name, _, source = (part.strip() for part in column.partition("="))
        if not name or not source or name in variables:
            raise UserError(
                f"--column: '{column}' names no variable and its column, each once; write NAME=COLUMN, such as "
                "encoder_params=params or, where the column counts millions, encoder_params=params_m*1e6."
            )
        head, star, factor = source.rpartition("*")
        scale = _number(factor) if star else None
        variables[name] = {"column": source} if scale is None else {"column": head.strip(), "scale": scale}
        if scale is not None and scale <= 0:
            raise UserError(f"--column: the factor of '{column}' must be above 0.")
    told = {"column": metric, "name": metric, "higher_is_better": ceiling is not None, "ceiling": ceiling}
    return Map.model_validate({"metric": told, "variables": variables})


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
