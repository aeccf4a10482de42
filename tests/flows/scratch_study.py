"""A study whose stages copy tables that tests wrote, and say so in a log."""

import json
import subprocess
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from PIL import Image
from scratch_cluster import checkout

from mimcore.scaling.fit import fit
from mimcore.scaling.table import Row, write_results

PARAMS: dict[str, Any] = {
    "pools": {"photos": {"format": "folder", "path": "photos", "val_images": 1}},
    "subsets": {"n64": {"pool": "photos", "images": 2}},
    "models": {"tiny": {"image_size": 32, "patch_size": 8, "embed_dim": 64, "num_heads": 2}},
    "objectives": {"mae": {"decoder_embed_dim": 64, "decoder_num_heads": 2}},
    "schedules": {"short": {"images_seen": 512, "batch_size": 64, "warmup_images": 64}},
    "features": {"all": {"pool": "photos"}},
    "tasks": {"linear": {"features": "all"}},
    "study": {
        "pools": ["photos"],
        "subsets": ["n64"],
        "models": ["tiny"],
        "objectives": ["mae"],
        "schedules": ["short"],
        "seeds": ["s0"],
        "features": ["all"],
        "probes": ["linear"],
        "tasks": [],
        "phases": {},
    },
    "fit": {"bootstrap": 100},
}
PIPELINE = """
stages:
  index:
    cmd: echo index >> {log}; {work}cp listings/photos.json index.json
    deps: [listings/photos.json]
    outs: [index.json]
  collect:
    cmd: echo collect >> {log}; mkdir -p artifacts/results; cp table/results.parquet artifacts/results
    deps: [index.json, table/results.parquet]
    params: [fit]
    outs: [artifacts/results/results.parquet]
  fit:
    cmd: echo fit >> {log}; mkdir -p artifacts/fit; cp table/fit.json artifacts/fit
    deps: [artifacts/results/results.parquet, table/fit.json]
    params: [fit]
    outs: [artifacts/fit]
"""


def write_night(folder: Path, sizes: Iterable[int], off: Mapping[int, float] | None = None) -> None:
    """Results of a loss of 0.4 + 2 n^-0.5, two seeds 0.004 apart, some sizes off by an amount; and their fit."""
    rows = []
    for size in sizes:
        for seed in (0, 1):
            loss = 0.4 + 2 * size**-0.5 + (0.002 if seed else -0.002) + (off or {}).get(size, 0.0)
            for metric in ("val_loss", "seen_loss", "val_loss_minimum"):
                rows.append(_row(f"n{size}", size, f"s{seed}", metric, loss))
    folder.mkdir(parents=True, exist_ok=True)
    write_results(folder / "results.parquet", rows)
    with tempfile.TemporaryDirectory() as made:
        fit(folder / "results.parquet", {"bootstrap": 100}, Path(made) / "fit")
        (folder / "fit.json").write_bytes((Path(made) / "fit" / "fit.json").read_bytes())


def _row(subset: str, size: int, seed: str, metric: str, value: float) -> Row:
    names = ("run", f"mae-tiny-{subset}-short-{seed}", "mae", "tiny", subset, "short", seed)
    return Row(*names, size, 4096, 1000, 1e9, "pretrain", metric, value, None, False, metric == "val_loss")


def build(root: Path, log: Path, work: str = "", config: str = "[core]\n    analytics = false\n") -> Path:
    """A checkout with the study in force and its pool pinned, nothing executed yet."""
    checkout(root, PIPELINE.format(log=log, work=work), config)
    (root / "params.yaml").write_text(json.dumps(PARAMS, indent=1))
    (root / ".gitignore").write_text("/.mimcore\n/photos\n")
    (root / "studies").mkdir()
    write_night(root / "table", (64, 128, 256, 512))
    add_photo(root, "first")
    add_photo(root, "second")
    subprocess.run(["git", "add", "--all"], cwd=root, check=True)
    log.touch()
    return root


def add_photo(root: Path, name: str) -> None:
    """Let the pool grow."""
    (root / "photos").mkdir(exist_ok=True)
    Image.new("RGB", (8, 8), (len(name) * 9, 0, 0)).save(root / "photos" / f"{name}.png")
