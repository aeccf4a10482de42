"""Broken images, broken shards, a full disk and killed workers while a pool is indexed: counted or a sentence, nothing half."""

import io
import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import threading
import time
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from mimcore.data import index as index_module
from mimcore.data import parts
from mimcore.data.hashing import bottom, hash64
from mimcore.data.index import VAL_SEED, build_index
from mimcore.data.listing import scan
from mimcore.data.pool import load_pool
from mimcore.errors import UserError

ROOT = Path(__file__).parents[2]


def png_of(width: int, height: int) -> bytes:
    """A PNG that only says that it is so large."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def float_tiff() -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.linspace(0, 1, 400, dtype=np.float32).reshape(20, 20)).save(file, "TIFF")
    return file.getvalue()


def test_one_percent_of_broken_images_of_every_kind(tmp_path: Path, picture: Any, write_tar: Any, indexed: Any) -> None:
    jpeg, png, webp = picture(1, 300, 300, kind="JPEG"), picture(2, 64, 64), picture(3, 64, 64, kind="WEBP")
    broken = {
        "cut.jpg": (jpeg[:-200], "truncated"),
        "cut.png": (png[: len(png) // 2], "broken: "),
        "cut.webp": (webp[: len(webp) // 2], "broken: |truncated|not an image"),
        "cut.gif": (picture(4, 64, 64, kind="GIF")[:1000], "broken: image file is truncated"),
        "cut.tif": (picture(4, 64, 64, kind="TIFF", compression="tiff_lzw")[:2000], "not an image"),
        "cut.bmp": (picture(4, 64, 64, kind="BMP")[:2000], "broken: image file is truncated"),
        "head.bmp": (picture(4, 64, 64, kind="BMP")[:40], "broken: "),
        "zero.jpg": (b"", "empty file"),
        "zeros.jpg": (bytes(500), "not an image"),
        "page.jpg": (b"<html><body>404 Not Found</body></html>", "not an image"),
        "header.jpg": (jpeg[:20], "not an image|broken: "),
        "bomb.png": (png_of(60_000, 60_000), "decompression bomb"),
        "dot.png": (picture(5, 1, 1), "1x1 pixels, and 8 are needed on each side"),
        "line.png": (picture(6, 500, 2), "500x2 pixels, and 8 are needed on each side"),
        "float.tiff": (float_tiff(), "floating-point pixels"),
        "flipped.png": (png[:200] + bytes([png[200] ^ 255]) + png[201:], "broken: "),
    }
    good = 99 * len(broken)
    small = [picture(number, 8, 8, kind="JPEG") for number in range(20)]
    members, left = {}, list(broken.items())
    for number in range(good):
        members[f"{number:06d}.jpg"] = small[number % 20]
        if number % 99 == 50:
            name, (data, _) = left.pop()
            members[f"bad-{name.replace('.', '-', 1)}.{name.rpartition('.')[2]}"] = data
    write_tar(tmp_path / "pool/0.tar", members)
    card = indexed(tmp_path, "p", {"format": "tar", "path": "pool", "val_images": 10, "perceptual_hash": False})
    assert (card["images"], card["skipped_fraction"]) == (good, 0.01)
    found = {item["key"].removeprefix("bad-"): item["reason"] for item in card["skipped"]}
    assert set(found) == {name.replace(".", "-", 1) for name in broken}
    for name, (_, reason) in broken.items():
        assert any(part in found[name.replace(".", "-", 1)] for part in reason.split("|")), (name, found)
    assert all(item["shard"] == "0.tar" for item in card["skipped"])
    with pytest.raises(UserError, match=r"16 of 1600 images cannot be used .*max_skipped_fraction \(now 0\.0099\)"):
        options = {"format": "tar", "path": "pool", "val_images": 10, "perceptual_hash": False}
        indexed(tmp_path, "p", {**options, "max_skipped_fraction": 0.0099})


def test_a_shard_cut_in_half_replaced_or_missing(tmp_path: Path, tar_pool: dict[str, Any], indexed: Any) -> None:
    listing, output = tmp_path / "listings/p.json", tmp_path / "artifacts/index/p"
    indexed(tmp_path, "p", tar_pool)
    before = (output / "index.parquet").read_bytes()
    path = tmp_path / "pool/00001.tar"
    whole = path.read_bytes()

    def refused(adopt: bool, message: str) -> None:
        if adopt:
            scan(load_pool("p", tar_pool, tmp_path), listing, adopt=True)
        with pytest.raises(UserError, match=message) as caught:
            build_index("p", tar_pool, listing, output, tmp_path, tmp_path / ".mimcore")
        assert "\n" not in str(caught.value)
        assert (output / "index.parquet").read_bytes() == before

    for half in (len(whole) // 2, len(whole) // 2 // 512 * 512, 700):
        path.write_bytes(whole[:half])
        refused(
            False, r"^pool 'p': shard '00001\.tar' has changed since it was listed; 'mimcore scan p --adopt' pins it"
        )
        refused(True, r"^.*pool/00001\.tar is cut short or damaged; fetch it again, or take it out of the pool\.$")
        path.write_bytes(whole)
        scan(load_pool("p", tar_pool, tmp_path), listing, adopt=True)
    path.write_bytes((tmp_path / "pool/00000.tar").read_bytes())
    refused(False, r"shard '00001\.tar' has changed since it was listed")
    refused(True, r"6 keys occur more than once, first '000000000' \(in 00000\.tar, 00001\.tar\)")
    path.unlink()
    refused(False, r"'00001\.tar' has changed|'00001\.tar' is listed, but is not there any more")


def test_a_parquet_shard_cut_in_half(tmp_path: Path, picture: Any, indexed: Any) -> None:
    (tmp_path / "pool").mkdir()
    path = tmp_path / "pool/train-0.parquet"
    pq.write_table(pa.table({"image": [picture(number) for number in range(9)]}), path)
    path.write_bytes(path.read_bytes()[:-500])
    options = {"format": "parquet", "path": "pool", "val_images": 2, "label_column": None}
    with pytest.raises(UserError, match=r"train-0\.parquet cannot be read \(.*\); mend it, or take it out of the pool"):
        indexed(tmp_path, "p", options)


LIMITED = """
import json, resource, sys
from pathlib import Path
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), resource.RLIM_INFINITY))
from mimcore.data.index import build_index
from mimcore.errors import UserError
here = Path.cwd()
try:
    build_index("p", json.loads(sys.argv[2]), here / "listings/p.json", here / "artifacts/index/p", here, here / ".mimcore")
except UserError as error:
    print(error)
    sys.exit(2)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel limits the length of files on Linux")
def test_a_disk_that_fills_up_leaves_nothing_half(tmp_path: Path, tar_pool: dict[str, Any], indexed: Any) -> None:
    """The kernel refuses to let a file grow, as on a full disk: first a part, then the index, then its card."""
    indexed(tmp_path, "p", tar_pool)
    index = tmp_path / "artifacts/index/p"
    card = {**json.loads((index / "card.json").read_text())}
    before = {path: path.read_bytes() for path in index.iterdir()}
    parts_of = list((tmp_path / ".mimcore/index").rglob("*.parquet"))
    largest, whole = max(path.stat().st_size for path in parts_of), (index / "index.parquet").stat().st_size
    assert largest < whole

    def limited(limit: int, options: dict[str, Any]) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", LIMITED, str(limit), json.dumps(options)]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)

    # Another number of validation images: parts are made again.
    for limit, options, where in [
        (largest // 2, {**tar_pool, "val_images": 4}, r".mimcore"),
        (whole - 100, tar_pool, "artifacts/index/p"),
    ]:
        done = limited(limit, options)
        assert done.returncode == 2, done.stderr
        assert done.stderr == ""
        (line,) = done.stdout.splitlines()
        assert line.startswith(f"cannot write {tmp_path / where}")
        assert line.endswith("nothing was left there. Free or mend the disk and run again.")
        assert {path: path.read_bytes() for path in index.iterdir()} == before
        assert not [path for path in tmp_path.rglob("*") if ".part-" in path.name]
    indexed(tmp_path, "p", tar_pool)
    assert json.loads((index / "card.json").read_text()) == card


def test_a_broken_part_is_made_again(tmp_path: Path, tar_pool: dict[str, Any], indexed: Any) -> None:
    indexed(tmp_path, "p", tar_pool)
    output = tmp_path / "artifacts/index/p/index.parquet"
    before = output.read_bytes()
    for number, path in enumerate(sorted((tmp_path / ".mimcore/index").rglob("*.parquet"))):
        path.write_bytes(path.read_bytes()[: 100 * number])
    indexed(tmp_path, "p", tar_pool)
    assert output.read_bytes() == before


def many_shards(root: Path, picture: Any, write_tar: Any, shards: int = 5) -> dict[str, Any]:
    for shard in range(shards):
        members = {f"{shard}-{number}.png": picture(number) for number in range(3)} | {f"{shard}-bad.png": b"x"}
        members |= {f"{shard}-0.json": json.dumps({"score": shard, f"only{shard}": True}).encode()}
        write_tar(root / f"pool/{shard}.tar", members)
    (root / "listings").mkdir()
    options = {"format": "tar", "path": "pool", "val_images": 4, "max_skipped_fraction": 0.5}
    scan(load_pool("p", options, root), root / "listings/p.json")
    return options


def build(root: Path, options: dict[str, Any], name: str, **how: Any) -> dict[str, bytes]:
    """Index from nothing and return what was written."""
    arguments = (root / "listings/p.json", root / name, root, root / f"scratch-{name}")
    build_index("p", options, *arguments, **how)
    return {path.name: path.read_bytes() for path in (root / name).iterdir()}


@pytest.mark.timeout(120)
def test_processes_give_the_same_index(
    tmp_path: Path, picture: Any, write_tar: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = many_shards(tmp_path, picture, write_tar)
    told: dict[str, list[tuple[int, int]]] = {"one": [], "two": []}
    one = build(tmp_path, options, "one", progress=lambda *at: told["one"].append(at))
    monkeypatch.setattr(parts, "ALONE_SECONDS", 0.0)
    two = build(tmp_path, options, "two", workers=2, progress=lambda *at: told["two"].append(at))
    assert one == two
    assert told["one"] == told["two"] == [(number, 5) for number in range(1, 6)]


@pytest.mark.timeout(120)
@pytest.mark.filterwarnings("ignore")
def test_a_dask_cluster_gives_the_same_index(tmp_path: Path, picture: Any, write_tar: Any) -> None:
    distributed = pytest.importorskip("distributed", reason="needs the extra 'cluster'")
    options = many_shards(tmp_path, picture, write_tar)
    one = build(tmp_path, options, "one")
    told = []
    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=2, processes=False, protocol="tcp", dashboard_address=None
    ) as cluster:
        address = cluster.scheduler_address
        assert one == build(tmp_path, options, "dask", cluster=address, progress=lambda *at: told.append(at))
        write_tar(tmp_path / "pool/2.tar", {"a.png": b""})
        (tmp_path / "pool/2.tar").write_bytes((tmp_path / "pool/2.tar").read_bytes()[:700])
        scan(load_pool("p", options, tmp_path), tmp_path / "listings/p.json", adopt=True)
        with pytest.raises(UserError, match=r"2\.tar is cut short or damaged"):
            build(tmp_path, options, "broken", cluster=address)
        of = {**options, "train": "[!2].tar"}
        packed = {"format": "packed", "path": "small", "short_side": 16, "of": of, "max_skipped_fraction": 0.5}
        scan(load_pool("p", packed, tmp_path), tmp_path / "listings/p.json", adopt=True)
        made = build(tmp_path, packed, "packed-dask", cluster=address)
        tars = {path: path.read_bytes() for path in (tmp_path / "small").rglob("*.tar")}
        shutil.rmtree(tmp_path / "small")
        assert made == build(tmp_path, packed, "packed")
        assert len(tars) == 4
        assert tars == {path: path.read_bytes() for path in (tmp_path / "small").rglob("*.tar")}
    assert told == [(number, 5) for number in range(1, 6)]
    monkey = pytest.MonkeyPatch()
    monkey.setattr(parts, "_SCHEDULER_SECONDS", 0.3)
    with pytest.raises(UserError, match=r"index_cluster: no Dask scheduler answers at tcp://127\.0\.0\.1:9"):
        build(tmp_path, packed, "nobody", cluster="tcp://127.0.0.1:9")
    monkey.undo()


def test_errors_of_processes_are_those_of_this_one(
    tmp_path: Path, picture: Any, write_tar: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = many_shards(tmp_path, picture, write_tar, shards=3)
    (tmp_path / "pool/1.tar").write_bytes((tmp_path / "pool/1.tar").read_bytes()[:700])
    scan(load_pool("p", options, tmp_path), tmp_path / "listings/p.json", adopt=True)
    monkeypatch.setattr(parts, "ALONE_SECONDS", 0.0)
    with pytest.raises(UserError, match=r"1\.tar is cut short or damaged; fetch it again"):
        build(tmp_path, options, "two", workers=2)
    assert not (tmp_path / "two").exists()


def test_a_killed_process_is_a_sentence_and_what_was_done_is_kept(
    tmp_path: Path, picture: Any, write_tar: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = many_shards(tmp_path, picture, write_tar, shards=4)
    monkeypatch.setattr(parts, "ALONE_SECONDS", 0.0)
    # A shard that is a pipe is read for ever.
    pipe = tmp_path / "pool/3.tar"
    pipe.unlink()
    os.mkfifo(pipe)
    monkeypatch.setattr(index_module, "_check_listed", lambda *_: None)

    def kill() -> None:
        done = tmp_path / "scratch-two"
        while len(list(done.rglob("*.parquet"))) < 3:
            time.sleep(0.05)
        for child in Path(f"/proc/self/task/{threading.main_thread().native_id}/children").read_text().split():
            if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes():
                os.kill(int(child), signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    with pytest.raises(
        UserError, match=r"a process that looked at shards was killed, .*; set execution\.index_workers"
    ):
        build(tmp_path, options, "two", workers=2)
    killer.join()
    assert len(list((tmp_path / "scratch-two").rglob("*.parquet"))) == 3


def write_part(folder: Path, number: int, keys: list[str]) -> parts.Part:
    table = pa.table(
        {
            **{"key": keys, "shard": [f"{number}.tar"] * len(keys), "offset": range(len(keys))},
            **{"length": [1] * len(keys), "width": [8] * len(keys), "height": [8] * len(keys)},
            **{"checksum": ["0"] * len(keys), "split": ["train"] * len(keys), "label": [0] * len(keys)},
        }
    )
    path = folder / f"{number}.parquet"
    pq.write_table(table.replace_schema_metadata({"skipped": "[]"}), path)
    return parts.Part(path, len(keys), pq.read_schema(path), [])


def test_a_pool_is_joined_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Row groups are of equal length, and the drawn validation split is that of all keys at once."""
    monkeypatch.setattr(index_module, "ROW_GROUP", 1000)
    lengths = [10, 2500, 0, 999, 1, 3000, 400]
    keys = [[f"{number}/{row}" for row in range(length)] for number, length in enumerate(lengths)]
    (tmp_path / "pool").mkdir()
    pool = load_pool("p", {"format": "tar", "path": "pool", "val_images": 300}, tmp_path)
    join = index_module._Join(pool, [write_part(tmp_path, number, some) for number, some in enumerate(keys)])
    assert join.check() == {"train": sum(lengths) - 300, "val": 300}
    index_module._write(tmp_path / "index.parquet", join.schema, join.tables())
    file = pq.ParquetFile(tmp_path / "index.parquet")
    groups = [file.metadata.row_group(number) for number in range(file.num_row_groups)]
    assert [group.num_rows for group in groups] == [1000] * 6 + [910]
    assert all(group.column(0).statistics.has_min_max for group in groups)
    table = file.read()
    flat = [key for some in keys for key in some]
    assert table["key"].to_pylist() == flat
    drawn = {key for key, split in zip(flat, table["split"].to_pylist(), strict=True) if split == "val"}
    assert drawn == {flat[row] for row in bottom(flat, 300, VAL_SEED).tolist()}


def test_keys_whose_hashes_agree_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pool").mkdir()
    pool = load_pool("p", {"format": "tar", "path": "pool", "val_images": 1}, tmp_path)
    # Two bits of a hash: nearly all keys agree with others.
    monkeypatch.setattr(index_module, "hash64", lambda keys, seed: hash64(keys, seed) & np.uint64(3))
    distinct = [write_part(tmp_path, number, [f"{number}-{row}" for row in range(50)]) for number in range(3)]
    assert index_module._Join(pool, distinct).check() == {"train": 149, "val": 1}
    twice = [*distinct, write_part(tmp_path, 3, ["new", "1-7", "0-3"])]
    with pytest.raises(UserError, match=r"2 keys occur more than once, first '0-3' \(in 0\.tar, 3\.tar\)"):
        index_module._Join(pool, twice).check()
