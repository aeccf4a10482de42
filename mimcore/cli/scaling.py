"""Verbs of the whole grid: its numbers, laws and report."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mimcore import layout
from mimcore.cli.base import ANSWER, PARAMS, PREPARE, WORK, Params, app
from mimcore.definition import nearest
from mimcore.errors import UserError
from mimcore.runs import Phase
from mimcore.study import Study

if TYPE_CHECKING:
    from mimcore.scaling.mapping import Map


@app.command(rich_help_panel=WORK)
def collect(params: Params = PARAMS) -> None:
    """Gather every number of the study into one tidy table."""
    from mimcore.scaling.collect import collect as gather
    from mimcore.setaside import set_aside

    study = Study.read(params)
    found = gather(_grid(study), layout.ARTIFACTS, layout.RESULTS, layout.IMPORTED)
    # Only now: with the wrong study file, collecting has failed, and nothing is moved.
    aside = layout.SCRATCH / "set-aside"
    if strangers := set_aside(layout.ARTIFACTS, _named(study), aside):
        first = f"{strangers[0]}" + (f" and {len(strangers) - 1} more" if len(strangers) > 1 else "")
        print(f"{first}: not of this study, moved to {aside}.")
    print(f"{found['runs']} runs, {found['rows']} numbers.", *found["warnings"], *found["not_applicable"], sep="\n")
    if found["imported"]:
        print(f"Beside them {found['imported']} imported runs, of {layout.IMPORTED}.")


@app.command("import-runs", rich_help_panel=PREPARE)
def import_runs(
    table: Annotated[Path, typer.Argument(help="A CSV or Parquet table of finished runs.")],
    mapping: Annotated[Path, typer.Option("--map", help="What its columns mean (YAML).")],
    params: Params = PARAMS,
) -> None:
    """Take runs that were finished elsewhere into imported.json: the laws are fitted to them too, marked as imported."""
    from mimcore.scaling.import_runs import runs_from
    from mimcore.scaling.imported import rows_of, store

    study, found = Study.read(params), runs_from(table, mapping)
    rows = rows_of(found, study.runs, table)
    before = store(layout.IMPORTED, found)
    instead = f", in place of {before}" if before else ""
    print(f"{layout.IMPORTED}: {len(found)} runs of {table.name}, {len(rows)} numbers{instead}. Next: dvc repro")
    for pool in sorted({one["pool"] for one in found if "pool" in one} - set(study.definitions["pools"])):
        print(
            f"Pool '{pool}' is none of {study.file}; {nearest(pool, study.definitions['pools'])} Its runs have a level of their own."
        )


@app.command(rich_help_panel=WORK)
def fit(
    table: Annotated[
        Path | None, typer.Argument(help="A CSV or Parquet table to fit one law to; without it, the study's results.")
    ] = None,
    mapping: Annotated[Path | None, typer.Option("--map", help="What the table's columns mean (YAML).")] = None,
    metric: Annotated[
        str | None, typer.Option("--metric", help="Instead of --map: the column of what is to be explained.")
    ] = None,
    column: Annotated[
        list[str] | None,
        typer.Option(
            "--column",
            help="Instead of --map: a variable of the law and its column, such as encoder_params=params_m*1e6; one option for each.",
        ),
    ] = None,
    rows: Annotated[
        str | None, typer.Option("--rows", help="Only such rows, such as \"data == 'mine'\"; others are left out.")
    ] = None,
    ceiling: Annotated[
        float | None, typer.Option("--ceiling", help="With --column: the best value, where more is better.")
    ] = None,
    law: Annotated[str | None, typer.Option(help="The law: a file of mimcore/scaling/laws.")] = None,
    holdout: Annotated[
        str | None, typer.Option(help="Rows to forecast instead of fitting them, such as 'params_m > 1000'.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The JSON file to write.")] = None,
    report: Annotated[
        Path | None, typer.Option("--report", help="A folder for a page with the law's figures (report.html).")
    ] = None,
    gain: Annotated[
        float | None,
        typer.Option(help="What doubling the images must gain to be worth it; by default 1 % of the best metric."),
    ] = None,
    bootstrap: Annotated[int, typer.Option(help="Refits behind the intervals.")] = 1000,
    confidence: Annotated[float, typer.Option(help="Coverage of the intervals.")] = 0.9,
    seed: Annotated[int, typer.Option(help="Seed of the refits.")] = 0,
    params: Params = PARAMS,
) -> None:
    """Fit scaling laws to the study's results, or one law to any TABLE (with --law and --out)."""
    from mimcore.scaling.choose import sentences
    from mimcore.scaling.fit import fit as work

    if table is None:
        if (
            mapping
            or metric
            or column
            or rows
            or ceiling is not None
            or law
            or holdout
            or out
            or report
            or gain is not None
        ):
            raise UserError(
                "--map, --metric, --column, --rows, --ceiling, --law, --holdout, --out, --report and --gain are for a table: "
                "mimcore fit TABLE --law NAME --out FIT.json."
            )
        found = work(layout.RESULTS / "results.parquet", Study.read(params).fit, layout.FIT)
        print(*sentences(found["laws"]), sep="\n")
        return
    if law is None or out is None:
        raise UserError("mimcore fit TABLE needs --law NAME and --out FIT.json.")
    options = {"bootstrap": bootstrap, "confidence": confidence, "seed": seed}
    meaning = _meaning(table, mapping, metric, column or [], ceiling)
    _fit_table(table, meaning, law, rows, holdout, out, report, gain, options)


def _meaning(
    table: Path, mapping: Path | None, metric: str | None, columns: list[str], ceiling: float | None
) -> "Path | Map | None":
    """What a table's columns mean: by a file, by options, or, if it is a study's results, as known."""
    from mimcore.scaling.columns import mapping_of
    from mimcore.scaling.mapping import RESULTS_MAP, read_columns

    if metric is not None or columns or ceiling is not None:
        if mapping is not None:
            raise UserError("--map and --metric, --column, --ceiling both say what columns mean; give one of them.")
        return mapping_of(metric, columns, ceiling)
    if mapping is None and not {*RESULTS_MAP.labels, RESULTS_MAP.metric.column} <= read_columns(table).keys():
        raise UserError(
            f"{table} is no table of a study's results; say what its columns mean by --map MAP.yaml, or by --metric COLUMN and "
            "--column NAME=COLUMN."
        )
    return mapping


def _fit_table(
    table: Path,
    mapping: "Path | Map | None",
    law: str,
    rows: str | None,
    holdout: str | None,
    out: Path,
    report: Path | None,
    gain: float | None,
    options: dict[str, Any],
) -> None:
    from mimcore.scaling.fit_table import fit_table, summary

    found = fit_table(
        table, law, out, mapping=mapping, only=rows, holdout=holdout, options=options, report=report, gain=gain
    )
    print(summary(found))
    if report is not None:
        print(f"report: {report / 'report.html'}")


@app.command(rich_help_panel=WORK)
def report() -> None:
    """Write the report: one HTML page that needs no network, and its pictures."""
    from mimcore.scaling.report import report as work

    artifacts = layout.ARTIFACTS
    provenance = artifacts / "provenance" / "runs"
    work(layout.RESULTS, layout.FIT / "fit.json", artifacts / "runs", provenance, layout.REPORT, layout.FORECASTS)
    print(f"report: {layout.REPORT / 'report.html'}")


@app.command(rich_help_panel=ANSWER)
def results() -> None:
    """Print the headline table of the study that was run last, and where its report lies."""
    from rich.console import Console

    from mimcore.scaling.headline import headline_table

    Console().print(headline_table(layout.RESULTS / "results.parquet", layout.FIT / "fit.json"))
    print(f"report: {layout.REPORT / 'report.html'}")


def _named(study: Study) -> Iterator[Path]:
    """Every artifact of the study in the folders that ``collect`` and the probes look at as a whole."""
    yield from _gathered(study)
    for features in study.grid.features:
        yield from (layout.features(of, features) for of in (*study.runs, *study.grid.models))


def _gathered(study: Study) -> Iterator[Path]:
    """Every artifact that ``collect`` reads."""
    for run in study.runs:
        yield layout.run(run)
        yield from (layout.evaluation(run, task) for task in study.grid.measures)
    yield from (layout.floor(model, task) for model in study.grid.models for task in study.grid.measures)


def _grid(study: Study) -> dict[str, object]:
    """What ``collect`` expects to find: every run, evaluation and floor, with what is declared of it."""
    measures = {name: study.declared_measure(name) for name in study.grid.measures}
    declared = {name: study.declared_run(name) for name in study.runs}
    models = {at.model for at in study.runs.values() if at.model in study.grid.models}
    return {
        "title": study.grid.title,
        "runs": {
            name: {
                "coordinates": at.model_dump(include={"objective", "model", "subset", "schedule", "seed"}),
                "definition": declared[name],
                **({"after": at.after, "use": at.use} if isinstance(at, Phase) else {}),
            }
            for name, at in study.runs.items()
        },
        "evals": {
            name: {measure: {**options, "run": declared[name]} for measure, options in measures.items()}
            for name in study.runs
        },
        "floors": {
            model: {
                measure: {**options, "model": study.options("models", model)} for measure, options in measures.items()
            }
            for model in sorted(models)
        },
    }
