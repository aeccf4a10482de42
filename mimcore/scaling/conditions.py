"""Conditions on the columns of a table, such as ``params_m > 1000 and data == 'ImageNet-1K'``: parsed, never run as code."""

import ast
import operator
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mimcore.definition import nearest
from mimcore.errors import UserError

Mask = NDArray[np.bool_]

COMPARISONS: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}
#: A name between backticks, and what stands for it while the condition is parsed.
QUOTED, STANDS_FOR = r"`([^`]+)`", "_quoted_"
EXAMPLE = "params_m > 1000 and data == 'ImageNet-1K'"


def rows_where(expression: str, columns: Mapping[str, NDArray[Any]], where: str) -> Mask:
    """Mark the rows ``(N,)`` that meet a condition.

    A condition compares a column with a number or a quoted text by ``< <= > >= == !=``; ``and``, ``or``, ``not`` and
    parentheses join them. Text is only equal or not. A column whose name is no word stands between backticks.

    Args:
        expression: the condition.
        columns: each ``(N,)``, numbers or text.
        where: how an error names the place, such as ``--holdout``.

    Raises:
        UserError: it is no condition, names an unknown column, or compares text with a number.
    """
    quoted = list(dict.fromkeys(re.findall(QUOTED, expression)))
    words = re.sub(QUOTED, lambda found: f"{STANDS_FOR}{quoted.index(found[1])}", expression)
    try:
        tree = ast.parse(words.strip(), mode="eval").body
    except SyntaxError as error:
        raise UserError(
            f"{where}: '{expression}' is no condition ({error.msg}); write one such as {EXAMPLE}; a column whose name is no word "
            "stands between backticks."
        ) from None
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and node.id.startswith(STANDS_FOR):
            node.id = quoted[int(node.id.removeprefix(STANDS_FOR))]
    return _mask(tree, columns, where)


def _mask(node: ast.expr, columns: Mapping[str, NDArray[Any]], where: str) -> Mask:
    if isinstance(node, ast.BoolOp):
        parts = [_mask(value, columns, where) for value in node.values]
        return np.asarray((np.all if isinstance(node.op, ast.And) else np.any)(parts, axis=0), dtype=bool)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        return np.asarray(~_mask(node.operand, columns, where))
    if isinstance(node, ast.Compare) and len(node.ops) == 1 and type(node.ops[0]) in COMPARISONS:
        return _compare(node, columns, where)
    raise UserError(
        f"{where}: '{ast.unparse(node)}' is no comparison of a column with a value; write one such as {EXAMPLE}."
    )


def _compare(node: ast.Compare, columns: Mapping[str, NDArray[Any]], where: str) -> Mask:
    column, value = node.left, _literal(node.comparators[0])
    if not isinstance(column, ast.Name) or value is None:
        raise UserError(
            f"{where}: '{ast.unparse(node)}' must be a column, a comparison and a value, such as {EXAMPLE}."
        )
    if column.id not in columns:
        raise UserError(f"{where}: the table has no column '{column.id}'; {nearest(column.id, columns)}")
    values = columns[column.id]
    is_text = values.dtype.kind not in "fiub"
    if is_text != isinstance(value, str):
        kind, other = ("text", "put the value in quotes") if is_text else ("numbers", "give a number without quotes")
        raise UserError(f"{where}: column '{column.id}' holds {kind}; {other} in '{ast.unparse(node)}'.")
    if is_text and not isinstance(node.ops[0], ast.Eq | ast.NotEq):
        raise UserError(f"{where}: column '{column.id}' holds text, which can be compared by == and != alone.")
    return np.asarray(COMPARISONS[type(node.ops[0])](values, value), dtype=bool)


def _literal(node: ast.expr) -> float | str | None:
    """A number, perhaps with a sign, or a text; None for anything else."""
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        inner = _literal(node.operand)
        return -inner if isinstance(inner, float) else None
    if isinstance(node, ast.Constant) and not isinstance(node.value, bool):
        if isinstance(node.value, int | float):
            return float(node.value)
        return node.value if isinstance(node.value, str) else None
    return None
