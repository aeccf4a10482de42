"""A published folder, read by timm and by the hub's own reader of cards."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import yaml
from typer.testing import CliRunner

from mimcore import layout
from mimcore.cli import app
from mimcore.models import encoder as encoders
from mimcore.weights.publishing import Evidence, Statement, publish

VIT: dict[str, Any] = {"image_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 3}
SWIN: dict[str, Any] = {
    "architecture": "swin_base_patch4_window7_224",
    "image_size": 64,
    "window_size": 4,
    "embed_dim": 16,
    "depths": (1, 1, 2, 1),
    "num_heads": (1, 2, 2, 4),
}
RUN = "mae-tiny-n64-short-s0"
MODEL = {"image_size": 32}


def subject(**values: float) -> dict[str, Any]:
    return {name: {"value": v, "standard_error": 0.01, "higher_is_better": True} for name, v in values.items()}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run with its evaluation, its floor, and the floors of another model and another task's definition."""
    monkeypatch.chdir(tmp_path)
    encoder = encoders.build(encoders.Config(**VIT))
    layout.run(RUN).mkdir(parents=True)
    encoders.save(encoder, layout.run(RUN), {})
    definition = {"objective": {"module": "mae", "mask_ratio": 0.6}, "model": MODEL, "seed": "s0"}
    facts = {"unique_images": 64, "images_seen": 24576, "flops": 1.25e12, "encoder_params": 5}
    metrics = {"definition": definition, "metrics": {"val_loss": 0.25}, "facts": facts}
    written: dict[Path, Any] = {layout.run(RUN) / "metrics.json": metrics}
    task = {"module": "linear", "pool": "digits"}
    found = {"definition": {"run": definition, "task": task}, "subjects": {"run": subject(top1=0.875)}}
    written[layout.evaluation(RUN, "linear") / "metrics.json"] = found
    for model, pool, value in ((MODEL, "digits", 0.5), ({"image_size": 64}, "digits", 0.1), (MODEL, "other", 0.2)):
        floor = {"definition": {"model": model, "task": task | {"pool": pool}}}
        floor |= {"subjects": {"untrained": subject(top1=value), "pixels": subject(top1=value / 2)}}
        written[layout.floor(f"m{len(written)}", "linear") / "metrics.json"] = floor
    written[layout.provenance(layout.run(RUN))] = {"wall_seconds": 7200.0, "device": "cpu", "libraries": {"torch": "2"}}
    for file, content in written.items():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(content))
    return tmp_path


@pytest.mark.parametrize("model", [VIT, SWIN])
def test_timm_reads_what_is_published(tmp_path: Path, model: dict[str, Any]) -> None:
    encoder = encoders.build(encoders.Config(**model))
    (tmp_path / "run").mkdir()
    encoders.save(encoder, tmp_path / "run", {})
    publish("mine", tmp_path / "run", Evidence({}, {}, {}), tmp_path / "out", Statement("mit", "photographs"))
    read = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True).eval()
    images = torch.randn(2, 3, *encoders.sides(encoder.image_size))
    assert torch.equal(read.forward_features(images), encoder.module.eval().forward_features(images))
    assert tuple(read.pretrained_cfg["mean"]) == encoder.mean
    assert "pretrained on photographs" in (tmp_path / "out/README.md").read_text()


def test_the_card_says_what_the_artifacts_say(place: Path) -> None:
    done = CliRunner().invoke(app, ["publish", RUN, "--out", "out", "--license", "cc-by-4.0", "--data", "digits"])
    assert done.exit_code == 0, done.output
    header, text = (place / "out/README.md").read_text().split("---\n", 2)[1:]
    assert yaml.safe_load(header) == {
        "license": "cc-by-4.0",
        "library_name": "timm",
        "pipeline_tag": "image-feature-extraction",
        "tags": ["image-feature-extraction", "timm", "masked-image-modeling", "mae"],
    }
    assert "objective `mae` on 64 images (digits), 24,576 images seen in all" in text
    assert "| linear | top1 | 0.875 | 0.01 | 0.5 | 0.25 |" in text.splitlines()
    assert "| time | 2.00 h |" in text
    assert yaml.safe_load(text.split("```yaml\n")[1].split("```")[0])["objective"]["mask_ratio"] == 0.6
    record = json.loads((place / "out/provenance.json").read_text())
    assert record["run"]["device"] == "cpu"
    assert record["evaluations"]["linear"]["subjects"]["run"]["top1"]["value"] == 0.875


def test_what_is_of_another_run_is_left_out(place: Path) -> None:
    file = layout.evaluation(RUN, "linear") / "metrics.json"
    found = json.loads(file.read_text())
    file.write_text(json.dumps(found | {"definition": found["definition"] | {"run": {"seed": "s9"}}}))
    shutil.copytree(layout.run(RUN), place / "elsewhere" / RUN)
    for run in (RUN, f"elsewhere/{RUN}"):
        done = CliRunner().invoke(app, ["publish", run, "--out", "out", "--license", "mit"])
        assert done.exit_code == 0, done.output
        assert "It was not evaluated." in (place / "out/README.md").read_text()
        file.write_text(json.dumps(found))  # of this run again, but not of a folder elsewhere with its name


def test_nobody_guesses_the_licence(place: Path) -> None:
    done = CliRunner().invoke(app, ["publish", RUN, "--out", "out"])
    assert done.exit_code == 2
    assert "--license" in done.output
    assert not (place / "out").exists()
