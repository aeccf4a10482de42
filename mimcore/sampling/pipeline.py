"""Steps one after the other: each is a strategy that narrows the rows, and the last draws from what is left."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
from pydantic import Field

from mimcore import definition, registry
from mimcore.data.hashing import U64, hash64, salted
from mimcore.definition import Definition
from mimcore.errors import UserError
from mimcore.sampling import columns
from mimcore.sampling.bottom import Bottom, Order
from mimcore.sampling.files import located
from mimcore.sampling.source import I64, Left, RowsError, Source

T = TypeVar("T")


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
        module: defines ``Config``, ``columns(config)``, which it reads besides ``key``, and one of

            * ``meets(rows, config) -> bools``: of each row, whatever the others are, whether it stays; and if need be
              ``check(kept, rows, config) -> dict`` for the card, which may refuse a number of rows kept of so many;
            * ``keep(rows, config, seed) -> positions`` of those that stay among all rows, ascending, for which there may be
              ``compact(rows, config, seed) -> rows``, what needs to be held of some of them;
            * ``order(rows, config, seed, facts) -> Order`` in which rows are drawn, and if need be
              ``survey(scan, config) -> facts``, which looks at all of them before;
            * ``draw(rows, config, images, seed) -> positions`` among all rows, in the order of the draw;

            with the last two ``nested(config) -> bool``; or ``meets`` and one of the last two. What they raise
            begins with the name of an option.
        config: its options.
        where: dotted path of the options.
    """

    module: ModuleType
    config: Definition
    where: str

    @property
    def keeps(self) -> bool:
        """Whether it tells of each row whether it stays."""
        return hasattr(self.module, "meets") or hasattr(self.module, "keep")

    @property
    def draws(self) -> bool:
        """Whether it takes so many images; of those that it keeps, if it does both."""
        return hasattr(self.module, "order") or hasattr(self.module, "draw")

    def pinned(self, root: Path) -> "Strategy":
        """The same with the files of its options looked up below ``root``, and found to be those that were pinned."""
        return Strategy(self.module, located(self.config, root, self.where), self.where)

    def keep(self, source: Source, left: Left, seed: str) -> tuple[Left, dict[str, Any]]:
        """The rows that stay of those that are left; and what the card tells of it."""
        try:
            self._try(source)
            if hasattr(self.module, "meets"):
                found = left.only(
                    source.scan(
                        lambda rows, numbers: numbers[self.module.meets(rows, self.config)], self._columns(), left
                    )
                )
                told = self.module.check(found.count, left.count, self.config) if hasattr(self.module, "check") else {}
                return found, told
            rows, numbers = source.table(self._columns(), left, self._compact(seed))
            return left.only(iter([numbers[self.module.keep(rows, self.config, seed)]])), {}
        except RowsError:
            raise
        except UserError as error:
            raise self._placed(error) from None

    def draw(self, source: Source, left: Left, images: int, seed: str) -> I64:
        """Numbers of the drawn rows, in the order of the draw.

        Args:
            source: of the rows.
            left: those that are drawn from.
            images: how many, at most as many as are left.
            seed: name of the replicate, such as ``s0``.
        """
        try:
            self._try(source)
            if hasattr(self.module, "draw"):
                rows, numbers = source.table(self._columns(), left)
                return np.asarray(numbers[self.module.draw(rows, self.config, images, seed)])
            return self._in_order(source, left, images, seed)
        except RowsError:
            raise
        except UserError as error:
            raise self._placed(error) from None

    def nested(self) -> bool:
        """Whether its draw of fewer images is part of its draw of more."""
        found: bool = self.module.nested(self.config)
        return found

    def _in_order(self, source: Source, left: Left, images: int, seed: str) -> I64:
        def work(rows: pa.Table, numbers: I64) -> tuple[I64, U64, Order]:
            return numbers, hash64(rows[source.key], hash_seed), self.module.order(rows, self.config, seed, facts)

        def scan(work: Callable[[pa.Table], T]) -> Iterator[T]:
            return source.scan(lambda rows, _: work(rows), self.module.columns(self.config), left)

        def keys(numbers: I64) -> list[str]:
            found, places = source.table(["key"], left.only(iter([np.sort(numbers)])))
            texts: list[str] = found["key"].take(pa.array(np.searchsorted(places, numbers))).to_pylist()
            return texts

        hash_seed = salted(getattr(self.config, "salt", ""), seed)
        facts = self.module.survey(scan, self.config) if hasattr(self.module, "survey") else None
        names = list(dict.fromkeys([source.key, *self.module.columns(self.config)]))
        by_hash = not self.module.columns(self.config)
        for total in (left.count, None) if by_hash else (None,):
            first = Bottom(images, total)
            for found in source.scan(work, names, left):
                first.add(*found)
            if first.enough:
                break
        return first.result(keys)

    def _compact(self, seed: str) -> Callable[[pa.Table], pa.Table]:
        if not hasattr(self.module, "compact"):
            return lambda rows: rows
        return lambda rows: self.module.compact(rows, self.config, seed)

    def _columns(self) -> list[str]:
        return list(dict.fromkeys(["key", *self.module.columns(self.config)]))

    def _try(self, source: Source) -> None:
        """Refuse a column that is not there, or of the wrong kind, before any is read."""
        rows = source.schema.empty_table()
        if hasattr(self.module, "meets"):
            self.module.meets(rows, self.config)
            return
        for name in self.module.columns(self.config):
            columns.named(rows, name, "column")

    def _placed(self, error: UserError) -> UserError:
        return UserError(f"{self.where}.{error}")


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
    if not strategy.draws and step.images is not None:
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
    source: Source, left: Left, steps: list[Step], seed: str, root: Path, where: str
) -> tuple[Left, list[dict[str, Any]]]:
    """Narrow the rows, step by step; each step is a pass of its own over the columns that it looks at.

    Args:
        source: of the rows.
        left: those that there are before the first step.
        steps: in their order.
        seed: name of the replicate, such as ``s0``.
        root: the folder that relative paths count from.
        where: dotted path of the subset.

    Returns:
        the rows that are left; and for the card each step's strategy, options and numbers of rows before and after it.

    Raises:
        UserError: an option is wrong, or a step is to draw more images than there are.
    """
    records = []
    for number, step in enumerate(steps):
        path = f"{where}.steps.{number}"
        declared = load_step(step, path)
        strategy, before = declared.pinned(root), left.count
        told: dict[str, Any] = {}
        if strategy.keeps:
            left, told = strategy.keep(source, left, seed)
        if step.images is not None:
            if step.images > left.count:
                raise UserError(
                    f"{path}.images: {step.images} are asked for, but {left.count} are left; ask for fewer."
                )
            left = left.only(iter([np.sort(strategy.draw(source, left, step.images, seed))]))
        record = {"strategy": step.strategy, "options": declared.config.model_dump(mode="json")}
        records.append({**record, "rows_in": before, "rows_out": left.count, **told})
    return left, records
