"""Draws from COYO-shaped metadata to a Parquet manifest: ours beside DuckDB, Polars, pandas and pyarrow.

python benchmarks/sampling.py                       # 20 million rows
python benchmarks/sampling.py --rows 20 --rows 100  # is it linear?

Metadata is made once (17 columns, about 3 GB for 20 million rows) and kept in --folder. Each draw runs in a process of
its own; seconds count from the call to the manifest on disk, without imports, and memory is the process's peak.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from multiprocessing import Pool
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

FILE_ROWS = 500_000
#: Columns of the manifest, by the name of the setting.
COLUMNS = {
    "keys": ["id"],
    "text": ["id", "url", "text", "clip_similarity_vitl14"],
    "all": [],
}
SYLLABLES = [
    "ka",
    "lo",
    "mi",
    "ren",
    "ta",
    "so",
    "vi",
    "den",
    "bur",
    "gra",
    "ple",
    "sha",
    "ton",
    "wel",
    "qui",
    "jo",
    "har",
    "nes",
]


# --- the metadata -----------------------------------------------------------------------------------------------------


def make_file(folder: Path, number: int) -> None:
    """One file of the shape of COYO-700M's: ids in no order, texts with the frequencies of words, scores."""
    path = folder / f"part-{number:05d}.parquet"
    if path.is_file():
        return
    rows, random = FILE_ROWS, np.random.default_rng([0, number])
    vocabulary, hosts = words(0, 50_000), words(1, 4_000)
    lengths = np.minimum(random.geometric(0.11, rows) + 2, 60)
    chosen = vocabulary.take(pa.array(zipf(random, int(lengths.sum()), len(vocabulary))))
    ends = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    text = pc.binary_join(pa.ListArray.from_arrays(pa.array(ends), chosen), " ")
    host = hosts.take(pa.array(zipf(random, rows, len(hosts))))
    slug = pc.replace_substring(pc.utf8_slice_codeunits(text, 0, 40), " ", "-")
    url = pc.binary_join_element_wise("https://cdn.", host, ".com/", hexadecimal(random, rows), "/", slug, ".jpg", "")
    ids = 10**12 + 4 * rows * number + random.permutation(4 * rows)[:rows]
    width = random.integers(200, 2000, rows)
    columns = {
        "id": ids,
        "url": url,
        "text": text,
        "width": width,
        "height": (width * random.uniform(0.6, 1.6, rows)).astype(np.int64),
        "image_phash": hexadecimal(random, rows),
        "text_length": pc.utf8_length(text).cast(pa.int64()),
        "word_count": lengths.astype(np.int64),
        "num_tokens_bert": (1.4 * lengths).astype(np.int64) + 2,
        "num_tokens_gpt": (1.3 * lengths).astype(np.int64) + 1,
        "num_faces": random.poisson(0.3, rows),
        "clip_similarity_vitb32": random.beta(8, 20, rows),
        "clip_similarity_vitl14": random.beta(6, 24, rows),
        "nsfw_score_opennsfw2": random.beta(0.5, 9, rows),
        "nsfw_score_gantman": random.beta(0.5, 9, rows),
        "watermark_score": random.beta(0.6, 2, rows),
        "aesthetic_score_laion_v2": 10 * random.beta(9, 9, rows),
    }
    pq.write_table(pa.table(columns), path.with_suffix(".part"))
    path.with_suffix(".part").rename(path)


def words(seed: int, count: int) -> pa.Array:
    random = np.random.default_rng(seed)
    return pa.array(["".join(random.choice(SYLLABLES, random.integers(1, 4))) for _ in range(count)])


def zipf(random: np.random.Generator, count: int, below: int) -> Any:
    return np.minimum((20 * random.pareto(0.9, count)).astype(np.int64), below - 1)


def hexadecimal(random: np.random.Generator, count: int) -> pa.Array:
    digits = random.bytes(8 * count).hex().encode()
    return pa.array(np.frombuffer(digits, "S16").astype("U16"))


# --- the draws --------------------------------------------------------------------------------------------------------


def with_mimcore(files: list[Path], images: int, strategy: str, columns: list[str], out: Path) -> Callable[[], None]:
    from mimcore.sampling.manifest import write_manifest
    from mimcore.sampling.pipeline import load_draw
    from mimcore.sampling.source import Source

    chooser = load_draw(strategy, {"column": "num_faces"} if strategy == "stratified" else {}, "subset")

    def draw() -> None:
        source = Source(files, key="id")
        drawn = chooser.draw(source, source.left(), images, "s0")
        write_manifest(out, source, drawn, columns or None)

    return draw


def with_duckdb(files: list[Path], images: int, strategy: str, columns: list[str], out: Path) -> Callable[[], None]:
    return _duckdb(files, images, strategy, columns, out, "true")


def with_duckdb_by_hand(
    files: list[Path], images: int, strategy: str, columns: list[str], out: Path
) -> Callable[[], None]:
    """The same, told a hash below which a few more rows lie than are wanted; strata have no such one in common."""
    if strategy == "stratified":
        raise NotImplementedError("no one hash cuts all strata")
    share = 1.02 * images / (len(files) * FILE_ROWS)
    return _duckdb(files, images, strategy, columns, out, f"hash(id) < {int(share * 2**64)}")


def _duckdb(
    files: list[Path], images: int, strategy: str, columns: list[str], out: Path, where: str
) -> Callable[[], None]:
    import duckdb

    names = ", ".join(columns) or "*"
    table = f"read_parquet({[str(file) for file in files]})"
    query = f"select {names} from {table} where {where} order by hash(id) limit {images}"
    if strategy == "stratified":
        turn = "row_number() over (partition by num_faces order by hash(id))"
        query = f"select {names} from {table} where {where} order by {turn}, hash(num_faces) limit {images}"
    return lambda: duckdb.execute(f"copy ({query}) to '{out}' (format parquet, compression zstd)") and None


def with_polars(files: list[Path], images: int, strategy: str, columns: list[str], out: Path) -> Callable[[], None]:
    import polars as pl

    def draw() -> None:
        found = pl.scan_parquet(files)
        order = pl.col("id").hash(seed=0)
        if strategy == "stratified":
            order = order.rank("ordinal").over("num_faces")
        chosen = found.bottom_k(images, by=order)
        (chosen.select(columns) if columns else chosen).sink_parquet(out, compression="zstd")

    return draw


def with_pandas(files: list[Path], images: int, strategy: str, columns: list[str], out: Path) -> Callable[[], None]:
    import pandas as pd

    def draw() -> None:
        looked_at = ["id", "num_faces"] if strategy == "stratified" else ["id"]
        frames = [pd.read_parquet(file, columns=looked_at) for file in files]
        found = pd.concat(frames, keys=range(len(files)))
        order = pd.Series(pd.util.hash_array(found["id"].to_numpy()), found.index)
        if strategy == "stratified":
            order = order.groupby(found["num_faces"]).rank("first")
        chosen = order.nsmallest(images).index
        parts = []
        for number, file in enumerate(files):
            places = chosen[chosen.get_level_values(0) == number].get_level_values(1)
            parts.append(pd.read_parquet(file, columns=columns or None).iloc[places])
        pd.concat(parts, keys=range(len(files))).loc[chosen].to_parquet(out, compression="zstd", index=False)

    return draw


def with_pyarrow(files: list[Path], images: int, strategy: str, columns: list[str], out: Path) -> Callable[[], None]:
    import pyarrow.dataset as ds

    from mimcore.data.hashing import mix

    def draw() -> None:
        looked_at = ["id", "num_faces"] if strategy == "stratified" else ["id"]
        dataset = ds.dataset([str(file) for file in files])
        found = dataset.to_table(columns=looked_at)
        hashes = mix(found["id"].to_numpy().astype(np.uint64))
        if strategy == "stratified":
            faces = found["num_faces"].to_numpy()
            grouped = np.lexsort((hashes, faces))
            starts = np.flatnonzero(np.diff(faces[grouped], prepend=-1))
            turns = np.empty(len(faces), np.int64)
            turns[grouped] = np.arange(len(faces)) - np.repeat(starts, np.diff(starts, append=len(faces)))
            chosen = np.lexsort((faces, turns))[:images]
        else:
            chosen = np.argpartition(hashes, images)[:images]
            chosen = chosen[np.argsort(hashes[chosen])]
        rows = dataset.scanner(columns=columns or None).take(pa.array(np.sort(chosen)))
        rows = rows.take(pa.array(np.argsort(np.argsort(chosen)))) if columns else rows
        pq.write_table(rows, out, compression="zstd")

    return draw


WAYS = {
    "mimcore": with_mimcore,
    "duckdb": with_duckdb,
    "duckdb, cut by hand": with_duckdb_by_hand,
    "polars": with_polars,
    "pandas": with_pandas,
    "pyarrow": with_pyarrow,
}


def child(order: dict[str, Any]) -> None:
    """Draw once, in this process alone; print seconds and MiB."""
    files = [Path(file) for file in order["files"]]
    with tempfile.TemporaryDirectory(dir=files[0].parent) as folder:
        out = Path(folder) / "manifest.parquet"
        draw = WAYS[order["way"]](files, order["images"], order["strategy"], order["columns"], out)
        pa.array([0]).to_pandas() if find_spec("pandas") else None  # pyarrow imports it at its first need
        start = time.perf_counter()
        draw()
        seconds = time.perf_counter() - start
        ids = pq.read_table(out, columns=["id"])["id"]
        assert len(ids) == order["images"] == len(pc.unique(ids)), f"{order['way']} drew {len(ids)} rows"
    print(json.dumps([seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024]))


# --- the comparison ---------------------------------------------------------------------------------------------------


def measure(order: dict[str, Any]) -> tuple[float, float] | str:
    command = [sys.executable, __file__, "--child", json.dumps(order)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=1800)
    except subprocess.TimeoutExpired:
        return "over 30 min"
    if done.returncode:
        if "NotImplementedError" in done.stderr:
            return "-"
        return (
            "not installed"
            if "ModuleNotFoundError" in done.stderr
            else f"failed ({done.stderr.strip().splitlines()[-1:] or done.returncode})"
        )
    seconds, peak = json.loads(done.stdout.splitlines()[-1])
    return seconds, peak


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, action="append", help="millions of rows; again for another size (20)")
    parser.add_argument("--images", type=int, default=1_000_000, help="rows to draw")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "mimcore-metadata")
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=list(WAYS))
    parser.add_argument("--columns", nargs="+", default=list(COLUMNS), choices=list(COLUMNS))
    parser.add_argument("--strategies", nargs="+", default=["random", "stratified"])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the rows here")
    parser.add_argument("--child", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options.child)
        return
    sizes = [millions * 1_000_000 // FILE_ROWS for millions in options.rows or [20]]
    options.folder.mkdir(parents=True, exist_ok=True)
    with Pool() as pool:
        pool.starmap(make_file, [(options.folder, number) for number in range(max(sizes))], chunksize=1)
    rows, medians = [], {}
    table = Table("rows", "draw", "columns", "way", "seconds", "times ours", "MiB")
    for size in sizes:
        files = [str(options.folder / f"part-{number:05d}.parquet") for number in range(size)]
        for strategy in options.strategies:
            for name in options.columns:
                found: dict[str, list[tuple[float, float]]] = {way: [] for way in options.ways}
                failed = {}
                for _ in range(options.repeats):
                    for way in options.ways:
                        if way in failed:
                            continue
                        order = {"way": way, "files": files, "images": options.images, "strategy": strategy}
                        result = measure({**order, "columns": COLUMNS[name]})
                        if isinstance(result, str):
                            failed[way] = result
                        else:
                            found[way].append(result)
                setting = f"{size * FILE_ROWS // 1_000_000}M rows, {strategy}, {name}"
                for way in options.ways:
                    place = [f"{size * FILE_ROWS:,}", strategy, name, way]
                    if way in failed:
                        table.add_row(*place, failed[way], "", "")
                        continue
                    seconds, peak = (median(values) for values in zip(*found[way], strict=True))
                    medians[size, strategy, name, way] = seconds
                    ours = medians.get((size, strategy, name, "mimcore"), float("nan"))
                    table.add_row(*place, f"{seconds:.2f}", f"{seconds / ours:.2f}", f"{peak:.0f}")
                    for value, unit in ((seconds, "s"), (peak, "MiB")):
                        row = {"benchmark": "sampling", "setting": setting, "implementation": way}
                        rows.append({**row, "value": value, "unit": unit})
    for (size, strategy, name, way), seconds in medians.items():
        base = medians.get((sizes[0], strategy, name, way))
        if size != sizes[0] and base:
            table.add_row(f"{size / sizes[0]:g} times", strategy, name, way, f"{seconds / base:.2f} times", "", "")
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2) + "\n")
    Console().print(table)


if __name__ == "__main__":
    main()
