"""What a run tells while it trains."""

import time
from pathlib import Path

import pytest
import small_run
import torch

from mimcore.bench.profile import profiled
from mimcore.errors import UserError
from mimcore.training.live import Watch, matrix_rate, writer
from mimcore.training.state import Run, start_run
from mimcore.training.step import train_step

IMAGES = torch.randint(0, 256, (16, 3, 32, 32), dtype=torch.uint8)


@pytest.fixture
def run() -> Run:
    return start_run(small_run.definition(), torch.device("cpu"))


def test_figures_are_those_of_the_steps_between(run: Run, tmp_path: Path) -> None:
    rate = matrix_rate(run.device, "float32")
    watch = Watch(run, 1e6, tmp_path, [], seconds=0.0)

    def slowly() -> object:
        for _ in range(4):
            time.sleep(0.05)
            yield IMAGES

    begun = time.perf_counter()
    for images in watch.waiting(slowly()):
        train_step(run, images)
    spent = time.perf_counter() - begun
    figures = watch.figures()
    assert figures["images_per_second"] == pytest.approx(4 * 16 / spent, rel=0.2)
    assert figures["data_wait_share"] == pytest.approx(0.2 / spent, rel=0.3)
    assert figures["model_flops_utilisation"] == pytest.approx(4 * 16 * 1e6 / spent / rate, rel=0.9)
    assert figures["gradient_norm"] == float(run.gradient_norm)
    assert figures["learning_rate"] == run.schedule.learning_rate(3)
    assert "waits for data" in watch.note()
    assert watch.figures()["images_per_second"] == 0, "a report begins anew"


@pytest.mark.filterwarnings("ignore")  # of these libraries
@pytest.mark.parametrize("name", ["dvclive", "tensorboard"])
def test_live_files_hold_the_figures(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # DVCLive looks at a repository about it, and leaves its files open
    pytest.importorskip(name)
    write = writer(name, tmp_path)
    for seen, value in ((16, 1.5), (32, 2.5)):
        write(seen, {"gradient_norm": value})
    if name == "dvclive":
        lines = (tmp_path / "dvclive/plots/metrics/gradient_norm.tsv").read_text().splitlines()
        assert [line.split("\t")[-2:] for line in lines[1:]] == [["16", "1.5"], ["32", "2.5"]]
    else:
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        found = EventAccumulator(str(tmp_path / "tensorboard")).Reload().Scalars("gradient_norm")
        assert [(point.step, point.value) for point in found] == [(16, 1.5), (32, 2.5)]


def test_a_writer_that_is_missing_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "dvclive.live", None)
    with pytest.raises(UserError, match=r"execution\.live: 'dvclive' is not installed"):
        writer("dvclive", tmp_path)


def test_a_profile_accounts_for_the_step(run: Run, tmp_path: Path) -> None:
    found = profiled(run, [IMAGES] * 5, tmp_path / "trace.json", steps=3)
    assert (tmp_path / "trace.json").stat().st_size > 1000
    assert all(milliseconds > 0 for milliseconds in found.values())
    assert found["backward"] > found["data wait and copy"]
    assert found["other"] < sum(found.values()) / 2
