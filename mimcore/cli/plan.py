"""Verbs that look ahead: what the study would cost."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mimcore import layout
from mimcore.cli.base import ANSWER, PARAMS, Params, app
from mimcore.errors import UserError
from mimcore.runs import Phase
from mimcore.study import Study

if TYPE_CHECKING:
    from mimcore.plan.price import Priced
    from mimcore.plan.work import Stage

#: Times of a few steps, by machine; no artifact.
PROBES = layout.SCRATCH / "plan.json"
#: What DVC reads and writes anew for every stage.
LOCK = Path("dvc.lock")
#: What a run is measured by, and the same of a model that was never trained.
MEASURES, FLOORS = ("features", "probe", "evaluate"), ("features-floor", "probe-floor", "floor")


@app.command(rich_help_panel=ANSWER)
def plan(
    gpu: Annotated[
        str | None, typer.Option("--gpu", help="A GPU by name, such as h100; by default this machine.")
    ] = None,
    utilisation: Annotated[
        float, typer.Option("--utilisation", min=0.01, max=1.0, help="Part of the GPU's peak rate that is reached.")
    ] = 0.35,
    gpus: Annotated[int, typer.Option("--gpus", min=1, help="Devices; each works on one stage at a time.")] = 1,
    price: Annotated[float | None, typer.Option("--price", min=0, help="Of an hour of one device.")] = None,
    probe: Annotated[
        bool, typer.Option("--probe", help="Time a few steps of each run and task on this machine.")
    ] = False,
    everything: Annotated[bool, typer.Option("--all", help="Price what is up to date as well.")] = False,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write every stage and sum here.")] = None,
    params: Params = PARAMS,
) -> None:
    """Price the study before it runs: stages, images, FLOPs, storage, hours and money."""
    from rich.console import Console

    from mimcore.artifacts import write_json
    from mimcore.modules import read_code
    from mimcore.plan.price import total, totals
    from mimcore.plan.stale import stale
    from mimcore.plan.table import rows, sentences, table

    if probe and gpu:
        raise UserError("--probe times this machine, and --gpu asks of another; give one of them.")
    study = Study.read(params)
    stages = list(_stages(study))
    chosen = stages if everything or params != PARAMS else stale(stages, read_code(**study.modules))
    priced = _priced(study, chosen, gpu, utilisation, probe)
    verbs, whole = totals(priced), total(priced, gpus, price)
    where = "This machine" if gpu is None else f"{gpu.upper()} at {utilisation:.0%} of its peak"
    Console().print(table(verbs, whole, study.grid.title))
    print(*sentences(whole, gpus, where, price, [one for one in priced if one.seconds is None]), sep="\n")
    if json_file is not None:
        about = {"study": study.grid.title, "gpu": gpu, "utilisation": utilisation if gpu else None, "devices": gpus}
        write_json(json_file, rows(priced, verbs, whole, about))


def _priced(study: Study, stages: "list[Stage]", gpu: str | None, utilisation: float, probe: bool) -> "list[Priced]":
    """Count each stage, and say how long it takes: by the GPU's peak, or by what was timed here."""
    from mimcore.artifacts import digest, read_json, write_json
    from mimcore.plan.price import Priced, on_gpu
    from mimcore.plan.probe import Probe, machine
    from mimcore.plan.starts import lock_lines
    from mimcore.plan.work import Counter
    from mimcore.progress import Phases

    counter = Counter()
    if gpu is not None:
        counted = [(stage, counter(stage)) for stage in stages]
        return [Priced(stage, one, on_gpu(one, gpu, utilisation)) for stage, one in counted]
    device = study.execution.start()
    known = read_json(PROBES) if PROBES.is_file() else {}
    about = machine(device)
    here = known.setdefault(digest(about)[:16], {"machine": about, "times": {}})
    timed = Probe(device, here["times"], study.execution, lock_lines([stage.name for stage in stages], LOCK))
    if probe:
        with Phases("plan", unit="timings") as progress:
            timed.run(stages, progress)
        write_json(PROBES, known)
    return [Priced(stage, counter(stage), timed.seconds(stage)) for stage in stages]


def _stages(study: Study) -> "Iterator[Stage]":
    """Every stage of the study, as ``dvc.yaml`` names it, each after what it needs."""
    from mimcore.plan.work import Stage

    grid = study.grid
    yield Stage("check", "check")
    yield Stage("modules", "modules", ("check",))
    for pool in grid.pools:
        yield Stage("index", f"index@{pool}", ("modules",))
    indexed = tuple(f"index@{pool}" for pool in grid.pools)
    for subset in grid.subsets:
        for seed in grid.seeds:
            yield Stage("sample", f"sample@{subset}-{seed}", indexed)
    for name in (*grid.features, *grid.tasks):
        beside = "-features" if name in grid.features else ""
        yield Stage("examples", f"examples{beside}@{name}", (*indexed, "modules"))
    learned = {name: f"prepare{_beside(study, name)}@{name}" for name in study.prepared}
    for name, (_, subset, seed) in study.prepared.items():
        yield Stage("prepare", learned[name], (f"sample@{subset}-{seed}", "modules"))
    last = []
    for name, at in study.runs.items():
        beside = _beside(study, name)
        declared = study.declared_run(name)
        before = (f"pretrain{_beside(study, at.after)}@{at.after}",) if isinstance(at, Phase) else ()
        drawn = (f"sample@{at.subset}-{at.seed}", learned[study.prepared_for(name)], *before)
        images = _subset_images(study, at.subset, at.seed)
        yield Stage("pretrain", f"pretrain{beside}@{name}", drawn, declared, (images,))
        last.append(f"pretrain{beside}@{name}")
        of = {"run": declared}
        for stage in _measured(study, name, of, {verb: f"{verb}{beside}" for verb in MEASURES}, (last[-1],)):
            last.append(stage.name)
            yield stage
    for model in grid.models:
        of = {"model": study.options("models", model)}
        for stage in _measured(study, model, of, dict(zip(MEASURES, FLOORS, strict=True)), ()):
            last.append(stage.name)
            yield stage
    for verb in ("collect", "fit", "report"):
        yield Stage(verb, verb, tuple(last))
        last = [verb]


def _beside(study: Study, run: str) -> str:
    """What the names of a run's stages have after their verb."""
    return "-extra" if run in study.grid.extra else "-phase" if run in study.grid.phases else ""


def _measured(
    study: Study, name: str, of: dict[str, Any], called: dict[str, str], after: tuple[str, ...]
) -> "Iterator[Stage]":
    """What a run or a model is measured by: its features once, the probes on them, and the tasks."""
    from mimcore.plan.work import Stage

    def verb(what: str) -> str:
        return called[what] if called[what] in FLOORS else what

    for features in study.grid.features:
        definition = {"features": study.options("features", features), **of}
        needs = (*after, f"examples-features@{features}")
        images = _chosen_images(study, "features", features)
        yield Stage(verb("features"), f"{called['features']}@{name}-{features}", needs, definition, images)
    for probe in study.grid.probes:
        features = study.features_of(probe)
        definition = {**study.declared_probe(probe), **of}
        needs = (f"{called['features']}@{name}-{features}",)
        images = _chosen_images(study, "features", features)
        yield Stage(verb("probe"), f"{called['probe']}@{name}-{probe}", needs, definition, images)
    for task in study.grid.tasks:
        definition = {"task": study.declared_task(task), **of}
        needs = (*after, f"examples@{task}")
        yield Stage(
            verb("evaluate"),
            f"{called['evaluate']}@{name}-{task}",
            needs,
            definition,
            _chosen_images(study, "tasks", task),
        )


def _subset_images(study: Study, subset: str, seed: str) -> int:
    """Images of a subset: as drawn, or as declared."""
    drawn = _card(layout.subset(subset, seed)).get("images", study.options("subsets", subset).get("images"))
    if drawn is None:
        raise UserError(
            f"subsets.{subset}: it states no number of images and is not drawn; run 'dvc repro' on its stage 'sample'."
        )
    return int(drawn)


def _chosen_images(study: Study, kind: str, name: str) -> tuple[int, ...]:
    """Images that a task or features train and test on, and those of shifted pools: as chosen, as declared, or all of the pool's."""
    pool = study.pool_of(kind, name)
    options, chosen = study.options(kind, name), _card(layout.examples(name))
    index, made = _card(layout.index(pool)), study.options("pools", pool)
    shifted = sum(_shifted_images(study, name, other, options, chosen) for other in study.shifted_of(kind, name))
    if "val_images" in made and "images" in made:  # a pool that is made here knows its number
        index = {"train": made["images"] - made["val_images"], "val": made["val_images"]} | index
    found = []
    for part, split in (("train", "train"), ("test", "val")):
        images = chosen.get(part, options.get(f"{part}_images") or index.get(split))
        if images is None:
            raise UserError(
                f"{kind}.{name}.{part}_images: not given, and pool '{pool}' is not indexed, so that its number is not known; give "
                f"it, or run 'dvc repro index@{pool}'."
            )
        found.append(int(images))
    return (*found, shifted) if shifted else tuple(found)


def _shifted_images(study: Study, task: str, pool: str, options: dict[str, Any], chosen: dict[str, Any]) -> int:
    """Images of a shifted pool that a task tests on, likewise."""
    index = _card(layout.index(pool))
    images = chosen.get("shifted", {}).get(pool, {}).get("images", (options.get("shifted_images") or {}).get(pool))
    images = images or index.get("val")
    if images is None:
        raise UserError(
            f"tasks.{task}.shifted_images.{pool}: not given, and the pool is not indexed, so that its number is not known; give it, or"
            f" run 'dvc repro index@{pool}'."
        )
    return int(images)


def _card(folder: Path) -> dict[str, Any]:
    from mimcore.artifacts import read_json

    return dict(read_json(folder / "card.json")) if (folder / "card.json").is_file() else {}
