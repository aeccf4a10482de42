"""Stage ``probe``: what frozen features are worth on a task."""

from pathlib import Path
from typing import Any

from mimcore import registry
from mimcore.artifacts import Provenance, file_digest
from mimcore.definition import resolve
from mimcore.evaluation import frozen
from mimcore.evaluation.frozen import ProbeConfig
from mimcore.evaluation.job import Job, about, measure


def probe_run(run_name: str, run: Path, job: Job) -> dict[str, Any]:
    """Probe a run's features and write ``metrics.json``.

    Args:
        run_name: for the record.
        run: folder of the run, for what lies beside its encoder.
        job: everything else.

    Returns:
        What ``metrics.json`` holds.

    Raises:
        UserError: any mistake in the options or what is known of the images.
    """
    return _measure(f"probe {run_name} {job.name}", ["run"], job, str(job.definition["run"]["seed"]), run)


def probe_floor(model_name: str, job: Job, seed: str = "s0") -> dict[str, Any]:
    """Probe the features of an untrained model and, where the probe can, raw pixels; as ``probe_run``."""
    pixels = ["pixels"] if registry.load("probe", job.definition["task"]["module"]).PIXELS else []
    return _measure(f"probe-floor {model_name} {job.name}", ["untrained", *pixels], job, seed, None)


def _measure(title: str, subjects: list[str], job: Job, seed: str, run: Path | None) -> dict[str, Any]:
    options = dict(job.definition["task"])
    module = registry.load("probe", options.pop("module"))
    config: ProbeConfig = resolve(module.Config, options, f"tasks.{job.name}")
    # The card has a digest of every array.
    inputs = {"features": file_digest(job.inputs / "card.json"), **job.digests()}
    with Provenance(job.provenance, title, job.definition, inputs) as record:
        record.record |= {"resolved": {"task": config.model_dump(mode="json")}} | about(job)
        asked = {
            name: (lambda context, name=name: module.probe(frozen.read(job.inputs, name), config, context))
            for name in subjects
        }
        return measure(job, module, asked, seed, run)
