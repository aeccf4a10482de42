"""Near-duplicate removal over many 64-bit perceptual hashes: seconds and memory, with planted copies that must go.

python benchmarks/dedup.py --images 20000000 --distance 3
"""

import argparse
import resource
import time

import numpy as np
import pyarrow as pa

from mimcore.data.hashing import mix
from mimcore.sampling.strategies import dedup


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=20_000_000)
    parser.add_argument("--distance", type=int, default=3)
    parser.add_argument("--copies", type=float, default=0.1, help="part of the images that are near copies")
    options = parser.parse_args()
    random = np.random.default_rng(0)
    hashes = mix(np.arange(options.images, dtype=np.uint64))
    copies = int(options.copies * options.images)
    places = random.permutation(options.images)[: 2 * copies]
    flipped = np.zeros(copies, np.uint64)
    for _ in range(options.distance):
        flipped |= np.uint64(1) << random.integers(0, 64, copies, np.uint64)
    hashes[places[:copies]] = hashes[places[copies:]] ^ flipped
    rows = pa.table({"key": pa.array(np.arange(options.images)).cast(pa.string()), "phash": hashes})
    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    started = time.monotonic()
    config = dedup.Config(distance=options.distance)
    kept = len(dedup.keep(dedup.compact(rows, config, "s0"), config, "s0"))
    seconds = time.monotonic() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{options.images:,} hashes, distance {options.distance}: {seconds:.1f} s")
    print(f"dropped {options.images - kept:,}, planted copies {copies:,}")
    print(f"memory {peak:.0f} MiB at most, {held:.0f} MiB of it before, with the rows")


if __name__ == "__main__":
    main()
