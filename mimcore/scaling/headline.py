"""The answer for the terminal."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from mimcore import artifacts
from mimcore.scaling.numbers import count, interval
from mimcore.scaling.summary import Line, floor_text, label, lines, setting_label
from mimcore.scaling.table import PRETRAIN, Setting, headlines_of, read_results
from mimcore.scaling.words import claims


def headline_table(results: Path, fit: Path) -> Table:
    """Show each setting from its smallest to its largest subset of each pool, beside the floors and the exponent of its loss.

    Args:
        results: ``results.parquet``.
        fit: ``fit.json``.

    Raises:
        UserError: one of them is missing or broken.
    """
    rows, fitted = read_results(results), artifacts.read_json(fit)
    if fitted["options"].get("pools") == "alike":
        rows = [replace(row, pool=None) for row in rows]
    summary, measures = lines(rows), headlines_of(rows)
    settings = [line.setting for line in summary]
    table = Table(
        title="From the smallest to the largest subset",
        caption=_caption(fitted),
        caption_justify="left",
        show_footer=True,
    )
    table.add_column("setting", footer="floors")
    table.add_column("unique images", justify="right")
    for measure in measures:
        table.add_column(label(measure), justify="right", footer=floor_text(rows, measure))
    table.add_column("exponent of the loss", justify="right")
    for line in summary:
        cells = [Text(_arrow(pair)) if (pair := line.ends[measure]) else "–" for measure in measures]
        sizes = (count(line.smallest), count(line.largest))
        table.add_row(
            setting_label(line.setting, settings, line.pool), _arrow(sizes), *cells, _exponent(fitted["fits"], line)
        )
    return table


def _arrow(ends: tuple[object, object]) -> str:
    first, last = map(str, ends)
    return first if first == last else f"{first} → {last}"


def _exponent(fits: Sequence[dict[str, Any]], line: Line) -> str:
    for one in fits:
        setting = Setting(one["objective"], one["model"], one["schedule"])
        if one["task"] == PRETRAIN and setting == line.setting and one.get("pool") in (None, line.pool):
            if not one["fitted"]:
                return "not fitted"
            exponent = one["parameters"].get("exponent")
            return interval(exponent["value"], exponent["low"], exponent["high"]) if exponent else ""
    return ""


def _caption(fitted: dict[str, Any]) -> Text:
    """Say the verdicts on the claims."""
    found = Text("± standard error: over seeds, or with one seed that of the test set")
    for claim in claims(fitted):
        found.append(f"\n{claim['verdict']}: ", style="bold")
        found.append(claim["claim"] + (f" ({claim['about']})" if claim["about"] else ""))
    return found
