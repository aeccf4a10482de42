"""``sweep-rate`` and ``best-rate``: neighbours of a run in params.yaml, and what their losses say."""

import json
import math
from pathlib import Path

import pytest
from test_advise_cli import PARAMS
from typer.testing import CliRunner

from mimcore import layout
from mimcore.cli import app
from mimcore.scaling.table import Row, write_results
from mimcore.study import Study

RUN = "mae-w64-n1024-short-s0"
BEST = 2.4e-4


def say(*arguments: str) -> str:
    result = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0
    return result.output


def test_a_sweep_finds_the_known_optimum(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text(PARAMS)
    said = say("sweep-rate", RUN, "--factor", "0.5", "--factor", "1", "--factor", "2", "--factor", "4")
    study = Study.read(Path("params.yaml"))
    study.check()
    swept = {"short_rate0p5": 0.75e-4, "short_rate2": 3e-4, "short_rate4": 6e-4}
    for schedule, rate in swept.items():
        assert study.options("schedules", schedule) == study.options("schedules", "short") | {
            "base_learning_rate": rate
        }
        assert f"mae-w64-n1024-{schedule}-s0" in study.runs
        assert f"mae-w64-n1024-{schedule}-s0" in said
    assert "# nested" in Path("params.yaml").read_text()
    before = Path("params.yaml").read_bytes()
    say("sweep-rate", RUN, "--factor", "0.5", "--factor", "2", "--factor", "4")
    assert Path("params.yaml").read_bytes() == before  # what is there stays

    rows = []
    for name, at in study.runs.items():
        rate = swept.get(at.schedule, 1.5e-4)
        loss = 0.5 + 0.02 * math.log2(rate / BEST) ** 2 + (0.3 if at.model != "w64" or at.subset != "n1024" else 0)
        where = (at.objective, at.model, at.subset, at.schedule, at.seed, 1024, 20480, 1000, 1e9)
        for metric in ("val_loss", "seen_loss", "train_loss", "val_loss_minimum"):
            rows.append(Row("run", name, *where, "pretrain", metric, loss, None, False, metric == "val_loss"))
    layout.RESULTS.mkdir(parents=True)
    write_results(layout.RESULTS / "results.parquet", rows)
    said = say("best-rate", RUN, "--json", "found.json")
    assert "Best learning rate 0.00024" in said
    found = json.loads(Path("found.json").read_text())
    assert found["rate"] == pytest.approx(BEST)
    assert found["given_away"] == pytest.approx(0.02 * math.log2(1.5e-4 / BEST) ** 2)
    assert len(found["losses"]) == 4  # other models, subsets and lengths are no part of it


def test_a_factor_of_nothing_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text(PARAMS)
    result = CliRunner().invoke(app, ["sweep-rate", RUN, "--factor", "0"])
    assert "above 0" in str(result.exception)
    assert Path("params.yaml").read_text() == PARAMS
