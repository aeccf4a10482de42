"""From what was measured to the one thing to change."""

import math
from dataclasses import dataclass

#: Part of a step spent waiting below which nothing is worth a change.
WAITS_ENOUGH = 0.05
#: How many times longer the short side of the images is than it need be before packing is worth its disk.
LARGE = 1.5
#: Above as many threads, Python's own part of each image limits them (docs/loader.md).
MANY_THREADS = 4


@dataclass(frozen=True)
class Figures:
    """What was measured of a pool and a run; times are seconds for an image, on one core but for the step."""

    read: float
    decode: float
    crop: float
    collate: float
    #: To the device; None where there is none to go to.
    transfer: float | None
    #: Of the device, all of its cores.
    step: float
    #: Part of the time of a loop of steps that was spent waiting for data, 0 to 1.
    waiting: float
    #: Images per second of that loop.
    rate: float
    workers: int
    worker_kind: str
    cores: int
    device: str
    #: Whether the decoded images of the run stay in memory after the first epoch.
    cached: bool
    #: Shorter side of half of the images, pixels.
    short_side: float
    #: Shorter side of what the model sees, pixels.
    image_side: int
    #: How the pool is kept: its format, and whether that is on S3.
    format: str
    remote: bool
    #: Bytes of half of the encoded images.
    bytes: float

    @property
    def data(self) -> float:
        """Seconds of one core that an image takes before it is in a batch."""
        return self.read + self.decode + self.crop + self.collate

    @property
    def workers_needed(self) -> int:
        """Workers, each a core of its own, that keep up with the step."""
        return max(1, math.ceil(self.data / self.step))


def packed_side(image_side: int) -> int:
    """The short side to pack to for a model: 8/7 of what it sees, as 256 pixels are usual for 224; a multiple of 32."""
    return 32 * math.ceil(image_side * 8 / 7 / 32)


def advice(figures: Figures) -> str:
    """The one thing to change, in a sentence that begins with it."""
    f = figures
    waits = f"a step waits {f.waiting:.0%} of its time for data"
    if f.cached:
        return "Nothing: the decoded images fit into execution.image_cache_mib, so that after the first epoch they come from memory."
    if f.waiting < WAITS_ENOUGH:
        return f"Nothing: {waits}."
    side = packed_side(f.image_side)
    times = f.short_side / side
    large = times >= LARGE and f.format != "packed"
    pack = f"'format: packed, short_side: {side}'"
    if f.read > f.decode + f.crop:
        slow = f"reading takes {_ms(f.read)} of the {_ms(f.data)} that an image takes, and {waits}"
        if f.format == "parquet":
            return f"Pack the pool ({pack}): from a Parquet file a whole row group is read for an image; {slow}."
        if f.remote:
            return f"Pack the pool to a local disk ({pack}), or give its cache more room: {slow}."
        return f"Put the pool on a faster disk of this machine: {slow}."
    if f.device == "cpu":
        return _on_cpu(f, waits, pack, times, large)
    enough = f.workers_needed
    if f.workers < enough <= f.cores:
        return f"Set execution.workers to {enough}: {waits}, and with {f.workers} so many are too few{_processes(f, enough)}."
    if large:
        return f"Pack the pool ({pack}): its images are {times:.1f} times as long on their short side, and {waits}."
    if f.workers < f.cores:
        return f"Set execution.workers to {f.cores}: {waits}, and {enough} cores would keep up{_processes(f, f.cores)}."
    if f.worker_kind == "thread" and f.workers > 1:
        return f"Set execution.worker_kind to process: {waits}, though {f.workers} threads are at work."
    return (
        f"Take a machine with {enough} cores for this device, or repeated_augmentation, which decodes an image once for"
        f" several crops: {waits}, and {f.cores} cores are all at work."
    )


def _on_cpu(f: Figures, waits: str, pack: str, times: float, large: bool) -> str:
    if large:
        return f"Pack the pool ({pack}): its images are {times:.1f} times as long on their short side, and {waits}."
    if f.workers == 0 and f.cores > 1:
        return f"Set execution.workers to 1: {waits}, and none is at work beside it."
    return (
        f"Nothing cheap: {waits}, and training and decoding share {f.cores} cores; repeated_augmentation decodes an image"
        " once for several crops."
    )


def _processes(f: Figures, workers: int) -> str:
    many = workers > MANY_THREADS and f.worker_kind == "thread"
    return ", and execution.worker_kind to process, as so many threads hinder one another" if many else ""


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:.2g} ms" if seconds < 0.0995 else f"{1000 * seconds:,.0f} ms"
