"""``advise`` and ``forecast``: from a study's table to runs in params.yaml and forecasts that are judged later."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from mimcore import layout
from mimcore.cli import app
from mimcore.plan.work import parameters
from mimcore.scaling.forecasts import judge, read_forecasts
from mimcore.scaling.laws import repetition
from mimcore.scaling.table import Row, read_results, runs_of, write_results
from mimcore.study import Study

MODEL = "{{architecture: vit_tiny_patch16_224, image_size: 32, patch_size: 8, embed_dim: {}, depth: 2, num_heads: 2}}"
PARAMS = f"""# Do more images help?
pools:
  digits: {{format: digits, images: 100000, image_size: 32, val_images: 1000}}
subsets:  # nested
  n256: {{pool: digits, images: 256}}
  n1024: {{pool: digits, images: 1024}}
  n4096: {{pool: digits, images: 4096}}
  n16384: {{pool: digits, images: 16384}}
models:
  w32: {MODEL.format(32)}
  w64: {MODEL.format(64)}
  w128: {MODEL.format(128)}
  w256: {MODEL.format(256)}
objectives:
  mae: {{mask_ratio: 0.6, decoder_embed_dim: 32, decoder_depth: 1, decoder_num_heads: 2}}
schedules:
  short: {{images_seen: 20480, batch_size: 32, warmup_images: 2048, precision: float32}}
  middle: {{images_seen: 81920, batch_size: 32, warmup_images: 2048, precision: float32}}
  long: {{images_seen: 327680, batch_size: 32, warmup_images: 2048, precision: float32}}
features:
  all: {{pool: digits}}
tasks:
  linear: {{features: all}}
study:
  title: A grid
  pools: [digits]
  subsets: [n256, n1024, n4096, n16384]
  models: [w32, w64, w128]
  objectives: [mae]
  schedules: [short, middle, long]
  seeds: [s0]
  features: [all]
  probes: [linear]
  tasks: []
  extra: {{}}  # odd runs
  phases: {{}}
fit: {{bootstrap: 100}}
"""
TRUTH = np.array([0.4, 6.0, 0.35, 8.0, 0.4, 30.0, 0.1, 3.0, 1.5])


def loss(study: Study, name: str, noise: float = 0.004) -> float:
    at = study.runs[name]
    variables = {
        "encoder_params": np.array([float(parameters(study.options("models", at.model)))]),
        "unique_images": np.array([float(study.options("subsets", at.subset)["images"])]),
        "images_seen": np.array([float(study.options("schedules", at.schedule)["images_seen"])]),
    }
    random = np.random.default_rng(list(name.encode()))
    return float(repetition.Law().predict(TRUTH[None], variables)[0, 0] * np.exp(noise * random.standard_normal()))


def collect(study: Study, names: list[str]) -> None:
    """The table as ``collect`` would write it, had these runs been made."""
    rows = []
    for name in names:
        at = study.runs[name]
        value = loss(study, name)
        for metric in ("val_loss", "seen_loss", "val_loss_minimum"):
            rows.append(
                Row(
                    kind="run",
                    run=name,
                    objective=at.objective,
                    model=at.model,
                    subset=at.subset,
                    schedule=at.schedule,
                    seed=at.seed,
                    unique_images=study.options("subsets", at.subset)["images"],
                    images_seen=study.options("schedules", at.schedule)["images_seen"],
                    encoder_params=parameters(study.options("models", at.model)),
                    flops=1e12,
                    task="pretrain",
                    metric=metric,
                    value=value,
                    standard_error=None,
                    higher_is_better=False,
                    headline=metric == "val_loss",
                )
            )
    layout.RESULTS.mkdir(parents=True, exist_ok=True)
    write_results(layout.RESULTS / "results.parquet", rows)


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text(PARAMS)
    found = Study.read(Path("params.yaml"))
    collect(found, list(found.runs))
    return found


def run(*arguments: str) -> str:
    done = CliRunner().invoke(app, list(arguments))
    if done.exception:
        raise done.exception
    return done.stdout


def test_advised_runs_are_added_with_forecasts_and_the_file_keeps_its_words(study: Study) -> None:
    text = run("advise", "--budget", "1e15", "--count", "3", "--write", "--json", "advice.json")
    advice: Any = json.loads(Path("advice.json").read_text())
    names = [one["run"] for one in advice["runs"]]
    assert advice["target"] == "mae-w256-n16384-long-s0"
    assert 1 <= len(names) <= 3
    assert all("-w256-" in name for name in names)  # all that is not made
    assert sum(one["cost"] for one in advice["runs"]) <= 1e15
    assert names[0] in text
    after = Path("params.yaml").read_text()
    assert "# Do more images help?" in after
    assert "# nested" in after
    again = Study.read(Path("params.yaml"))
    assert set(again.runs) == set(study.runs) | set(names)
    before = yaml.safe_load(PARAMS)
    now = yaml.safe_load(after)
    assert now["study"].pop("extra").keys() == set(names)
    before["study"].pop("extra")
    assert now == before
    forecasts = read_forecasts(layout.FORECASTS)
    assert [one["run"] for one in forecasts] == names
    collect(again, list(again.runs))
    definitions = {name: again.declared_run(name) for name in names}
    judged = judge(forecasts, runs_of(read_results(layout.RESULTS / "results.parquet")), definitions)
    assert len(judged) == len(names)
    for one in judged:
        assert one["hit"] == (one["low"] <= one["observed"] <= one["high"])
    assert sum(one["hit"] for one in judged) >= len(names) - 1
    # Another definition is another run: nothing is judged.
    assert judge(forecasts, runs_of(read_results(layout.RESULTS / "results.parquet")), {n: {} for n in names}) == []


def test_a_bet_is_not_changed(study: Study) -> None:
    names = list(study.runs)
    collect(study, names[:-2])
    run("forecast")
    first = read_forecasts(layout.FORECASTS)
    assert [one["run"] for one in first] == names[-2:]
    collect(study, names[:-3])
    run("forecast")
    second = read_forecasts(layout.FORECASTS)
    assert second[:2] == first
    assert [one["run"] for one in second[2:]] == names[-3:-2]
    collect(study, names)
    assert "made or forecast" in run("forecast")


def test_what_cannot_be_advised_is_said(study: Study) -> None:
    for arguments, words in (
        (["--budget", "1"], "pay for none"),
        (["--objective", "mea"], "no run of objective 'mea'"),
        (["--target", "w256"], "MODEL-SUBSET-SCHEDULE"),
        (["--target", "w512-n256-long"], "nearest|w256|did you mean|known"),
        (["--law", "repetitoin"], "repetition"),
    ):
        with pytest.raises(Exception, match=words):
            run("advise", *arguments)
