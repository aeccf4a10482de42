"""Runs that were made, here or elsewhere: what the verbs that say what to run next fit their law to."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from mimcore import layout
from mimcore.errors import UserError
from mimcore.study import Study

if TYPE_CHECKING:
    from mimcore.scaling.table import Run


def runs_made(study: Study) -> "list[Run]":
    """The study's own runs of the last results, and those of imported.json as it is now.

    Raises:
        UserError: there are neither, or an imported run has the name of one of the study's, or another pool than its subset.
    """
    from mimcore.definition import resolve
    from mimcore.scaling.fit_options import Config
    from mimcore.scaling.imported import read_imported, rows_of, with_pools
    from mimcore.scaling.table import MADE, read_results, runs_of

    results = layout.RESULTS / "results.parquet"
    pools = {at.subset: study.pool_of("subsets", at.subset) for at in study.runs.values()}
    rows = with_pools(rows_of(read_imported(layout.IMPORTED), study.runs, layout.IMPORTED), pools)
    if not rows and not results.is_file():
        raise UserError(
            f"{results} is missing, and a law is fitted to runs that were made; make some with 'dvc repro', or take in those of a table "
            "with 'mimcore import-runs'."
        )
    if results.is_file():
        rows += [row for row in read_results(results) if row.source == MADE]
    if resolve(Config, study.fit, "fit").pools == "alike":
        rows = [replace(row, pool=None) for row in rows]
    return runs_of(rows, imported=True)


def spent(runs: "Sequence[Run]") -> float | None:
    """FLOPs of the study's own runs; of the imported ones that state them where there are no others, and None where none does."""
    from mimcore.scaling.table import MADE

    own = sum(run.flops for run in runs if run.source == MADE)
    return own or sum(run.flops for run in runs) or None
