"""The one thing to change, from figures that are made up."""

from dataclasses import replace

import pytest

from mimcore.bench.advice import Figures, advice, packed_side

#: A GPU that takes 1,000 images a second, and images that take 5 ms of a core.
SLOW = Figures(
    read=0.0005,
    decode=0.0039,
    crop=0.0004,
    collate=0.0001,
    transfer=0.00001,
    step=0.001,
    waiting=0.6,
    rate=400.0,
    workers=2,
    worker_kind="thread",
    cores=16,
    device="cuda",
    cached=False,
    short_side=256.0,
    image_side=224,
    format="tar",
    remote=False,
    bytes=30_000.0,
)


@pytest.mark.parametrize(
    ("change", "begins", "says"),
    [
        ({}, "Set execution.workers to 5: a step waits 60% of its time for data", "execution.worker_kind to process"),
        ({"step": 0.002}, "Set execution.workers to 3: ", "with 2 so many are too few."),
        ({"waiting": 0.01}, "Nothing: a step waits 1% of its time", ""),
        ({"cached": True}, "Nothing: the decoded images fit into execution.image_cache_mib", ""),
        ({"cores": 4, "short_side": 1024.0}, "Pack the pool ('format: packed, short_side: 256')", "4.0 times as long"),
        (
            {"cores": 4, "short_side": 1024.0, "format": "packed"},
            "Set execution.workers to 4: ",
            "5 cores would keep up",
        ),
        ({"cores": 4}, "Set execution.workers to 4: ", ""),
        ({"workers": 5, "cores": 5}, "Set execution.worker_kind to process: ", "though 5 threads are at work"),
        ({"workers": 4, "cores": 4, "worker_kind": "process"}, "Take a machine with 5 cores for this device", "60%"),
        ({"read": 0.02}, "Put the pool on a faster disk of this machine: reading takes 20 ms of the 24 ms", ""),
        ({"read": 0.02, "remote": True}, "Pack the pool to a local disk", "or give its cache more room"),
        ({"read": 0.02, "format": "parquet"}, "Pack the pool ", "a whole row group is read"),
        ({"device": "cpu", "workers": 0}, "Set execution.workers to 1: ", ""),
        ({"device": "cpu", "workers": 0, "short_side": 600.0}, "Pack the pool ", "2.3 times as long"),
        ({"device": "cpu", "workers": 1}, "Nothing cheap: ", "share 16 cores"),
    ],
)
def test_one_thing_to_change(change: dict[str, object], begins: str, says: str) -> None:
    said = advice(replace(SLOW, **change))  # type: ignore[arg-type]
    assert said.startswith(begins)
    assert says in said
    assert said.endswith(".")
    assert "\n" not in said


def test_workers_that_keep_up_are_enough() -> None:
    """As many cores, each making images at its own rate, make at least what the step takes."""
    for step in (0.0007, 0.001, 0.0024, 0.005, 1.0):
        figures = replace(SLOW, step=step)
        assert figures.workers_needed / figures.data >= 1 / step
        assert (figures.workers_needed - 1) / figures.data < 1 / step


def test_the_side_to_pack_to_is_that_of_imagenet() -> None:
    assert [packed_side(side) for side in (224, 96, 384, 32)] == [256, 128, 448, 64]
