"""From counted stages to hours and money: arithmetic only."""

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mimcore.plan.gpus import peak
from mimcore.plan.work import Counted, Stage


@dataclass(frozen=True)
class Priced:
    """A stage with its cost; ``seconds`` is None where nothing says how long it takes."""

    stage: Stage
    counted: Counted
    seconds: float | None


@dataclass(frozen=True)
class Total:
    """Sums over stages. ``wall_seconds`` is the time from start to end on so many devices, a stage on one at a time."""

    stages: int
    images: int
    flops: float
    stored_bytes: int
    device_seconds: float | None
    wall_seconds: float | None
    money: float | None


def on_gpu(counted: Counted, name: str, utilisation: float) -> float:
    """Seconds that the matrix products take on a GPU at a part of its peak rate; a light stage takes none."""
    return counted.flops / (peak(name, counted.precision) * utilisation)


def totals(priced: Sequence[Priced]) -> dict[str, Total]:
    """Sums by verb, in the order of the pipeline."""
    verbs = dict.fromkeys(one.stage.verb for one in priced)
    return {verb: total([one for one in priced if one.stage.verb == verb], 1, None) for verb in verbs}


def total(priced: Sequence[Priced], devices: int, price: float | None) -> Total:
    """Sums over stages.

    Args:
        priced: the stages.
        devices: how many stages run at once, each on a device of its own.
        price: of an hour of one device, if money is asked for.
    """
    seconds = {one.stage.name: one.seconds for one in priced}
    known = {name: value for name, value in seconds.items() if value is not None}
    whole = sum(known.values()) if len(known) == len(seconds) else None
    return Total(
        stages=len(priced),
        images=sum(one.counted.images for one in priced),
        flops=sum(one.counted.flops for one in priced),
        stored_bytes=sum(one.counted.stored_bytes for one in priced),
        device_seconds=whole,
        wall_seconds=None if whole is None else wall([one.stage for one in priced], known, devices),
        money=None if whole is None or price is None else whole / 3600 * price,
    )


def wall(stages: Sequence[Stage], seconds: Mapping[str, float], devices: int) -> float:
    """Time from start to end if ``devices`` stages run at once: of those that may start, the one with the longest way to
    the end goes first (list scheduling by the critical path; Graham 1969: at most twice the best possible).
    """
    names = {stage.name for stage in stages}
    after = {stage.name: [name for name in stage.after if name in names] for stage in stages}
    unlocks: dict[str, list[str]] = {name: [] for name in names}
    for name, needed in after.items():
        for one in needed:
            unlocks[one].append(name)
    ahead: dict[str, float] = {}

    def way(name: str) -> float:
        if name not in ahead:
            ahead[name] = seconds[name] + max((way(one) for one in unlocks[name]), default=0.0)
        return ahead[name]

    waiting = {name: len(needed) for name, needed in after.items()}
    ready = [(-way(name), name) for name in sorted(names) if not waiting[name]]
    heapq.heapify(ready)
    running: list[tuple[float, str]] = []
    now = 0.0
    while ready or running:
        while ready and len(running) < devices:
            _, name = heapq.heappop(ready)
            heapq.heappush(running, (now + seconds[name], name))
        now, done = heapq.heappop(running)
        for name in unlocks[done]:
            waiting[name] -= 1
            if not waiting[name]:
                heapq.heappush(ready, (-way(name), name))
    return now
