"""Steps one after the other: each is a strategy that narrows the rows, and the last draws from what is left."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import Field

from mimcore import definition, registry
from mimcore.definition import Definition
from mimcore.errors import UserError
from mimcore.sampling.files import located


class Step(Definition):
    """``subsets.<name>.steps.<number>`` of ``params.yaml``."""

    #: Module of ``mimcore.sampling.strategies``.
    strategy: str
    #: Images to draw, by a strategy that cannot keep; one that keeps takes none.
    images: int | None = Field(None, ge=1)
    #: Options of the strategy.
    options: dict[str, Any] = Field(default_factory=dict)


@dataclass(frozen=True)
class Strategy:
    """A strategy with its options checked.

    Attributes:
        module: defines ``Config``, and ``keep(rows, config, seed) -> positions``, which are ascending, or
            ``nested(config) -> bool`` and ``draw(rows, config, images, seed) -> positions`` in the order of the draw.
            What they raise begins with the name of an option.
        config: its options.
        where: dotted path of the options.
    """

    module: ModuleType
    config: Definition
    where: str

    @property
    def keeps(self) -> bool:
        """Whether it tells of each row whether it stays."""
        return hasattr(self.module, "keep")

    @property
    def draws(self) -> bool:
        """Whether it takes so many images."""
        return hasattr(self.module, "draw")

    def pinned(self, root: Path) -> "Strategy":
        """The same with the files of its options looked up below ``root``, and found to be those that were pinned."""
        return Strategy(self.module, located(self.config, root, self.where), self.where)

    def keep(self, rows: pa.Table, seed: str) -> npt.NDArray[np.int64]:
        """Positions of the rows that stay, ascending."""
        return self._asked("keep", rows, self.config, seed)

    def draw(self, rows: pa.Table, images: int, seed: str) -> npt.NDArray[np.int64]:
        """Positions of the drawn rows, in the order of the draw."""
        return self._asked("draw", rows, self.config, images, seed)

    def nested(self) -> bool:
        """Whether its draw of fewer images is part of its draw of more."""
        found: bool = self.module.nested(self.config)
        return found

    def _asked(self, entry: str, *arguments: Any) -> npt.NDArray[np.int64]:
        try:
            found: npt.NDArray[np.int64] = getattr(self.module, entry)(*arguments)
        except UserError as error:
            raise UserError(f"{self.where}.{error}") from None
        return found


def load(name: str, options: Mapping[str, Any], where: str) -> Strategy:
    """Find a strategy and check its options.

    Args:
        name: of the module.
        options: as declared.
        where: dotted path of what holds ``strategy`` and ``options``.

    Raises:
        UserError: there is none of this name, or an option is wrong.
    """
    try:
        module = registry.load("strategy", name)
    except UserError as error:
        raise UserError(f"{where}.strategy: {error}") from None
    return Strategy(module, definition.resolve(module.Config, options, f"{where}.options"), f"{where}.options")


def load_step(step: Step, where: str) -> Strategy:
    """Find the strategy of a step, and check that it has the number of images that it needs.

    Raises:
        UserError: as ``load``, or ``images`` is missing or too much.
    """
    strategy = load(step.strategy, step.options, where)
    if strategy.keeps and step.images is not None:
        raise UserError(
            f"{where}.images: the strategy '{step.strategy}' keeps what fits and draws no number; take it out."
        )
    if not strategy.keeps and step.images is None:
        raise UserError(f"{where}.images: the strategy '{step.strategy}' draws; say how many images it leaves.")
    return strategy


def load_draw(name: str, options: Mapping[str, Any], where: str) -> Strategy:
    """Find the strategy of the draw that comes last.

    Raises:
        UserError: as ``load``, or it only keeps.
    """
    strategy = load(name, options, where)
    if not strategy.draws:
        raise UserError(
            f"{where}.strategy: '{name}' draws no number of images; make it one of 'steps', before the draw."
        )
    return strategy


def mistakes(strategy: str, options: Mapping[str, Any], steps: list[Step], where: str) -> Iterator[str]:
    """Everything that is wrong with the strategies of a subset, each with its dotted path."""
    for number, step in enumerate(steps):
        try:
            load_step(step, f"{where}.steps.{number}")
        except UserError as error:
            yield from str(error).splitlines()
    try:
        load_draw(strategy, options, where)
    except UserError as error:
        yield from str(error).splitlines()


def run_steps(
    rows: pa.Table, steps: list[Step], seed: str, root: Path, where: str
) -> tuple[pa.Table, list[dict[str, Any]]]:
    """Narrow the rows, step by step.

    Args:
        rows: N rows of an index.
        steps: in their order.
        seed: name of the replicate, such as ``s0``.
        root: the folder that relative paths count from.
        where: dotted path of the subset.

    Returns:
        the rows that are left, in the order of the index; and for the card each step's strategy, options and
        numbers of rows before and after it.

    Raises:
        UserError: an option is wrong, or a step is to draw more images than there are.
    """
    records = []
    for number, step in enumerate(steps):
        path = f"{where}.steps.{number}"
        declared = load_step(step, path)
        strategy, before = declared.pinned(root), rows.num_rows
        if step.images is None:
            places = strategy.keep(rows, seed)
        elif step.images > before:
            raise UserError(f"{path}.images: {step.images} are asked for, but {before} are left; ask for fewer.")
        else:
            places = np.sort(strategy.draw(rows, step.images, seed))
        rows = rows.take(pa.array(places))
        record = {"strategy": step.strategy, "options": declared.config.model_dump(mode="json")}
        records.append({**record, "rows_in": before, "rows_out": rows.num_rows})
    return rows, records
