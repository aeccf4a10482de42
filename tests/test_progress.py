import json
from pathlib import Path

import pytest

from mimcore import progress


def test_a_line_now_and_then_and_one_at_the_end(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with progress.Phases("pretrain r") as phases:
        for done in range(0, 500, 50):
            phases("", done, 500, "loss 1.0")
            now[0] += 4
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 4  # 40 s at one line every 10 s or more, and the end
    assert lines[0].startswith("pretrain r:")
    assert all("images/s" in line for line in lines)
    assert "left" in lines[0]
    assert "loss 1.0" in lines[0]
    assert "done" in lines[-1]


def test_a_run_that_goes_on_counts_only_its_own_images(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    meter = progress.Meter("pretrain r", 1000, done=900)
    now[0] = 10.0
    meter.update(1000)
    assert meter.rate == pytest.approx(10)


def test_a_count_that_starts_anew_is_a_phase_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.Phases("evaluate r") as phases:
        for done in (1, 2, 1, 2):
            phases("features", done, 2)
    assert capsys.readouterr().err.count("evaluate r, features: done") == 2


def test_work_that_is_told_of_once_claims_no_rate(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.Phases("evaluate r") as phases:
        phases("features", 40, 40)
    assert capsys.readouterr().err == "evaluate r, features: done, 0 s\n"


def test_no_time_is_foretold_before_the_first_advance(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    monkeypatch.setenv("MIMCORE_PROGRESS", str(tmp_path / "progress.json"))
    phases = progress.Phases("evaluate r")
    found = []
    for done in (8, 16, 24):
        phases("testing", done, 208)
        found.append(json.loads((tmp_path / "progress.json").read_text())["left_seconds"])
        now[0] += 2
    assert found[0] is None
    assert found[1:] == pytest.approx([48.0, 46.0])  # 4 images/s


def test_nothing_says_done_after_a_failure(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RuntimeError), progress.Phases("evaluate r") as phases:
        phases("training", 1, 2)
        raise RuntimeError
    assert "done" not in capsys.readouterr().err


def test_whoever_started_the_process_can_read_how_far_it_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "progress.json"
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    monkeypatch.setenv("MIMCORE_PROGRESS", str(file))
    meter = progress.Meter("pretrain r", 400)
    now[0] = 2.0
    meter.update(100)
    assert json.loads(file.read_text()) == {
        "title": "pretrain r",
        "unit": "images",
        "done": 100,
        "total": 400,
        "rate": 50.0,
        "left_seconds": 6.0,
    }
    now[0] = 2.5
    meter.update(150)
    assert json.loads(file.read_text())["done"] == 100  # at most once a second
    monkeypatch.setenv("MIMCORE_PROGRESS", str(tmp_path / "nowhere" / "progress.json"))
    progress.Meter("pretrain r", 400).update(1)  # a file that cannot be written stops no training


def test_slow_work_is_counted_by_the_minute(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with progress.Meter("probe", 6, unit="timings") as meter:
        now[0] = 90.0
        meter.update(6)
    assert "4 timings/min" in capsys.readouterr().err
