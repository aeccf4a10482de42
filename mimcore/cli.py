"""The command line: one verb per stage. It parses, calls and prints; every import of work is inside its verb."""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mimcore import layout
from mimcore.errors import UserError
from mimcore.lifetime import die_with_parent
from mimcore.study import Study

if TYPE_CHECKING:
    from mimcore.evaluation.run import Job

app = typer.Typer(
    name="mimcore",
    help="Scaling studies of masked image modeling. A study is declared in params.yaml; 'dvc repro' runs the stages below that are stale.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)

Params = Annotated[Path, typer.Option("--params", help="The study file.")]
PARAMS = Path("params.yaml")
PoolName = Annotated[str, typer.Argument(help="A name under 'pools'.", metavar="POOL")]
SubsetName = Annotated[str, typer.Argument(help="A name under 'subsets'.", metavar="SUBSET")]
SeedName = Annotated[str, typer.Argument(help="A replicate, such as s0.", metavar="SEED")]
ModelName = Annotated[str, typer.Argument(help="A name under 'models'.", metavar="MODEL")]
TaskName = Annotated[str, typer.Argument(help="A name under 'tasks'.", metavar="TASK")]
RunName = Annotated[
    str,
    typer.Argument(
        help="Its coordinates: objective-model-subset-schedule-seed, such as mae-tiny-n64-short-s0.", metavar="RUN"
    ),
]
PREPARE, WORK, ANSWER = "Set up", "Stages (run by 'dvc repro')", "Look"


@app.command(rich_help_panel=PREPARE)
def use(
    study: Annotated[Path, typer.Argument(help="A study file, such as studies/digits.yaml.")],
    force: Annotated[bool, typer.Option("--force", help="Replace a params.yaml that you have edited.")] = False,
) -> None:
    """Put a study in force: check it and copy it to params.yaml."""
    chosen = Study.read(study)
    chosen.check()
    ready = {file.read_bytes() for file in Path("studies").glob("*.yaml")}
    if PARAMS.exists() and PARAMS.read_bytes() not in ready and not force:
        raise UserError(
            "params.yaml holds edits of your own that no file of studies/ has; save it there under a name, or add --force to replace it."
        )
    from mimcore.artifacts import file

    with file(PARAMS) as part:
        part.write_bytes(study.read_bytes())
    grid = chosen.grid
    print(f"params.yaml is now '{grid.title}': {len(chosen.runs)} runs, tasks {', '.join(grid.tasks)}. Next: dvc repro")


@app.command(rich_help_panel=PREPARE)
def scan(
    pools: Annotated[
        list[str] | None, typer.Argument(help="Names of pools; all of the study's if none is given.")
    ] = None,
    adopt: Annotated[bool, typer.Option("--adopt", help="Pin the pool as it is now, where it has changed.")] = False,
    params: Params = PARAMS,
) -> None:
    """List the files of a pool and pin that snapshot in listings/, which git keeps."""
    from mimcore.data.listing import scan as scan_pool
    from mimcore.data.pool import load_pool

    study = Study.read(params)
    for name in pools or study.grid.pools:
        pool = load_pool(name, study.options("pools", name), Path.cwd())
        print(scan_pool(pool, layout.listing(name), adopt).sentence())


@app.command(rich_help_panel=PREPARE)
def check(
    params: Params = PARAMS,
    out: Annotated[Path | None, typer.Option(help="Write a small JSON file if all is well.")] = None,
) -> None:
    """Check every definition of the study and name all mistakes at once."""
    from mimcore.artifacts import write_json

    study = Study.read(params)
    study.check()
    if out is not None:
        write_json(out, {"valid": True})
    print(f"{params}: {len(study.runs)} runs, no mistake found.")


@app.command(rich_help_panel=WORK)
def index(pool: PoolName, params: Params = PARAMS) -> None:
    """Index the images of a pool: one row per image, broken ones set aside."""
    from mimcore.artifacts import Provenance
    from mimcore.data.index import build_index
    from mimcore.data.listing import read_listing
    from mimcore.data.pool import load_pool
    from mimcore.progress import Meter

    study = Study.read(params)
    options, execution = study.options("pools", pool), study.execution
    output, listing = layout.index(pool), layout.listing(pool)
    shards = len(read_listing(listing, pool))
    made = load_pool(pool, options, Path.cwd()).made
    before, start = made(), time.monotonic()
    record = Provenance(layout.provenance(output), f"index {pool}", options, {"listing": str(listing)})
    with record, Meter(f"index {pool}", shards, "shards") as meter:
        card = build_index(
            pool,
            options,
            listing,
            output,
            Path.cwd(),
            layout.SCRATCH,
            progress=lambda done, total: meter.update(done),
            workers=execution.index_processes(),
            cluster=execution.index_cluster,
        )
    print(
        f"{pool}: {card['train']:,} training and {card['val']:,} validation images, {len(card['skipped'])} set aside."
    )
    if after := made():
        print(f"{pool}: {after.sentence(before, time.monotonic() - start)}")


@app.command(rich_help_panel=WORK)
def sample(subset: SubsetName, seed: SeedName, params: Params = PARAMS) -> None:
    """Draw a subset of a pool."""
    from mimcore.artifacts import Provenance
    from mimcore.progress import Phases
    from mimcore.sampling.draw import sample as draw

    study = Study.read(params)
    options, pool = study.options("subsets", subset), study.pool_of("subsets", subset)
    output, title = layout.subset(subset, seed), f"sample {subset} {seed}"
    with Provenance(layout.provenance(output), title, options, {"index": pool}), Phases(title, "rows") as passes:
        card = draw(subset, options, seed, study.options("pools", pool), layout.index(pool), output, Path.cwd(), passes)
    print(f"{subset}-{seed}: {card['images']:,} of {pool}'s images.")


@app.command(rich_help_panel=PREPARE)
def export(
    subset: SubsetName,
    seed: SeedName,
    out: Annotated[Path | None, typer.Option(help="Folder to write; exports/SUBSET-SEED by default.")] = None,
    params: Params = PARAMS,
) -> None:
    """Draw a subset of a pool of metadata, and write the list of images to fetch."""
    from mimcore.progress import Phases
    from mimcore.sampling.export import LIST
    from mimcore.sampling.export import export as draw

    study = Study.read(params)
    options, pool = study.options("subsets", subset), study.pool_of("subsets", subset)
    output = out or Path("exports") / f"{subset}-{seed}"
    pool_options, listing = study.options("pools", pool), layout.listing(pool)
    with Phases(f"export {subset} {seed}", "rows") as passes:
        card = draw(subset, options, seed, pool_options, listing, layout.index(pool).parent, output, Path.cwd(), passes)
    print(f"{output / LIST}: {card['images']:,} of {pool}'s {card['pool_images']:,} rows, in the order of the draw.")
    print(f"Fetch them: {card['command']}")
    print(
        "Then draw from what arrived, in the same order: strategy: given, options: {file: {path: "
        f"{output / LIST}, sha256: {card['list_sha256'][:16]}}}, list_column: {pool_options.get('key_column', 'id')},"
        f" column: {pool_options.get('key_column', 'id')}, max_missing_fraction: 0.5}}"
    )


@app.command(rich_help_panel=PREPARE)
def features(
    pool: PoolName,
    run: Annotated[str | None, typer.Option(help="Name of a run whose encoder to take.")] = None,
    timm: Annotated[str | None, typer.Option(help="Name of a pretrained timm model to take.")] = None,
    checkpoint: Annotated[Path | None, typer.Option(help="The timm model's weights; fetched if not given.")] = None,
    pooling: Annotated[str, typer.Option(help="Of a run's encoder: mean or cls.")] = "mean",
    batch_size: Annotated[int, typer.Option(help="Images at a time.")] = 256,
    out: Annotated[Path | None, typer.Option(help="File to write; features/POOL-MODEL.parquet by default.")] = None,
    params: Params = PARAMS,
) -> None:
    """Write features of a pool's training images, for the strategies that draw by them."""
    from mimcore.data.loader import Images
    from mimcore.data.splits import read_split
    from mimcore.definition import resolve
    from mimcore.evaluation.features import FeaturesConfig
    from mimcore.evaluation.vectors import of_run, of_timm, write_vectors
    from mimcore.progress import Meter

    if (run is None) == (timm is None):
        raise UserError("one of --run and --timm is needed: whose features?")
    study = Study.read(params)
    options, device = study.options("pools", pool), study.execution.start()
    config = resolve(FeaturesConfig, {"pool": pool, "pooling": pooling}, "features")
    extract, size, channels = (
        of_timm(str(timm), checkpoint, device) if run is None else of_run(layout.run(run), config, device)
    )
    rows = read_split(layout.index(pool), "train", ["key", "shard", "offset", "length", "checksum"])
    images = Images(options, rows, size, Path.cwd(), channels=channels)
    file = out or Path("features") / f"{pool}-{run or timm}.parquet"
    with Meter(f"features {pool}", len(images)) as meter:
        digest = write_vectors(file, extract, images, device, batch_size, study.execution.workers, meter.update)
    print(f"{file}: {len(images):,} images.")
    print(f"In a subset: features: {{path: {file}, sha256: {digest[:16]}}}")


@app.command(rich_help_panel=WORK)
def examples(task: TaskName, params: Params = PARAMS) -> None:
    """Choose the labelled images that a task trains and tests on."""
    from mimcore.artifacts import Provenance
    from mimcore.sampling.examples import choose

    study = Study.read(params)
    options, pool = study.declared_task(task), study.pool_of("tasks", task)
    output = layout.examples(task)
    with Provenance(layout.provenance(output), f"examples {task}", options, {"index": pool}):
        card = choose(task, options, layout.index(pool), output)
    print(f"{task}: {card['train']:,} images to train on, {card['test']:,} to test on.")


@app.command(rich_help_panel=WORK)
def pretrain(run: RunName, params: Params = PARAMS) -> None:
    """Pretrain one run of the study; a run that was interrupted goes on from its last checkpoint."""
    from mimcore.execution import slow_precision
    from mimcore.progress import Phases
    from mimcore.training.pretrain import pretrain as work

    study = Study.read(params)
    declared, at = study.declared_run(run), study.runs[run]
    output = layout.run(run)
    pool = study.options("pools", study.pool_of("subsets", at.subset))
    subset = layout.subset(at.subset, at.seed)
    provenance, scratch = layout.provenance(output), layout.SCRATCH / "runs"
    device = study.execution.start()
    if warning := slow_precision(device, str(declared["schedule"].get("precision", "bfloat16"))):
        print(f"warning: {warning}", file=sys.stderr)
    with Phases(f"pretrain {run}") as progress:
        result = work(
            run, declared, pool, subset, output, provenance, scratch, Path.cwd(), study.execution, device, progress
        )
    losses = ", ".join(f"{name} {value:.4f}" for name, value in result["metrics"].items())
    print(f"{run}: {losses}")


@app.command(rich_help_panel=WORK)
def evaluate(run: RunName, task: TaskName, params: Params = PARAMS) -> None:
    """Evaluate a run on a task."""
    from mimcore.evaluation.run import evaluate_run

    study = Study.read(params)
    definition = {"task": study.declared_task(task), "run": study.declared_run(run)}
    with _job(study, task, definition, layout.evaluation(run, task), f"evaluate {run} {task}") as job:
        found = evaluate_run(run, layout.run(run), job)
    _print_subjects(found)


@app.command(rich_help_panel=WORK)
def floor(model: ModelName, task: TaskName, params: Params = PARAMS) -> None:
    """Evaluate what costs nothing: the untrained model and, where the task can, raw pixels."""
    from mimcore.evaluation.run import evaluate_floor

    study = Study.read(params)
    definition = {"task": study.declared_task(task), "model": study.options("models", model)}
    with _job(study, task, definition, layout.floor(model, task), f"floor {model} {task}") as job:
        found = evaluate_floor(model, job)
    _print_subjects(found)


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


@app.command(rich_help_panel=ANSWER)
def explain(
    stage: Annotated[str, typer.Argument(help="A stage as 'dvc stage list' names it, such as collect.")],
) -> None:
    """Say in words why a stage is stale, or that it is not."""
    from mimcore.explain import explain as work

    print(work(stage))


@app.command(rich_help_panel=ANSWER)
def look(
    subset: SubsetName,
    seed: Annotated[
        str | None, typer.Argument(help="A replicate; by default the study's first.", metavar="SEED")
    ] = None,
    params: Params = PARAMS,
) -> None:
    """Write a page that shows a subset beside its pool: pictures, distributions, words, near copies."""
    from mimcore.look.page import look as work
    from mimcore.progress import Phases

    study = Study.read(params)
    pool, seed = study.pool_of("subsets", subset), seed or study.grid.seeds[0]
    title, output = f"{subset}-{seed}", layout.look(subset, seed)
    with Phases(f"look {title}", unit="parts") as progress:
        page = work(
            title,
            layout.subset(subset, seed),
            layout.index(pool),
            study.options("pools", pool),
            output,
            Path.cwd(),
            progress,
        )
    print(page)


@app.command(name="bench-data", rich_help_panel=ANSWER)
def bench_data(
    what: Annotated[
        str | None,
        typer.Argument(
            help="A pool, or a subset and its seed such as n64-s0; by default the run's subset.",
            metavar="POOL|SUBSET-SEED",
        ),
    ] = None,
    run: Annotated[
        str | None,
        typer.Option("--run", help="The run whose model and crops are used; by default the first that fits."),
    ] = None,
    seconds: Annotated[float, typer.Option("--seconds", min=0.1, help="For all of it, about.")] = 20.0,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the rows here.")] = None,
    params: Params = PARAMS,
) -> None:
    """Measure how fast images come to a training step, stage by stage, and name the one thing to change."""
    from rich.console import Console

    from mimcore.artifacts import write_json
    from mimcore.bench.advice import advice
    from mimcore.bench.data import measure, read_sample
    from mimcore.bench.table import rows, sentences, table
    from mimcore.progress import Phases

    study = Study.read(params)
    run, pool, file = _measured(study, what, run)
    sample, device = read_sample(file), study.execution.start()
    with Phases("bench-data", unit="parts") as progress:
        figures = measure(
            study.options("pools", pool),
            sample,
            study.declared_run(run),
            study.execution,
            device,
            Path.cwd(),
            seconds,
            progress,
        )
    title = f"{what or file.parent.name}, {run}"
    Console().print(table(figures, title))
    print(*sentences(figures), "", advice(figures), sep="\n")
    if json_file is not None:
        write_json(json_file, rows(figures, title))


def _measured(study: Study, what: str | None, run: str | None) -> tuple[str, str, Path]:
    """The run, the pool and the rows that ``bench-data`` measures."""
    runs = study.runs
    if run is not None:
        study.declared_run(run)
    if what in study.definitions["pools"]:
        fits = [name for name, at in runs.items() if study.pool_of("subsets", at.subset) == what]
        return run or next(iter(fits), next(iter(runs))), str(what), layout.index(str(what)) / "index.parquet"
    at = runs[run or next(iter(runs))]
    subset, _, seed = what.rpartition("-") if what else (at.subset, "", at.seed)
    if not subset:
        from mimcore.definition import nearest

        known = [*study.definitions["pools"], *(f"{name}-{s}" for name in study.grid.subsets for s in study.grid.seeds)]
        raise UserError(f"there is neither a pool nor a subset '{what}'; {nearest(str(what), known)}")
    pool = study.pool_of("subsets", subset)
    fits = [name for name, one in runs.items() if (one.subset, one.seed) == (subset, seed)]
    return run or next(iter(fits), next(iter(runs))), pool, layout.subset(subset, seed) / "manifest.parquet"


@contextmanager
def _job(study: Study, task: str, definition: dict[str, Any], output: Path, title: str) -> "Iterator[Job]":
    """What an evaluation is given beside its subject, with its progress shown."""
    from mimcore.evaluation.run import Job
    from mimcore.progress import Phases

    pool = study.options("pools", study.pool_of("tasks", task))
    device = study.execution.start()
    with Phases(title) as progress:
        yield Job(
            task_name=task,
            definition=definition,
            pool=pool,
            examples=layout.examples(task),
            output=output,
            provenance=layout.provenance(output),
            root=Path.cwd(),
            execution=study.execution,
            device=device,
            progress=progress,
        )


def _print_subjects(found: dict[str, Any]) -> None:
    for subject, metrics in found["subjects"].items():
        numbers = ", ".join(
            f"{name} {value['value']:.4f}" + (f" ± {value['standard_error']:.4f}" if value["standard_error"] else "")
            for name, value in metrics.items()
        )
        print(f"{subject}: {numbers}")


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


def main() -> None:
    """Run a verb; a mistake of the user ends in a sentence and exit status 2."""
    # Read by OpenMP when torch is loaded: wait less than it would by default. docs/performance.md has what this gives.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    if "DVC_STAGE" in os.environ:
        die_with_parent()
    try:
        app()
    except UserError as error:
        print(f"mimcore: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("mimcore: interrupted; nothing half-written was kept.", file=sys.stderr)
        sys.exit(130)
