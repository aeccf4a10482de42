"""The Python API: pretrain on images, load what came out, evaluate it; definitions are those of ``params.yaml``, as mappings."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from mimcore import artifacts, registry
from mimcore.definition import resolve
from mimcore.errors import UserError
from mimcore.execution import Execution
from mimcore.models import encoder as encoders
from mimcore.progress import Phases

if TYPE_CHECKING:
    from mimcore.evaluation.job import Job

Options = Mapping[str, Any]

#: Where indexes, subsets and checkpoints of runs in progress lie, as on the command line.
SCRATCH = Path(".mimcore")


@dataclass(frozen=True)
class LoadedRun:
    """What a run gives: its encoder, how images become its input, and its numbers.

    Attributes:
        folder: of the run.
        encoder: timm model in evaluation mode; ``encoder.forward_features`` maps ``(B, C, H, W)`` to tokens ``(B, prefix + N, D)``.
        metrics: what ``metrics.json`` holds: ``definition``, ``libraries``, ``metrics``, ``facts``.
    """

    folder: Path
    encoder: nn.Module
    metrics: dict[str, Any]
    _input: encoders.Encoder

    def transform(self, image: str | Path | bytes) -> Tensor:
        """Decode an image, cut out its largest centred part, resample and normalise it as for validation.

        Args:
            image: a file, or its bytes.

        Returns:
            float32 ``(C, H, W)``.

        Raises:
            DecodeError: it is no image.
        """
        from mimcore.data.decode import decode

        data = image if isinstance(image, bytes) else Path(image).read_bytes()
        pixels = torch.from_numpy(decode(data, self._input.image_size, self._input.channels))
        return self._input.normalize(pixels.unsqueeze(0))[0]


def load(run: str | Path) -> LoadedRun:
    """Load a run by its folder, such as ``artifacts/runs/mae-tiny-n64-short-s0``.

    Raises:
        UserError: a file of it is missing or broken.
    """
    folder = Path(run)
    found = encoders.load(folder)
    return LoadedRun(folder, found.module.eval(), artifacts.read_json(folder / "metrics.json"), found)


def pretrain(
    images: str | Path | Options,
    output: str | Path,
    *,
    schedule: Options,
    model: Options | None = None,
    objective: Options | None = None,
    subset: Options | None = None,
    val_images: int = 256,
    seed: str = "s0",
    execution: Options | None = None,
    after: str | Path | LoadedRun | None = None,
    use: Literal["weights", "teacher", "state"] = "weights",
) -> LoadedRun:
    """Pretrain an encoder; called again after an interruption, it goes on from the last checkpoint.

    Args:
        images: a folder of images, or the options of a pool.
        output: folder to write the run to, whole or not at all.
        schedule: options of ``schedules``; ``images_seen`` and ``warmup_images`` have no default.
        model: options of ``models``.
        objective: options of ``objectives``; its ``module`` is ``mae`` if not given.
        subset: options of ``subsets``; all training images if not given.
        val_images: of a folder, how many images are kept for the validation loss.
        seed: of the replicate.
        execution: options of ``execution``.
        after: the run that this one follows, if any.
        use: what it takes of that run (docs/training.md).

    Raises:
        UserError: an option is wrong, or an image cannot be read.
    """
    from mimcore.sampling.draw import sample
    from mimcore.sampling.prepare import prepare
    from mimcore.training.pretrain import pretrain as work

    pool = _pool(images, val_images)
    place = _indexed(pool)
    rows = artifacts.read_json(place / "index/images/card.json")["train"]
    drawn = {"pool": "images", "images": rows} | dict(subset or {})
    name = f"{artifacts.digest(drawn)[:12]}-{seed}"
    sample(name, drawn, seed, pool, place / "index/images", place / "subsets" / name, Path.cwd())
    definition: dict[str, Any] = {
        "objective": {"module": "mae"} | dict(objective or {}),
        "model": dict(model or {}),
        "schedule": dict(schedule),
        "subset": {"name": name, **drawn},
        "seed": seed,
    }
    before = None if after is None else after.folder if isinstance(after, LoadedRun) else Path(after)
    if before is not None:
        definition |= {"use": use, "after": artifacts.read_json(before / "metrics.json")["definition"]}
    prepared = place / "prepared" / artifacts.digest({"subset": name, "objective": definition["objective"]})[:12]
    how, record = resolve(Execution, execution or {}, "execution"), place / "provenance" / f"{Path(output).name}.json"
    with Phases("pretrain") as progress:
        subsets = place / "subsets" / name
        prepare("objective", definition["objective"], subsets, prepared)
        device = how.start()
        work(
            str(output),
            definition,
            pool,
            subsets,
            Path(output),
            record,
            place / "runs",
            Path.cwd(),
            how,
            device,
            progress,
            prepared,
            before,
        )
    return load(output)


def evaluate(
    run: str | Path | LoadedRun,
    task: str,
    images: str | Path | Options,
    output: str | Path,
    *,
    options: Options | None = None,
    val_images: int = 256,
    execution: Options | None = None,
) -> dict[str, float]:
    """Evaluate a run on a task, on labelled images.

    Args:
        run: what ``pretrain`` or ``load`` returned, or a run's folder.
        task: a module of ``mimcore.evaluation``, such as ``finetune`` or, of those on frozen features, ``knn``.
        images: a folder with a subfolder for each class, or the options of a pool.
        output: folder to write ``metrics.json`` and pictures to.
        options: of the task; of a task on frozen features those of ``features`` as well, such as ``train_images``.
        val_images: of a folder, how many images to test on.
        execution: options of ``execution``.

    Returns:
        Value by metric, the headline first.

    Raises:
        UserError: an option is wrong, the images have no labels, one cannot be read, or the task does not apply to the run.
    """
    from mimcore.evaluation.job import Job
    from mimcore.evaluation.run import evaluate_run
    from mimcore.sampling.examples import choose

    folder = run.folder if isinstance(run, LoadedRun) else Path(run)
    pool = _pool(images, val_images)
    place = _indexed(pool)
    probe = task in registry.names("probe")
    needs = {task: str(registry.constant("probe" if probe else "task", task, "NEEDS"))}
    declared = {"module": task, "pool": "images"} | dict(options or {})
    examples = place / "examples" / artifacts.digest(declared)[:12]
    choose(f"tasks.{task}", declared, place / "index/images", examples, needs)
    how = resolve(Execution, execution or {}, "execution")
    definition = {"task": declared, "run": artifacts.read_json(folder / "metrics.json")["definition"]}
    record = place / "provenance" / f"{Path(output).name}.json"
    with Phases(f"evaluate {task}") as progress:
        job = Job(task, definition, examples, Path(output), record, how, how.start(), progress, pool, Path.cwd())
        found = _probe(folder, job, place) if probe else evaluate_run(folder.name, folder, job)
    if "not_applicable" in found:
        raise UserError(f"{task}, {folder}: {found['not_applicable']}")
    return {name: metric["value"] for name, metric in found["subjects"]["run"].items()}


def _probe(folder: Path, job: "Job", place: Path) -> dict[str, Any]:
    """Features, then the probe: the options are of both."""
    from mimcore.evaluation.extract import extract_run
    from mimcore.evaluation.features import FeaturesConfig
    from mimcore.evaluation.probing import probe_run

    declared, run = job.definition["task"], job.definition["run"]
    features = {name: value for name, value in declared.items() if name in FeaturesConfig.model_fields}
    task = {name: value for name, value in declared.items() if name not in features} | {"features": "images"}
    kept = place / "features" / artifacts.digest({"folder": str(folder.absolute()), **features})[:12]
    first = {"features": features, "run": run}
    extract_run(folder.name, folder, replace(job, name="images", definition=first, output=kept))
    return probe_run(folder.name, folder, replace(job, definition={"task": task, **first}, inputs=kept))


def _pool(images: str | Path | Options, val_images: int) -> dict[str, Any]:
    if isinstance(images, Mapping):
        return dict(images)
    return {"format": "folder", "path": str(Path(images).absolute()), "val_images": val_images}


def _indexed(pool: Options) -> Path:
    """Index the pool as it is now; a shard that has not changed is not looked at again."""
    from mimcore.data.index import build_index
    from mimcore.data.listing import scan
    from mimcore.data.pool import load_pool

    root, place = Path.cwd(), SCRATCH / "api" / artifacts.digest(dict(pool))[:12]
    listing = place / "listing.json"
    scan(load_pool("images", pool, root), listing, adopt=True)
    with Phases("index") as progress:
        build_index(
            "images",
            pool,
            listing,
            place / "index/images",
            root,
            SCRATCH,
            lambda done, total: progress("", done, total),
        )
    return place
