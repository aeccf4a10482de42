"""Duplicates among 64-bit perceptual hashes: ours beside DuckDB, Polars and faiss, with planted copies that must be found.

python benchmarks/dedup.py

Three tasks: `equal` keeps of each hash the image whose key has the smallest hash; `pairs` finds every pair of near
hashes; `near` keeps what `dedup` keeps, which no peer does at once. Each runs in a process of its own, with the threads
that it takes by itself; seconds are without imports and without making the hashes. All that do a task find the same
number of images or pairs, or this fails.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from rich.console import Console
from rich.table import Table

from mimcore.data.hashing import mix
from mimcore.sampling.hamming import near_pairs
from mimcore.sampling.strategies import dedup

#: Four bands of 16 bits: hashes that differ in at most three bits agree on one of them.
BITS, BANDS, DISTANCE = 16, 4, 3
#: What finds something in a table of ``row``, ``key`` and ``phash``, and how many it finds.
Way = Callable[[pa.Table], int]


def hashes_with_copies(images: int, copies: int, flips: int) -> npt.NDArray[np.uint64]:
    """Hashes at random, of which so many are copies of others with up to ``flips`` bits changed."""
    random = np.random.default_rng(0)
    hashes = mix(np.arange(images, dtype=np.uint64))
    places = random.permutation(images)[: 2 * copies]
    flipped = np.zeros(copies, np.uint64)
    for _ in range(flips):
        flipped |= np.uint64(1) << random.integers(0, 64, copies, np.uint64)
    hashes[places[:copies]] = hashes[places[copies:]] ^ flipped
    return hashes


# --- one of each hash -------------------------------------------------------------------------------------------------


def kept_by_mimcore(distance: int) -> Way:
    config = dedup.Config(distance=distance)
    return lambda rows: len(dedup.keep(dedup.compact(rows, config, "s0"), config, "s0"))


def equal_duckdb() -> Way:
    import duckdb

    return lambda rows: len(duckdb.sql("select min_by(row, hash(key)) from rows group by phash").to_arrow_table())


def equal_polars() -> Way:
    import polars as pl

    def keep(rows: pa.Table) -> int:
        found = pl.LazyFrame(pl.from_arrow(rows)).with_columns(order=pl.col("key").hash(seed=0))
        return found.sort("order").unique("phash", keep="first").select("row").collect().height

    return keep


# --- every pair of near ones ------------------------------------------------------------------------------------------


def pairs_mimcore() -> Way:
    def find(rows: pa.Table) -> int:
        parts = [
            np.minimum(left, right) * rows.num_rows + np.maximum(left, right)
            for left, right in near_pairs(rows["phash"].to_numpy(), DISTANCE)
        ]
        return len(np.unique(np.concatenate(parts)))

    return find


def pairs_duckdb() -> Way:
    import duckdb

    bands = ", ".join(f"{band << BITS} + ((phash >> {BITS * band}) & {2**BITS - 1})" for band in range(BANDS))
    query = f"""with banded as (select row, phash, unnest([{bands}]) as band from rows)
        select distinct first.row, second.row from banded as first join banded as second using (band)
        where first.row < second.row and bit_count(xor(first.phash, second.phash)) <= {DISTANCE}"""
    return lambda rows: len(duckdb.sql(query).to_arrow_table())


def pairs_polars() -> Way:
    import polars as pl

    def find(rows: pa.Table) -> int:
        frame = pl.LazyFrame(pl.from_arrow(rows.select(["row", "phash"])))
        near = (pl.col("phash") ^ pl.col("phash_right")).bitwise_count_ones() <= DISTANCE
        found = []
        for band in range(BANDS):
            own = frame.with_columns(band=pl.col("phash") // 2 ** (BITS * band) % 2**BITS)
            pairs = own.join(own, on="band").filter(pl.col("row") < pl.col("row_right"), near)
            found.append(pairs.select("row", "row_right").collect(engine="streaming"))
        return pl.concat(found).unique().height

    return find


def pairs_faiss() -> Way:
    import faiss

    def find(rows: pa.Table) -> int:
        vectors = rows["phash"].to_numpy().view(np.uint8).reshape(-1, 8)
        index = faiss.IndexBinaryMultiHash(64, BANDS, BITS)
        index.add(vectors)
        ends, _, found = index.range_search(vectors, DISTANCE + 1)  # nearer than the radius
        return int((np.repeat(np.arange(len(vectors)), np.diff(ends.astype(np.int64))) < found).sum())

    return find


WAYS: dict[str, dict[str, Callable[[], Way]]] = {
    "equal": {"mimcore": lambda: kept_by_mimcore(0), "DuckDB": equal_duckdb, "Polars": equal_polars},
    "pairs": {"mimcore": pairs_mimcore, "faiss": pairs_faiss, "DuckDB": pairs_duckdb, "Polars": pairs_polars},
    "near": {"mimcore": lambda: kept_by_mimcore(DISTANCE)},
}


def child(task: str, way: str, images: int) -> None:
    """Do a task once, in this process alone; print what was found, seconds, and MiB at most and with the rows alone."""
    work = WAYS[task][way]()
    hashes = hashes_with_copies(images, images // 10, 0 if task == "equal" else DISTANCE)
    rows = pa.table({"row": np.arange(images), "key": pa.array(np.arange(images)).cast(pa.string()), "phash": hashes})
    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    started = time.perf_counter()
    found = work(rows)
    seconds = time.perf_counter() - started
    print(json.dumps([found, seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, held]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=20_000_000, help="hashes of 'equal' and 'near'")
    parser.add_argument("--paired", type=int, default=2_000_000, help="hashes of 'pairs'")
    parser.add_argument("--tasks", nargs="+", default=list(WAYS), choices=list(WAYS))
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write the rows here")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        task, way, images = options.child
        child(task, way, int(images))
        return
    rows: list[dict[str, Any]] = []
    table = Table("task", "hashes", "way", "found", "seconds", "times ours", "MiB", "MiB, rows alone")
    for task in options.tasks:
        images = options.paired if task == "pairs" else options.images
        runs: dict[str, list[list[float]]] = {way: [] for way in WAYS[task]}
        for _ in range(options.repeats):  # in turns, so that a slow minute strikes all
            for way in runs:
                command = [sys.executable, __file__, "--child", task, way, str(images)]
                runs[way].append(json.loads(subprocess.check_output(command, text=True)))
        found = {run[0] for own in runs.values() for run in own}
        assert len(found) == 1, f"{task}: not all find the same: {runs}"
        lost = images - min(found) if task != "pairs" else min(found)
        assert lost >= images // 10, f"{task}: {lost} of {images // 10} copies were found"
        ours = median(run[1] for run in runs["mimcore"])
        for way, own in runs.items():
            seconds, peak, held = (median(values) for values in list(zip(*own, strict=True))[1:])
            place = [task, f"{images:,}", way, f"{int(own[0][0]):,}"]
            table.add_row(*place, f"{seconds:.2f}", f"{seconds / ours:.2f}", f"{peak:.0f}", f"{held:.0f}")
            for value, unit in ((seconds, "s"), (peak, "MiB")):
                setting = f"{task}, {images:,} hashes"
                rows.append(
                    {"benchmark": "dedup", "setting": setting, "implementation": way, "value": value, "unit": unit}
                )
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2) + "\n")
    Console().print(table)


if __name__ == "__main__":
    main()
