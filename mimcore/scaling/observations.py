"""Rows that a law is fitted to: variables, a metric, and the link that makes of it a quantity that falls."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mimcore.errors import UserError
from mimcore.scaling.law import ScalingLaw, Variables
from mimcore.scaling.table import Array


@dataclass(frozen=True)
class Link:
    """Turns a metric into a positive quantity that falls as things get better, and back.

    Less is better: the metric itself. More is better: with a ``ceiling`` alone its distance from the ceiling; with a
    ``floor`` too (the score of a guess) the odds ``(ceiling - metric) / (metric - floor)``, so that no forecast leaves
    the range (a logit link; McCullagh & Nelder 1989, section 4.3).
    """

    ceiling: float | None = None
    floor: float | None = None

    def quantity(self, metric: Array) -> Array:
        """Return the quantity that falls; not positive or not finite where the metric is out of range."""
        if self.ceiling is None:
            return np.asarray(metric, dtype=np.float64)
        if self.floor is None:
            return np.asarray(self.ceiling - metric)
        with np.errstate(divide="ignore"):
            return np.asarray((self.ceiling - metric) / (metric - self.floor))

    def told(self, name: str) -> str:
        """Write the quantity of a metric of this name."""
        if self.ceiling is None:
            return name
        rest = f"{self.ceiling:g} - {name}"
        return rest if self.floor is None else f"({rest}) / ({name} - {self.floor:g})"

    def metric(self, quantity: Array) -> Array:
        """Return the metric of a quantity."""
        if self.ceiling is None:
            return np.asarray(quantity)
        if self.floor is None:
            return np.asarray(self.ceiling - quantity)
        return np.asarray(self.floor + (self.ceiling - self.floor) / (1 + quantity))


@dataclass(frozen=True)
class Observations:
    """``N`` rows of a table.

    ``columns`` are the table's own, each ``(N,)``, float64 or text, by which rows are chosen; ``labels`` name the rows. ``copies`` counts
    the rows of the table that were left out as exact copies of others.
    """

    variables: dict[str, Array]
    metric: Array
    labels: tuple[str, ...]
    name: str = "metric"
    link: Link = Link()
    columns: dict[str, NDArray[Any]] = field(default_factory=dict)
    copies: int = 0

    def __len__(self) -> int:
        return len(self.metric)

    @property
    def y(self) -> Array:
        """The quantity that falls, float64 ``(N,)``."""
        return self.link.quantity(self.metric)

    def only(self, kept: NDArray[Any]) -> "Observations":
        """Take the rows of a mask ``(N,)``, or of indices."""
        index = np.flatnonzero(kept) if kept.dtype == bool else kept
        return Observations(
            {name: values[index] for name, values in self.variables.items()},
            self.metric[index],
            tuple(self.labels[i] for i in index),
            self.name,
            self.link,
            {name: values[index] for name, values in self.columns.items()},
        )

    def cells(self, law: ScalingLaw) -> NDArray[np.int64]:
        """Number the rows by their cell ``(N,)``: those that the law cannot tell apart differ only in their seed."""
        table = np.column_stack([self.variables[v.name] for v in law.variables])
        return np.asarray(np.unique(table, axis=0, return_inverse=True)[1]).reshape(-1)


def check(law: ScalingLaw, observations: Observations) -> None:
    """Refuse rows that the law cannot be fitted to.

    Raises:
        UserError: a variable that the table lacks; a missing, infinite or non-positive number; a metric outside its
            link's range; a constant metric; a variable that does not vary; fewer different points than parameters.
    """
    for variable in law.variables:
        if variable.name not in observations.variables:
            raise UserError(
                f"the law '{law.name}' is in {variable.name}, which the table does not give: name a column for it, under "
                f"'variables' in the mapping or by --column {variable.name}=COLUMN, or choose another law."
            )
        check_numbers(variable.name, observations.variables[variable.name], observations.labels, variable.scales)
    check_numbers(observations.name, observations.metric, observations.labels, positive=False)
    y = observations.y
    for label, metric, value in zip(observations.labels, observations.metric, y, strict=True):
        if not (np.isfinite(value) and value > 0):
            link = observations.link
            limits = (
                "above 0"
                if link.ceiling is None
                else f"between {link.floor or 0:g} and {link.ceiling:g}, ends excluded"
            )
            raise UserError(
                f"{observations.name} of '{label}' is {metric:g}; it must be {limits}. Mend or leave out that row."
            )
    if len(y) < 2 or np.ptp(y) <= 1e-12 * y.max():
        raise UserError(
            f"{observations.name} is the same in all {len(y)} rows: there is nothing that a law could explain."
            if len(y) != 1
            else f"one row of {observations.name} is no table that a law could be fitted to; add runs."
        )
    for variable in law.variables:
        values = observations.variables[variable.name]
        if np.ptp(values) == 0 and not variable.scales:
            raise UserError(
                f"{variable.name} is {values[0]:g} in every row that is fitted, so that the law '{law.name}' cannot tell its shift; "
                "leave it out of 'covariates', or hold out other rows."
            )
        if np.ptp(values) == 0:
            raise UserError(
                f"{variable.name} is {values[0]:g} in every row, so that the law '{law.name}' cannot tell what it does; "
                "add runs that differ in it, or choose a law without it."
            )
    different = int(observations.cells(law).max()) + 1
    if different < len(law.parameters):
        raise UserError(
            f"{different} different points cannot pin down the {len(law.parameters)} parameters of the law '{law.name}'; add "
            "runs, or choose a law with fewer."
        )


def require(law: ScalingLaw, variables: Variables) -> None:
    """Refuse to predict without the law's variables."""
    absent = [v.name for v in law.variables if v.name not in variables]
    if absent:
        raise UserError(f"the law '{law.name}' needs {', '.join(absent)} to predict.")


def check_numbers(name: str, values: Array, labels: Sequence[str], positive: bool) -> None:
    """Refuse values ``(N,)`` that are missing or not finite or, where asked, not positive; the first is named by its label."""
    wrong = ~np.isfinite(values) | ((values <= 0) if positive else np.zeros(len(values), dtype=bool))
    if wrong.any():
        first = int(np.argmax(wrong))
        what = "is missing" if np.isnan(values[first]) else f"is {values[first]:g}"
        must = "a positive, finite number" if positive else "a finite number"
        raise UserError(
            f"{name} of '{labels[first]}' {what}, and {int(wrong.sum()) - 1} more such rows follow; it must be {must}. Mend or "
            "leave out these rows."
            if wrong.sum() > 1
            else f"{name} of '{labels[first]}' {what}; it must be {must}. Mend or leave out that row."
        )
