"""From advice to a night's work: the runs that ``advise --write`` adds are the stages that DVC, and so a night, finds stale."""

from pathlib import Path

import numpy as np
import pytest
from scratch_pipeline import Pipeline
from typer.testing import CliRunner

pytest.importorskip("prefect", reason="needs the extra 'flows'")

from flows.graph import Graph
from mimcore import layout
from mimcore.cli import app
from mimcore.scaling.forecasts import read_forecasts
from mimcore.scaling.laws import joint
from mimcore.scaling.table import Row, write_results
from mimcore.study import Study

pytestmark = pytest.mark.filterwarnings("ignore")  # of DVC's own libraries
TRUTH = np.array([[0.3, 5.0, 0.35, 3.0, 0.3, 30.0, 0.4]])
MODEL = {"architecture": "vit_tiny_patch16_224", "image_size": 32, "patch_size": 8, "depth": 1, "num_heads": 2}


def results() -> list[Row]:
    """As a larger grid would have left them."""
    found = []
    for params in (3e4, 1e5, 4e5):
        for images in (16, 64, 256):
            for seen in (512, 2048):
                at = {"encoder_params": params, "unique_images": images, "images_seen": seen}
                value = joint.Law().predict(TRUTH, {name: np.array([float(x)]) for name, x in at.items()})[0, 0]
                value *= 1 + 0.002 * np.sin(params + images + seen)
                names = (
                    "run",
                    f"mae-m{params:.0f}-n{images}-{seen}-s0",
                    "mae",
                    f"m{params:.0f}",
                    f"n{images}",
                    str(seen),
                    "s0",
                )
                for metric in ("val_loss", "seen_loss", "val_loss_minimum"):
                    found.append(
                        Row(*names, images, seen, int(params), 1e10, "pretrain", metric, value, None, False, metric == "val_loss")
                    )  # fmt: skip
    return found


def test_what_was_advised_is_what_a_night_finds_stale(
    pipeline: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline.set("models.wide", {**MODEL, "embed_dim": 128})
    pipeline.set(
        "objectives.mae", {"mask_ratio": 0.75, "decoder_embed_dim": 32, "decoder_depth": 1, "decoder_num_heads": 2}
    )
    for model in ("tiny", "small"):
        pipeline.set(f"models.{model}", {**MODEL, "embed_dim": 64})
    before, runs = pipeline.stale(), set(Study.read(pipeline.root / "params.yaml").runs)
    monkeypatch.chdir(tmp_path)
    layout.RESULTS.mkdir(parents=True)
    write_results(layout.RESULTS / "results.parquet", results())
    done = CliRunner().invoke(
        app, ["advise", "--budget", "1e15", "--count", "2", "--write", "--params", str(pipeline.root / "params.yaml")]
    )
    assert done.exception is None, done.exception
    study = Study.read(pipeline.root / "params.yaml")
    advised = set(study.runs) - runs
    assert advised == {one["run"] for one in read_forecasts(layout.FORECASTS)}
    assert len(advised) == 2
    assert all("-wide-" in name for name in advised)
    new = {f"{verb}-extra@{name}" for name in advised for verb in ("prepare", "pretrain")}
    new |= {f"features-extra@{name}-{features}" for name in advised for features in study.grid.features}
    new |= {f"probe-extra@{name}-{probe}" for name in advised for probe in study.grid.probes}
    new |= {f"evaluate-extra@{name}-{task}" for name in advised for task in study.grid.tasks}
    assert pipeline.stale() - before == new
    # A night takes the stale stages in this order, each after what it needs, until its budget is spent.
    graph = Graph(pipeline.root)
    order = [name for name in graph.wanted([]) if name in graph.stale_ones(graph.wanted([]))]
    assert new <= set(order)
    assert [name for name in order if name.startswith("collect")] == ["collect"]
    for name in new:
        assert order.index(name) < order.index("collect")
        assert graph.stages[name].verb in {"prepare", "pretrain", "extract", "probe", "evaluate"}
