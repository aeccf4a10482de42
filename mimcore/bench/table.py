"""What was measured, for the terminal and as rows of JSON."""

from typing import Any

from rich.table import Table

from mimcore.bench.advice import Figures

#: What each stage is, by the field of ``Figures``.
STAGES = {
    "read": "from the pool, not from memory",
    "decode": "at the scale that the crop needs",
    "crop": "cut out and resampled",
    "collate": "copied into a batch",
    "transfer": "pinned and copied to the device",
    "step": "forward, backward, optimiser; the whole device",
}


def table(figures: Figures, title: str) -> Table:
    """Images per second of each stage, and milliseconds of an image."""
    found = Table(title=title, title_justify="left")
    found.add_column("stage")
    found.add_column("images/s", justify="right")
    found.add_column("ms an image", justify="right")
    found.add_column("what", overflow="fold")
    for name, what in STAGES.items():
        seconds = getattr(figures, name)
        if seconds is None:
            found.add_row(name, "-", "-", "the images stay where they are")
        elif seconds < 1e-7:
            found.add_row(name, "-", "-", "done by the step, on the device")
        else:
            found.add_row(name, f"{1 / seconds:,.0f}", f"{1000 * seconds:.3g}", what)
    return found


def sentences(figures: Figures) -> list[str]:
    """What the table does not say."""
    f = figures
    kind = {"thread": "thread", "process": "process"}[f.worker_kind]
    workers = (
        f"{f.workers} {kind}{'' if f.workers == 1 else 'es' if kind == 'process' else 's'}"
        if f.workers
        else "no worker"
    )
    return [
        f"Read to collate: {1 / f.data:,.0f} images/s on one core; {f.workers_needed} of {f.cores} cores would keep up with the"
        f" step ({f.device}).",
        f"Training with {workers}: {f.rate:,.0f} images/s, {f.waiting:.0%} of a step spent waiting for data.",
        f"Half of the images are at least {f.short_side:,.0f} pixels on their short side, {f.bytes / 1024:,.0f} KiB; the model sees"
        f" {f.image_side}.",
    ]


def rows(figures: Figures, setting: str) -> list[dict[str, Any]]:
    """Rows as those of ``benchmarks/``."""
    found = [
        (name, 1 / seconds, "images/s")
        for name in STAGES
        if (seconds := getattr(figures, name)) is not None and seconds > 1e-7
    ]
    found += [
        ("read to collate", 1 / figures.data, "images/s"),
        ("training", figures.rate, "images/s"),
        ("waiting", figures.waiting, "fraction of a step"),
    ]
    names = ("benchmark", "setting", "implementation", "value", "unit")
    return [dict(zip(names, ("bench-data", setting, *one), strict=True)) for one in found]
