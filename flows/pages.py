"""What a person sees on Prefect's page: progress of a stage, what it made, and the report of a flow run."""

import base64
import json
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

from prefect.artifacts import create_markdown_artifact, create_progress_artifact, update_progress_artifact

from flows.graph import Stage
from flows.stage import Progress
from mimcore import layout
from mimcore.progress import duration
from mimcore.study import Study

if TYPE_CHECKING:
    from flows.runner import Outcome

#: A stage gets a progress artifact once it has taken so many seconds.
LONG = 5.0
#: Pictures above this are named, not shown, bytes.
LARGEST = 400 * 1024
#: JSON files of an artifact whose numbers are worth a table.
TABLES = ("metrics.json", "card.json", "headline.json")
#: Rows of a table of stages; the task runs on the page are all there is.
ROWS = 40


def key_of(text: str) -> str:
    """A key that Prefect takes for an artifact: lower-case letters, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


@contextmanager
def shown(label: str) -> Iterator[Callable[[Progress], None]]:
    """Yield what shows the progress of a stage, as a progress artifact of the task run if it takes long."""
    begun = time.monotonic()
    artifact: list[UUID] = []

    def show(progress: Progress) -> None:
        share = 100 * progress.done / max(progress.total, 1)
        words = progress.title
        if progress.left_seconds is not None:
            words += f": {progress.rate:,.0f} {progress.unit}/s, {duration(progress.left_seconds)} left"
        if artifact:
            update_progress_artifact(artifact[0], share, words)
        elif time.monotonic() - begun >= LONG:
            artifact.append(_id(create_progress_artifact(share, key_of(f"progress {label}"), words)))

    yield show
    if artifact:
        update_progress_artifact(artifact[0], 100.0, f"{label}: done in {duration(time.monotonic() - begun)}")


def _id(found: Any) -> UUID:
    assert isinstance(found, UUID)
    return found


def publish_stage(root: Path, stage: Stage) -> None:
    """Publish what a stage made as a markdown artifact: its numbers and its picture, or where it lies."""
    parts = [f"## {stage.label}"]
    for name in stage.outs:
        out = root / name
        files = sorted(out.rglob("*")) if out.is_dir() else [out]
        for file in files:
            if file.name in TABLES and file.is_file():
                parts.append(_table(numbers(json.loads(file.read_text(encoding="utf-8")))))
            elif file.suffix == ".png" and file.is_file():
                parts.append(picture(file))
    parts.append("\n".join(f"* `{name}`" for name in stage.outs))
    create_markdown_artifact(
        "\n\n".join(part for part in parts if part), key_of(stage.label), f"result of {stage.label}"
    )


def numbers(value: Any, path: str = "") -> dict[str, float | int | str]:
    """Numbers of a JSON value by their dotted path; definitions, versions and lists are left out."""
    if isinstance(value, Mapping):
        found: dict[str, float | int | str] = {}
        for key, inner in value.items():
            if key not in ("definition", "libraries", "skipped"):
                found |= numbers(inner, f"{path}.{key}" if path else str(key))
        return found
    return {path: value} if isinstance(value, int | float) and not isinstance(value, bool) else {}


def picture(file: Path) -> str:
    """Markdown that holds the picture itself: Prefect's server has no files of a run."""
    if file.stat().st_size > LARGEST:
        return f"`{file.name}` is too large to be shown here."
    return f"![{file.stem}](data:image/png;base64,{base64.b64encode(file.read_bytes()).decode()})"


def read_headline(root: Path) -> dict[str, float | int | str]:
    """The headline numbers of a workspace; empty before its first results."""
    file = root / layout.RESULTS / "headline.json"
    try:
        return numbers(json.loads(file.read_text(encoding="utf-8")))
    except (FileNotFoundError, json.JSONDecodeError):
        return {}


def publish_report(
    root: Path,
    outcomes: Sequence["Outcome"],
    before: Mapping[str, float | int | str],
    experiment: str | None,
    kept: Path | None = None,
) -> None:
    """Publish the report of a flow run.

    Args:
        root: the workspace.
        outcomes: what became of each stage.
        before: the headline numbers before this run.
        experiment: the DVC experiment that holds the result, if any.
        kept: where the report lies after the run, if it was made.
    """
    parts = [f"# {Study.read(root / 'params.yaml').grid.title}", _counted(outcomes)]
    if experiment:
        parts.append(
            f"It ends as the DVC experiment `{experiment}`: `dvc exp show` lists it, `dvc exp apply {experiment}` brings it."
        )
    if kept is not None:
        here = kept.relative_to(Path.cwd()) if kept.is_relative_to(Path.cwd()) else kept
        parts.append(f"Report: [{here}]({_address(kept)})")
    if failed := [o for o in outcomes if o.state == "failed"]:
        parts += ["## Failed", *(f"**{o.stage}**\n\n```\n{o.reason}\n```" for o in failed)]
    parts += _answer(root)
    parts.append(_changes(before, read_headline(root)))
    parts += _plots(root)
    if done := [o for o in outcomes if o.state in ("ran", "restored")]:
        rows = [(o.stage, o.state, duration(o.seconds)) for o in sorted(done, key=lambda o: -o.seconds)]
        parts += ["## Stages", _rows(("stage", "", "time"), rows[:ROWS])]
        parts += [f"and {len(rows) - ROWS} more."] if len(rows) > ROWS else []
    create_markdown_artifact("\n\n".join(part for part in parts if part), "study-report", "report of the study")


def _address(file: Path) -> str:
    """Of a report: at the server of reports that the page was started with, since a browser follows no link to a file."""
    server = os.environ.get("MIMCORE_REPORTS")
    if server and file.is_relative_to(Path.cwd()):
        return f"{server}/{file.relative_to(Path.cwd()).as_posix()}"
    return file.as_uri()


def _answer(root: Path) -> list[str]:
    """The headline table and the verdicts, where the study has results."""
    results, fit = root / layout.RESULTS / "results.parquet", root / layout.FIT / "fit.json"
    if not (results.exists() and fit.exists()):
        return []
    from mimcore.scaling.headline import headline_table

    table = headline_table(results, fit)
    header = [_plain(column.header) for column in table.columns]
    cells = zip(*(list(column.cells) for column in table.columns), strict=True)
    rows = [[_plain(cell) for cell in row] for row in cells]
    rows.append([_plain(column.footer) for column in table.columns])
    return ["## " + _plain(table.title), _rows(header, rows), _plain(table.caption).replace("\n", "  \n")]


def _plots(root: Path) -> list[str]:
    """The report's plots, the scaling curves first."""
    plots = sorted((root / layout.REPORT).glob("*.png"), key=lambda file: (file.stem != "scaling", file.stem))
    return ["## Plots", *(picture(file) for file in plots)] if plots else []


def _changes(before: Mapping[str, float | int | str], after: Mapping[str, float | int | str]) -> str:
    changed = [
        (name, _number(before.get(name)), _number(after.get(name)))
        for name in sorted({*before, *after})
        if before.get(name) != after.get(name)
    ]
    if not changed:
        return "## Since the last run\n\nThe headline numbers are the same." if after else ""
    return "## Since the last run\n\n" + _rows(("number", "before", "now"), changed)


def _counted(outcomes: Sequence["Outcome"]) -> str:
    counts = count_states(outcomes)
    ran = sum(o.seconds for o in outcomes if o.state == "ran")
    words = {
        "cached": "up to date",
        "restored": "restored from DVC's cache",
        "ran": "ran",
        "failed": "failed",
        "skipped": "skipped",
    }
    said = ", ".join(f"{counts[state]} {word}" for state, word in words.items() if counts[state])
    return f"{len(outcomes)} stages: {said}." + (f" {duration(ran)} of work." if ran else "")


def count_states(outcomes: Sequence["Outcome"]) -> dict[str, int]:
    """How many stages ended in each state."""
    return {
        state: sum(o.state == state for o in outcomes) for state in ("cached", "restored", "ran", "failed", "skipped")
    }


def _table(found: Mapping[str, float | int | str]) -> str:
    return _rows(("", "value"), [(name, _number(value)) for name, value in found.items()]) if found else ""


def _rows(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _number(value: float | int | str | None) -> str:
    return (
        ""
        if value is None
        else f"{value:,.4g}"
        if isinstance(value, float)
        else f"{value:,}"
        if isinstance(value, int)
        else value
    )


def _plain(text: Any) -> str:
    return getattr(text, "plain", None) or str(text or "")
