"""Stage ``features``: what an encoder makes of a pool's images, computed once for every probe."""

from collections.abc import Mapping
from pathlib import Path

from mimcore.artifacts import Provenance, directory, file_digest
from mimcore.definition import resolve
from mimcore.evaluation.features import FeaturesConfig, Pixels, extract
from mimcore.evaluation.frozen import write_arrays, write_rows
from mimcore.evaluation.job import Job, about
from mimcore.evaluation.run import data_of, floors
from mimcore.models import encoder as encoders
from mimcore.models.encoder import Encoder
from mimcore.models.text import DESCRIPTION, load_projection


def extract_run(run_name: str, run: Path, job: Job) -> None:
    """Write the features of a run's encoder: arrays, ``train.parquet``, ``test.parquet`` and ``card.json``.

    Args:
        run_name: for the record.
        run: folder of the run.
        job: everything else.

    Raises:
        UserError: any mistake in the options, the pool or the run.
    """
    inputs = {"encoder": file_digest(run / "encoder.safetensors"), **job.digests()}
    with Provenance(job.provenance, f"extract {run_name} {job.name}", job.definition, inputs) as record:
        _write({"run": encoders.load(run)}, job, record, run)


def extract_floor(model_name: str, job: Job, seed: str = "s0") -> None:
    """Write the features of a model with its initial weights, and raw pixels beside them; as ``extract_run``.

    Args:
        model_name: ``<name>`` of ``models.<name>``.
        job: everything else.
        seed: of the initial weights.

    Raises:
        UserError: any mistake in the options or the pool.
    """
    with Provenance(job.provenance, f"extract-floor {model_name} {job.name}", job.definition, job.digests()) as record:
        _write(floors(model_name, job.definition["model"], seed), job, record, None)


def _write(subjects: Mapping[str, Encoder | Pixels], job: Job, record: Provenance, run: Path | None) -> None:
    where = f"features.{job.name}"
    config = resolve(FeaturesConfig, job.definition["features"], where)
    data = data_of(job, next(iter(subjects.values())))
    record.record |= {"resolved": {"features": config.model_dump(mode="json")}} | about(job)
    parts = {"train": data.train, "test": data.test}
    # Runs without a text tower have no description of one.
    projection = load_projection(run) if run is not None and (run / DESCRIPTION).is_file() else None
    arrays: dict[str, str] = {}
    with directory(job.output) as folder:
        for name, subject in subjects.items():
            context = job.context(name, where, "", folder, run)
            for part, images in parts.items():
                batches = extract(subject, images, config, context, projection)
                arrays |= write_arrays(folder, f"{name}-{part}", len(images), batches)
        card = {"definition": dict(job.definition), "classes": data.classes, "box_classes": data.box_classes}
        write_rows(folder, {part: images.rows for part, images in parts.items()}, card | {"arrays": arrays})
