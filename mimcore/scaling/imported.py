"""Runs that were finished elsewhere, kept in a file that git keeps: evidence for the laws beside the study's own runs."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mimcore import artifacts
from mimcore.errors import UserError
from mimcore.scaling.table import IMPORTED, POOL, Row

COORDINATES = ("objective", "model", "subset", "schedule", "seed")
#: Facts of a run; ``flops`` may be null, as few tables state them.
FACTS = ("unique_images", "images_seen", "encoder_params", "flops")
VALUE = ("task", "metric", "value", "standard_error", "higher_is_better", "headline")
#: What the file says of a run: its name, the table that it is from and that table's digest, and a list of its numbers. Its pool
#: stands there as well where the mapping gave it.
FIELDS = ("run", "file", "digest", *COORDINATES, *FACTS, "values")


def read_imported(path: Path) -> list[dict[str, Any]]:
    """Read the imported runs; none where there is no file.

    Raises:
        UserError: the file is broken, or a number in it is missing or not finite.
    """
    if not path.is_file():
        return []
    found = artifacts.read_json(path)
    if not isinstance(found, list) or any(
        not isinstance(one, dict) or set(one) - {POOL} != set(FIELDS) for one in found
    ):
        raise UserError(f"{path} is no list of imported runs; restore it from git, or write [] into it.")
    for one in found:
        if POOL in one and not (isinstance(one[POOL], str) and one[POOL]):
            raise UserError(f"{path}: the pool of {one['run']} is no name; import {one['file']} again.")
        for name in FACTS:
            if not (name == "flops" and one[name] is None):
                _positive(one[name], f"{path}: {name} of {one['run']}")
        for value in one["values"]:
            if set(value) != set(VALUE):
                raise UserError(f"{path}: a number of {one['run']} lacks a field; import {one['file']} again.")
            _finite(value["value"], f"{path}: {value['task']} {value['metric']} of {one['run']}")
    return found


def store(path: Path, new: Sequence[Mapping[str, Any]]) -> int:
    """Put runs of one table into the file, in place of those that it has of a table of this name.

    Returns:
        how many runs of that table were there before.

    Raises:
        UserError: a run of this name is there from another table.
    """
    files = {one["file"] for one in new}
    known = read_imported(path)
    kept = [one for one in known if one["file"] not in files]
    taken = {one["run"]: one["file"] for one in kept}
    for one in new:
        if one["run"] in taken:
            raise UserError(
                f"a run {one['run']} is imported from {taken[one['run']]} already; give this one another seed or name in the mapping."
            )
    artifacts.write_json(path, sorted([*kept, *(dict(one) for one in new)], key=lambda one: str(one["run"])))
    return len(known) - len(kept)


def rows_of(imported: Iterable[Mapping[str, Any]], study: Iterable[str], path: Path) -> list[Row]:
    """Turn imported runs into rows of the results.

    Args:
        imported: of ``read_imported``.
        study: names of the study's own runs.
        path: of the file, for errors.

    Raises:
        UserError: an imported run has the name of one of the study's.
    """
    own, found = set(study), []
    for one in imported:
        if one["run"] in own:
            raise UserError(
                f"{path}: {one['run']} (from {one['file']}) is also a run of the study; give the imported one another seed in "
                "its mapping, or leave it out."
            )
        about = {name: one[name] for name in ("run", *COORDINATES, *FACTS)} | {POOL: one.get(POOL)}
        found += [
            Row(kind="run", **about, **value, source=IMPORTED, imported_from=one["file"]) for value in one["values"]
        ]
    return found


def with_pools(strangers: Iterable[Row], pools: Mapping[str, str | None]) -> list[Row]:
    """Imported rows with the pool of the study's subset of the same name, if it has one and theirs is not known.

    Args:
        strangers: of ``rows_of``.
        pools: of each subset of the study's runs.

    Raises:
        UserError: a run is of another pool than that subset.
    """
    found = []
    for row in strangers:
        own = pools.get(row.subset or "") or row.pool
        if row.pool not in (None, own):
            raise UserError(
                f"{row.run} is imported from {row.imported_from} as of pool '{row.pool}', and the study's subset '{row.subset}' is of "
                f"'{own}'; correct 'pool' in its mapping or give its subset another name, and import it again."
            )
        found.append(replace(row, pool=own))
    return found


def _positive(value: Any, where: str) -> None:
    _finite(value, where)
    if value <= 0:
        raise UserError(f"{where} is {value:g}, not positive; mend the table and import it again.")


def _finite(value: Any, where: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise UserError(f"{where} is {'missing' if value is None else value}; mend the table and import it again.")
