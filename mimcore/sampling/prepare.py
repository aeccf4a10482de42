"""Stage ``prepare``: what an objective learns of a subset before a run, such as a vocabulary."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mimcore import artifacts, registry
from mimcore.definition import resolve
from mimcore.errors import UserError

#: In the folder of every subset and objective; empty where the objective learns nothing.
NOTE = "prepared.json"


def prepare(objective: str, options: Mapping[str, Any], subset: Path, output: Path) -> bool:
    """Call the ``prepare`` of an objective's module on a subset's rows; a module without one is not imported.

    Args:
        objective: name of its definition, for messages.
        options: of the objective, with its ``module``.
        subset: folder of the subset manifest.
        output: folder to write.

    Returns:
        Whether the module has a ``prepare``.

    Raises:
        UserError: an option is wrong, or the rows lack what the objective needs.
    """
    given = dict(options)
    name = str(given.pop("module"))
    learns = registry.defines("objective", name, "prepare")
    with artifacts.directory(output) as folder:
        if learns:
            module = registry.load("objective", name)
            module.prepare(resolve(module.Config, given, f"objectives.{objective}"), _rows(subset), folder)
        artifacts.write_json(folder / NOTE, dict(options) if learns else {})
    return learns


def _rows(subset: Path) -> pa.Table:
    file = subset / "manifest.parquet"
    try:
        return pq.read_table(file, partitioning=None)
    except FileNotFoundError:
        raise UserError(f"{file} is missing; bring it up to date with 'dvc repro'.") from None
    except pa.ArrowInvalid as error:
        raise UserError(f"{file} is not a Parquet file ({error}); delete it and run 'dvc repro'.") from None
