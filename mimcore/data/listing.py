"""The pinned snapshot of a pool: its shards, each with its tag; committed to git, changed only when told to."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mimcore import artifacts
from mimcore.data.pool import Pool, Shard
from mimcore.errors import UserError


@dataclass(frozen=True)
class ScanReport:
    """How a pool differs from its listing.

    ``written`` says whether the listing now is what the pool is; the names are those of shards.
    """

    pool: str
    state: Literal["new", "unchanged", "changed"]
    shards: int
    added: list[str]
    changed: list[str]
    vanished: list[str]
    written: bool

    def sentence(self) -> str:
        """The report for a person, in a line."""
        if self.state == "new":
            return f"pool '{self.pool}': {self.shards} shards listed for the first time."
        if self.state == "unchanged":
            return f"pool '{self.pool}': {self.shards} shards, unchanged."
        parts = [("added", self.added), ("changed", self.changed), ("vanished", self.vanished)]
        counts = ", ".join(f"{len(names)} {what} ({_first(names)})" for what, names in parts if names)
        cure = "the listing was rewritten" if self.written else f"'mimcore scan {self.pool} --adopt' pins it anew"
        return f"pool '{self.pool}': {counts}; {cure}."


def scan(pool: Pool, listing: Path, adopt: bool = False) -> ScanReport:
    """Compare a pool with its listing, and write the listing if there is none or if told to.

    Args:
        pool: made by ``load_pool``; what its format makes by itself is made now.
        listing: ``listings/<pool>.json``.
        adopt: rewrite the listing if the pool has changed.

    Raises:
        UserError: the pool is missing or empty, or the listing broken.
    """
    pool.prepare()
    found = {shard.name: shard for shard in pool.shards()}
    known = {shard.name: shard for shard in read_listing(listing, pool.name)} if listing.is_file() else None
    before = known or {}
    added = sorted(set(found) - set(before))
    vanished = sorted(set(before) - set(found))
    changed = sorted(name for name in set(found) & set(before) if found[name] != before[name])
    same = not (added or vanished or changed)
    written = known is None or (adopt and not same)
    if written:
        _write_listing(listing, pool.name, list(found.values()))
    state: Literal["new", "unchanged", "changed"] = "new" if known is None else "unchanged" if same else "changed"
    return ScanReport(pool.name, state, len(found), added, changed, vanished, written)


def read_listing(listing: Path, name: str | None = None) -> list[Shard]:
    """The shards of a listing, by name.

    Args:
        listing: ``listings/<pool>.json``.
        name: of the pool, for the error message; by default the listing's own.

    Raises:
        UserError: it is missing or broken.
    """
    name = name or listing.stem
    if not listing.is_file():
        raise UserError(f"{listing} is missing: the pool '{name}' was never listed; run 'mimcore scan {name}'.")
    try:
        entries = json.loads(listing.read_text(encoding="utf-8"))["shards"]
        return sorted(Shard(str(entry["name"]), int(entry["bytes"]), str(entry["etag"])) for entry in entries)
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{listing} is broken ({error}); restore it, or delete it and run 'mimcore scan {name}'."
        ) from error


def _write_listing(listing: Path, name: str, shards: list[Shard]) -> None:
    """One line for each shard, so that a difference reads well."""
    lines = ",\n".join("    " + json.dumps(shard._asdict(), ensure_ascii=False) for shard in sorted(shards))
    with artifacts.file(listing) as part:
        text = f'{{\n  "pool": {json.dumps(name, ensure_ascii=False)},\n  "shards": [\n{lines}\n  ]\n}}\n'
        part.write_text(text, encoding="utf-8")


def _first(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
