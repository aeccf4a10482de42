"""Processes that train one run together: the curve of one process, whatever their number, and whatever becomes of them.

Each process imports torch: the cases that are not marked slow take a minute."""

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import small_run
import torch
from safetensors.torch import load_file
from small_run import FILES, Trained

from mimcore.errors import Preempted
from mimcore.launch import launch
from mimcore.training import loop
from mimcore.training.average import Average
from mimcore.training.state import Run

SCRIPT = Path(__file__).with_name("ranked_run.py")
#: Enough for what differs between ranks: the order in which gradients are added.
CLOSE = {"rtol": 2e-3, "atol": 2e-4}


def train(root: Path, name: str, ranks: int, restarts: int = 0, **options: Any) -> tuple[int, Trained]:
    """Train in so many processes; the exit status, and what was trained."""
    command = [sys.executable, str(SCRIPT), str(root), name, json.dumps(options)]
    status = launch(command, ranks, restarts) if ranks > 1 else subprocess.run(command, check=False).returncode
    told = root / f"{name}.told.json"
    return status, Trained(root / "artifacts/runs" / name, json.loads(told.read_text()) if told.exists() else [])


def assert_alike(one: Trained, other: Trained) -> None:
    assert set(one.bytes()) - {"objective.safetensors"} == FILES
    assert set(one.bytes()) == set(other.bytes())
    curves = [pq.read_table(trained.folder / "curve.parquet").to_pylist() for trained in (one, other)]
    for a, b in zip(*curves, strict=True):
        assert (a["images_seen"], a["split"], a["learning_rate"]) == (b["images_seen"], b["split"], b["learning_rate"])
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-4)
        if a["split"] == "train":
            assert a["grad_norm"] == pytest.approx(b["grad_norm"], rel=1e-2)
    weights = [saved(trained) for trained in (one, other)]
    assert set(weights[0]) == set(weights[1])
    for name, weight in weights[0].items():
        torch.testing.assert_close(weight, weights[1][name], **CLOSE)
    assert one.metrics()["facts"] == other.metrics()["facts"]


def saved(trained: Trained) -> dict[str, torch.Tensor]:
    """Every tensor of the artifact: the encoder's and, where it is kept, the decoder's."""
    found = {f"encoder.{n}": t for n, t in load_file(trained.folder / "encoder.safetensors").items()}
    kept = trained.folder / "objective.safetensors"
    return found | (load_file(kept) if kept.exists() else {})


@pytest.mark.parametrize(
    ("ranks", "execution"),
    [
        (2, {"parallel": "ddp", "micro_batch": 3}),
        pytest.param(4, {}, marks=pytest.mark.slow),
        pytest.param(2, {"parallel": "fsdp"}, marks=pytest.mark.slow),
    ],
)
def test_any_number_of_ranks_gives_the_same_curve(
    root: Path, undisturbed: Trained, ranks: int, execution: dict[str, Any]
) -> None:
    status, trained = train(root, f"ranks{ranks}-{len(execution)}", ranks, execution=execution)
    assert status == 0
    assert_alike(trained, undisturbed)


@pytest.mark.slow
def test_clipping_and_averages_are_those_of_one_rank(root: Path) -> None:
    schedule = {"clip_grad": 0.5, "ema_decay": 0.9}
    for name, ranks, how in (("one", 1, {}), ("two", 2, {}), ("parts", 2, {"parallel": "fsdp"})):
        assert train(root, f"average-{name}", ranks, schedule=schedule, execution=how)[0] == 0
    one, two, parts = (Trained(root / f"artifacts/runs/average-{name}") for name in ("one", "two", "parts"))
    assert_alike(two, one)
    assert_alike(parts, one)


SIMMIM = {"module": "simmim", "mask_unit": 8, "keep_decoder": True}


@pytest.mark.parametrize("parallel", ["fsdp", pytest.param("ddp", marks=pytest.mark.slow)])
def test_simmim_its_kept_decoder_and_averages_are_those_of_one_rank(root: Path, parallel: str) -> None:
    declared = small_run.definition(ema_decay=0.9)
    declared["objective"] = SIMMIM
    one = small_run.train(root, f"simmim-one-{parallel}", declared)
    execution = {"parallel": parallel}
    name = f"simmim-{parallel}"
    assert train(root, name, 2, schedule={"ema_decay": 0.9}, objective=SIMMIM, execution=execution)[0] == 0
    two = Trained(root / "artifacts/runs" / name)
    assert {"mask_token", "decoder.0.weight", "decoder.0.bias"} <= set(saved(two))
    assert_alike(two, one)


def test_the_saved_encoder_and_decoder_are_the_average(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against the recursion, from the weights after each step."""
    step, told = loop.train_step, {}

    def watched(run: Run, images: torch.Tensor, read: Any) -> None:
        before = told or {n: p.detach().clone() for n, p in run.objective.named_parameters()}
        step(run, images, read)
        told.update({n: 0.9 * before[n] + 0.1 * p.detach() for n, p in run.objective.named_parameters()})

    monkeypatch.setattr(loop, "train_step", watched)
    declared = small_run.definition(ema_decay=0.9)
    declared["objective"] = small_run.OBJECTIVE | {"keep_decoder": True}
    found = saved(small_run.train(root, "averaged-whole", declared))
    assert {"encoder.patch_embed.proj.weight", "decoder.embed.weight", "decoder.mask_token"} <= set(found)
    for name, expected in told.items():
        torch.testing.assert_close(found[name], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ((2, "fsdp"), (1, "ddp")),
        pytest.param((2, "ddp"), (1, "ddp"), marks=pytest.mark.slow),
        pytest.param((1, "ddp"), (2, "fsdp"), marks=pytest.mark.slow),
    ],
)
def test_a_signal_ends_the_run_at_once_and_another_number_of_ranks_goes_on(
    root: Path, undisturbed: Trained, before: tuple[int, str], after: tuple[int, str]
) -> None:
    name = "-".join(str(part) for part in ("signal", *before, *after))
    told = {"signal": int(signal.SIGUSR1), "rank": before[0] - 1, "at": 12}
    status, ended = train(root, name, before[0], execution={"parallel": before[1]}, **told)
    assert status == Preempted.EXIT_STATUS
    assert not ended.folder.exists()
    status, resumed = train(root, name, after[0], execution={"parallel": after[1]})
    assert status == 0
    assert resumed.told[0] == 13 * 16
    assert_alike(resumed, undisturbed)


def test_a_rank_that_is_killed_restarts_both_and_they_end_as_if_it_had_not(
    root: Path, undisturbed: Trained, capfd: pytest.CaptureFixture[str]
) -> None:
    told = {"signal": int(signal.SIGKILL), "rank": 1, "at": 12}
    status, trained = train(root, "one-killed", 2, restarts=1, execution={"checkpoint_seconds": 1e-9}, **told)
    assert status == 0
    assert "a rank ended with status -9; all start again" in capfd.readouterr().err
    assert trained.told[0] in {10 * 16, 11 * 16, 12 * 16}
    assert_alike(trained, undisturbed)


def test_a_mistake_is_not_tried_again(tmp_path: Path) -> None:
    count = "import os, pathlib; (pathlib.Path(os.sys.argv[1]) / str(os.getpid())).touch(); os._exit(2)"
    assert launch([sys.executable, "-c", count, str(tmp_path)], 2, 5) == 2
    assert len(list(tmp_path.iterdir())) <= 2


def test_the_average_is_the_recursion_and_gives_back_the_weights() -> None:
    layer = torch.nn.Linear(2, 2)
    average = Average(layer, 0.75)
    start, told = layer.weight.detach().clone(), layer.weight.detach().clone()
    for step in range(1, 4):
        with torch.no_grad():
            layer.weight.copy_(start + step)
        average.update()
        told = 0.75 * told + 0.25 * (start + step)
    with average.in_force():
        torch.testing.assert_close(layer.weight.detach(), told)
    assert torch.equal(layer.weight.detach(), start + 3)


def test_the_average_is_what_is_validated_and_saved(root: Path, undisturbed: Trained) -> None:
    status, averaged = train(root, "averaged", 1, schedule={"ema_decay": 0.999999})
    assert status == 0
    points = pq.read_table(averaged.folder / "curve.parquet").to_pylist()
    plain = pq.read_table(undisturbed.folder / "curve.parquet").to_pylist()
    train_losses = [[p["loss"] for p in curve if p["split"] == "train"] for curve in (points, plain)]
    assert train_losses[0] == train_losses[1]  # training itself is the same
    val = [p["loss"] for p in points if p["split"] == "val"]
    assert val[-1] == pytest.approx(val[0], rel=1e-3)  # but the average has hardly moved
