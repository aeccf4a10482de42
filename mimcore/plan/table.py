"""What a study would cost, for the terminal and as JSON."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from rich.table import Table

from mimcore.plan.price import Priced, Total

#: Prefixes of powers of 1000, for operations and bytes.
PREFIXES = ("", "k", "M", "G", "T", "P", "E", "Z", "Y")


def table(verbs: Mapping[str, Total], whole: Total, title: str) -> Table:
    """A line for each verb, and their sum."""
    found = Table(title=title, title_justify="left", show_footer=True)
    found.add_column("stage", footer="all")
    for name, text in _cells(whole).items():
        found.add_column(name, justify="right", footer=text)
    for verb, one in verbs.items():
        found.add_row(verb, *_cells(one).values())
    return found


def _cells(total: Total) -> dict[str, str]:
    counted = total.images > 0
    return {
        "stages": f"{total.stages:,}",
        "images": f"{total.images:,}" if counted else "",
        "FLOPs": scaled(total.flops) if counted else "",
        "kept": f"{scaled(total.stored_bytes)}B" if total.stored_bytes else "",
        "time": "?" if total.device_seconds is None else clock(total.device_seconds),
    }


def sentences(whole: Total, devices: int, where: str, price: float | None, missing: Sequence[Priced]) -> list[str]:
    """What the table does not say."""
    if not whole.stages:
        return ["Nothing is stale; price the whole study with --all."]
    if whole.device_seconds is None:
        return [
            f"How long it takes is not known for {len(missing)} of {whole.stages} stages: time a few steps here with --probe, or "
            "name a GPU, such as --gpu h100."
        ]
    several = f", {devices} stages at once" if devices > 1 else ""
    found = [
        f"{where}: {clock(whole.device_seconds)} of work, {clock(whole.wall_seconds or 0)} from start to end{several}."
    ]
    if whole.money is not None:
        found.append(f"At {price:g} an hour of one device: {whole.money:,.2f}.")
    return found


def rows(
    priced: Sequence[Priced], verbs: Mapping[str, Total], whole: Total, about: Mapping[str, Any]
) -> dict[str, Any]:
    """Everything, as JSON."""
    return {
        **about,
        "total": asdict(whole),
        "verbs": {verb: asdict(one) for verb, one in verbs.items()},
        "stages": [
            {"stage": one.stage.name, **asdict(one.counted), "seconds": one.seconds, "after": list(one.stage.after)}
            for one in priced
        ],
    }


def scaled(value: float) -> str:
    """Write a number with the prefix of its power of 1000: ``1.24 T``."""
    power = 0
    while abs(value) >= 1000 and power < len(PREFIXES) - 1:
        value, power = value / 1000, power + 1
    return f"{value:.3g} {PREFIXES[power]}"


def clock(seconds: float) -> str:
    """Write a time in its natural unit."""
    for limit, unit, name in ((90, 1, "s"), (5400, 60, "min"), (48 * 3600, 3600, "h")):
        if seconds < limit:
            return f"{seconds / unit:.3g} {name}"
    return f"{seconds / 86400:.3g} days"
