"""Clusters of features: what the strategy `cluster` does, beside scikit-learn's KMeans, and faiss's where it is installed.

python benchmarks/cluster.py

Features lie around directions of unequal popularity, in a Parquet file as `mimcore features` writes it. Each way reads it,
finds clusters and says the cluster of each image, in a process of its own with all the threads that it takes; seconds are
without imports. Peers read the whole file, begin once, and take 25 rounds of Lloyd's at most, as faiss does by default (on
up to 256 vectors a cluster); scikit-learn's own default are 300. The `error` is the mean squared distance of a vector to
the mean of its cluster: less is better.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

F32 = npt.NDArray[np.float32]
Labels = npt.NDArray[np.integer]
#: Finds so many clusters of the vectors of a file, and the cluster of each.
Way = Callable[[Path, int], Labels]


def write_features(path: Path, images: int, dimensions: int, directions: int) -> None:
    """Vectors around so many directions, of which the first are the most popular (by Zipf's law)."""
    random = np.random.default_rng(0)
    centres = random.normal(size=(directions, dimensions)).astype(np.float32)
    shares = 1 / np.arange(1, directions + 1)
    kinds = random.choice(directions, images, p=shares / shares.sum())
    schema = pa.schema({"key": pa.string(), "feature": pa.list_(pa.float32())})
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for first in range(0, images, 1 << 14):
            own = kinds[first : first + (1 << 14)]
            vectors = centres[own] + random.standard_normal((len(own), dimensions), np.float32)
            keys = [f"{first + number:09d}" for number in range(len(own))]
            writer.write_table(pa.table({"key": keys, "feature": list(vectors)}, schema))


def read_whole(path: Path) -> F32:
    """All vectors, of length 1."""
    column = pq.read_table(path, columns=["feature"])["feature"].combine_chunks()
    vectors: F32 = column.flatten().to_numpy().reshape(len(column), -1)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def mimcore() -> Way:
    from mimcore.sampling.features import Features
    from mimcore.sampling.files import PinnedFile
    from mimcore.sampling.strategies import cluster

    def find(path: Path, clusters: int) -> Labels:
        keys = pq.read_table(path, columns=["key"])
        config = cluster.Config(features=PinnedFile(path=str(path), sha256="0" * 16), clusters=[clusters])
        return cluster.find(keys, Features(keys, config), config)[0]

    return find


def scikit_learn() -> Way:
    from sklearn.cluster import KMeans

    return lambda path, clusters: KMeans(clusters, n_init=1, max_iter=25, random_state=0).fit_predict(read_whole(path))


def faiss() -> Way:
    import faiss

    def find(path: Path, clusters: int) -> Labels:
        vectors = read_whole(path)
        means = faiss.Kmeans(vectors.shape[1], clusters, seed=1)
        means.train(vectors)
        labels: Labels = means.index.search(vectors, 1)[1][:, 0]
        return labels

    return find


WAYS: dict[str, Callable[[], Way]] = {"mimcore": mimcore, "scikit-learn": scikit_learn, "faiss": faiss}


def error(path: Path, labels: Labels, clusters: int) -> float:
    """The mean squared distance to the mean of the cluster."""
    vectors = read_whole(path)
    order = np.argsort(labels, kind="stable")
    counts = np.bincount(labels, minlength=clusters)
    present = counts > 0
    sums = np.add.reduceat(vectors[order].astype(np.float64), np.cumsum(counts)[present] - counts[present])
    # Of vectors of length 1, the square of what a mean lacks of it.
    return float(1 - (np.square(sums).sum(axis=1) / counts[present]).sum() / len(vectors))


def child(way: str, path: Path, clusters: int) -> None:
    """Find clusters once, in this process alone; print seconds, MiB at most, and the error."""
    find = WAYS[way]()
    started = time.perf_counter()
    labels = find(path, clusters)
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps([seconds, peak, error(path, labels, clusters)]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=200_000)
    parser.add_argument("--dimensions", type=int, default=384)
    parser.add_argument("--clusters", type=int, default=1000)
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=list(WAYS))
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write the rows here")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        way, path, clusters = options.child
        child(way, Path(path), int(clusters))
        return
    runs: dict[str, list[list[float]]] = {way: [] for way in options.ways}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "features.parquet"
        write_features(path, options.images, options.dimensions, options.clusters)
        for _ in range(options.repeats):  # in turns, so that a slow minute strikes all
            for way in runs:
                command = [sys.executable, __file__, "--child", way, str(path), str(options.clusters)]
                runs[way].append(json.loads(subprocess.check_output(command, text=True)))
    setting = f"{options.images:,} images, {options.dimensions} numbers, {options.clusters:,} clusters"
    table = Table("way", "seconds", "times ours", "MiB", "error", "over ours", title=setting)
    found = {way: [median(values) for values in zip(*own, strict=True)] for way, own in runs.items()}
    rows: list[dict[str, Any]] = []
    seconds0, _, error0 = found["mimcore"]
    for way, (seconds, peak, squared) in found.items():
        ratios = f"{seconds / seconds0:.2f}", f"{squared / error0:.3f}"
        table.add_row(way, f"{seconds:.1f}", ratios[0], f"{peak:.0f}", f"{squared:.4f}", ratios[1])
        for value, unit in ((seconds, "s"), (peak, "MiB"), (squared, "mean squared distance")):
            rows.append(
                {"benchmark": "cluster", "setting": setting, "implementation": way, "value": value, "unit": unit}
            )
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2) + "\n")
    Console().print(table)


if __name__ == "__main__":
    main()
