"""A run as a folder that a stranger can use: weights, model card, provenance."""

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from timm.models import save_for_hf

from mimcore import artifacts
from mimcore.models import encoder as encoders
from mimcore.models.continued import FILE as OBJECTIVE

#: Files of a run that are published as they are, where the run has them.
KEPT = ("reconstructions.png", "curve.parquet", OBJECTIVE)


@dataclass(frozen=True)
class Statement:
    """What only a person can say of the weights.

    Attributes:
        licence: an SPDX identifier, as the hub takes them.
        data: what the images are, in a few words; None to leave it out.
    """

    licence: str
    data: str | None = None


@dataclass(frozen=True)
class Evidence:
    """What is known of a run beside its folder.

    Attributes:
        evals: task to what its ``metrics.json`` holds.
        floors: task to the same of the untrained model, and of raw pixels.
        provenance: the record of how the run was made; empty where it is lost.
    """

    evals: Mapping[str, Mapping[str, Any]]
    floors: Mapping[str, Mapping[str, Any]]
    provenance: Mapping[str, Any]


def publish(run_name: str, run: Path, evidence: Evidence, output: Path, statement: Statement) -> None:
    """Write ``model.safetensors`` and timm's ``config.json``, ``README.md`` (the model card), ``provenance.json`` and pictures.

    ``timm.create_model("local-dir:FOLDER", pretrained=True)`` reads it, and so does ``hf-hub:`` once it is uploaded.

    Args:
        run_name: of the model.
        run: folder of the run artifact, or of an import.
        evidence: is put into the card.
        output: folder to write, whole or not at all.
        statement: of the publisher.

    Raises:
        UserError: the run is incomplete, or the disk is full.
    """
    encoder = encoders.load(run)
    height, width = encoders.sides(encoder.image_size)
    inputs = {"input_size": (encoder.channels, height, width), "mean": encoder.mean, "std": encoder.std}
    metrics = artifacts.read_json(run / "metrics.json") if (run / "metrics.json").is_file() else {}
    with artifacts.directory(output) as part:
        save_for_hf(encoder.module, str(part), model_args=encoder.kwargs, safe_serialization=True, data_config=inputs)
        for name in KEPT:
            if (run / name).is_file():
                shutil.copy2(run / name, part / name)
        record = {"run": dict(evidence.provenance), "evaluations": dict(evidence.evals)}
        record["encoder"] = {"sha256": artifacts.file_digest(run / "encoder.safetensors")}
        artifacts.write_json(part / "provenance.json", record)
        card = model_card(run_name, encoder, metrics, evidence, statement, (part / KEPT[0]).is_file())
        (part / "README.md").write_text(card, encoding="utf-8")


def model_card(
    run_name: str,
    encoder: encoders.Encoder,
    metrics: Mapping[str, Any],
    evidence: Evidence,
    statement: Statement,
    picture: bool,
) -> str:
    """The card, Markdown with the hub's header; everything in it is read off the artifacts or stated by the publisher."""
    height, width = encoders.sides(encoder.image_size)
    definition, facts = metrics.get("definition", {}), metrics.get("facts", {})
    model = {
        "architecture": encoder.model_name,
        "channels": encoder.channels,
        "height": height,
        "width": width,
        "mean": ", ".join(f"{v:g}" for v in encoder.mean),
        "std": ", ".join(f"{v:g}" for v in encoder.std),
    }
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), undefined=StrictUndefined, keep_trailing_newline=True
    )
    return environment.get_template("card.md.j2").render(
        name=run_name,
        licence=statement.licence,
        data=statement.data,
        model=model,
        params=_short(sum(p.numel() for p in encoder.module.parameters())),
        objective=definition.get("objective", {}).get("module"),
        facts=list(_facts(facts, evidence.provenance)),
        losses=", ".join(f"{name} {value:.4f}" for name, value in metrics.get("metrics", {}).items()),
        unique=f"{facts.get('unique_images', 0):,}",
        seen=f"{facts.get('images_seen', 0):,}",
        results=list(_results(evidence)),
        picture=picture,
        yaml=yaml.safe_dump(definition, sort_keys=False, allow_unicode=True) if definition else "",
    )


def _facts(facts: Mapping[str, Any], provenance: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Rows of the card's table; what is not on record is left out."""
    if "flops" in facts:
        yield "FLOPs", f"{facts['flops']:.3g}"
    if "wall_seconds" in provenance:
        yield "time", f"{provenance['wall_seconds'] / 3600:.2f} h"
    for label, key in (("device", "device"), ("processes", "ranks"), ("system", "platform"), ("Python", "python")):
        if key in provenance:
            yield label, str(provenance[key])
    for library, version in provenance.get("libraries", {}).items():
        yield library, str(version)


def _results(evidence: Evidence) -> Iterator[dict[str, str]]:
    """A row of the card for each metric of each task."""
    for task, found in sorted(evidence.evals.items()):
        floors = evidence.floors.get(task, {}).get("subjects", {})
        for metric, entry in found.get("subjects", {}).get("run", {}).items():
            yield {
                "task": task,
                "label": f"{metric}{'' if entry['higher_is_better'] else ' (lower is better)'}",
                "value": f"{entry['value']:.4g}",
                "error": _number(entry.get("standard_error")),
                "untrained": _number(floors.get("untrained", {}).get(metric, {}).get("value")),
                "pixels": _number(floors.get("pixels", {}).get(metric, {}).get("value")),
            }


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _short(count: int) -> str:
    """A count for people: 86.4M."""
    for unit, scale in (("B", 10**9), ("M", 10**6), ("K", 10**3)):
        if count >= scale:
            return f"{count / scale:.3g}{unit}"
    return str(count)
