"""Verbs of the whole grid: its numbers, laws and report."""

from collections.abc import Iterator
from pathlib import Path

from mimcore import layout
from mimcore.cli.base import ANSWER, PARAMS, WORK, Params, app
from mimcore.study import Study


@app.command(rich_help_panel=WORK)
def collect(params: Params = PARAMS) -> None:
    """Gather every number of the study into one tidy table."""
    from mimcore.scaling.collect import collect as gather
    from mimcore.setaside import set_aside

    study = Study.read(params)
    found = gather(_grid(study), layout.ARTIFACTS, layout.RESULTS)
    # Only now: with the wrong study file, collecting has failed, and nothing is moved.
    aside = layout.SCRATCH / "set-aside"
    if strangers := set_aside(layout.ARTIFACTS, _gathered(study), aside):
        first = f"{strangers[0]}" + (f" and {len(strangers) - 1} more" if len(strangers) > 1 else "")
        print(f"{first}: not of this study, moved to {aside}.")
    print(f"{found['runs']} runs, {found['rows']} numbers.", *found["warnings"], sep="\n")


@app.command(rich_help_panel=WORK)
def fit(params: Params = PARAMS) -> None:
    """Fit scaling laws to the table, with intervals and diagnostics."""
    from mimcore.scaling.fit import fit as work

    work(layout.RESULTS / "results.parquet", Study.read(params).fit, layout.FIT)


@app.command(rich_help_panel=WORK)
def report() -> None:
    """Write the report: one HTML page that needs no network, and its pictures."""
    from mimcore.scaling.report import report as work

    artifacts = layout.ARTIFACTS
    work(layout.RESULTS, layout.FIT / "fit.json", artifacts / "runs", artifacts / "provenance" / "runs", layout.REPORT)
    print(f"report: {layout.REPORT / 'report.html'}")


@app.command(rich_help_panel=ANSWER)
def results() -> None:
    """Print the headline table of the study that was run last, and where its report lies."""
    from rich.console import Console

    from mimcore.scaling.headline import headline_table

    Console().print(headline_table(layout.RESULTS / "results.parquet", layout.FIT / "fit.json"))
    print(f"report: {layout.REPORT / 'report.html'}")


def _gathered(study: Study) -> Iterator[Path]:
    """Every artifact that ``collect`` reads."""
    for run in study.runs:
        yield layout.run(run)
        yield from (layout.evaluation(run, task) for task in study.grid.tasks)
    yield from (layout.floor(model, task) for model in study.grid.models for task in study.grid.tasks)


def _grid(study: Study) -> dict[str, object]:
    """What ``collect`` expects to find: every run, evaluation and floor, with what is declared of it."""
    tasks = {task: study.declared_task(task) for task in study.grid.tasks}
    declared = {name: study.declared_run(name) for name in study.runs}
    models = {at.model for at in study.runs.values() if at.model in study.grid.models}
    return {
        "title": study.grid.title,
        "runs": {
            name: {
                "coordinates": at.model_dump(include={"objective", "model", "subset", "schedule", "seed"}),
                "definition": declared[name],
            }
            for name, at in study.runs.items()
        },
        "evals": {
            name: {task: {"task": options, "run": declared[name]} for task, options in tasks.items()}
            for name in study.runs
        },
        "floors": {
            model: {task: {"task": options, "model": study.options("models", model)} for task, options in tasks.items()}
            for model in sorted(models)
        },
    }
