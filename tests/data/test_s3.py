"""Pools on S3, over HTTP from a real server: the same index and images as from a folder, whatever the network does."""

import io
import json
import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import boto3
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("moto.server", reason="needs the extra 'dev'")

from s3_server import Proxy, s3_server
from video_files import encode, noisy

from mimcore.data import files, ranges, s3
from mimcore.data.listing import read_listing, scan
from mimcore.data.loader import Images
from mimcore.data.paths import S3Folder, pool_root
from mimcore.data.pool import load_pool
from mimcore.data.ranges import merged
from mimcore.data.splits import read_split
from mimcore.data.storage import Storage
from mimcore.errors import UserError

SECRET = "c2VjcmV0LW9mLW1pbmU"
ACCESS = "AKIAMINEALONE"


class Bucket:
    """A bucket behind the proxy."""

    def __init__(self, name: str, client: Any, proxy: Proxy) -> None:
        self.name, self.proxy = name, proxy
        self.path = f"s3://{name}/some/pool"
        self.folder = S3Folder(name, "some/pool")
        self._client = client
        self._client.create_bucket(Bucket=name)

    def put(self, name: str, data: bytes) -> None:
        self._client.put_object(Bucket=self.name, Key=f"some/pool/{name}", Body=data)

    def delete(self, name: str) -> None:
        self._client.delete_object(Bucket=self.name, Key=f"some/pool/{name}")

    def upload(self, folder: Path) -> None:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                self.put(path.relative_to(folder).as_posix(), path.read_bytes())

    def fail(self, *faults: str, on: str = ".tar", method: str = "GET") -> None:
        """Let the next requests for such an object fail so, one after the other."""
        left = list(faults)

        def fault(asked: str, key: str) -> str | None:
            return left.pop(0) if left and asked == method and key.endswith(on) else None

        self.proxy.fault = fault


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[Any, Proxy]]:
    """A client that the proxy does not see, and the proxy."""
    with s3_server() as url:
        proxy = Proxy(url)
        keys = {"aws_access_key_id": "a", "aws_secret_access_key": "b", "region_name": "us-east-1"}
        yield boto3.client("s3", endpoint_url=url, **keys), proxy
        proxy.close()
        s3._client_of.cache_clear()


@pytest.fixture
def bucket(server: tuple[Any, Proxy], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    client, proxy = server
    proxy.reset()
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "aws-config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "aws-credentials"))
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", proxy.url)
    monkeypatch.setenv("MIMCORE_S3_CACHE", str(tmp_path / "cache"))
    # Waits of botocore and our own, but short.
    monkeypatch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda *_: 0.01)
    monkeypatch.setattr(s3, "FIRST_WAIT", 0.01)
    monkeypatch.setattr(s3, "LONGEST_WAIT", 0.02)
    return Bucket(tmp_path.name.replace("_", "-").strip("-"), client, proxy)


@pytest.fixture
def other_settings() -> Iterator[Callable[[], None]]:
    """To be called when what the client is made of has changed."""
    s3._client_of.cache_clear()
    yield s3._client_of.cache_clear
    s3._client_of.cache_clear()


@pytest.fixture
def short_ranges(monkeypatch: pytest.MonkeyPatch) -> int:
    """Requests of a few kilobytes, so that small shards take many of them."""
    monkeypatch.setattr(files, "LONGEST", 8000)
    monkeypatch.setattr(ranges, "LONGEST", 8000)
    return 8000


def make_tar(root: Path, picture: Any, write_tar: Any) -> dict[str, Any]:
    for name, first in (("train-0", 0), ("deep/train-1", 8), ("val-0", 16)):
        keys = range(first, first + 8)
        members = {}
        for number in keys:
            members |= {f"{number:03d}.png": picture(number), f"{number:03d}.cls": str(number % 3).encode()}
        members["998.png"] = b""  # One in each that is broken.
        write_tar(root / f"{name}.tar", members)
    pq.write_table(pa.table({"key": ["000"], "score": [0.5]}), root / "train-0.parquet")
    (root / "classes.json").write_text('["a", "b", "c"]')
    return {"format": "tar", "train": "**/train-*.tar", "val": "val-?.tar", "classes": "classes.json"}


def make_parquet(root: Path, picture: Any, write_tar: Any) -> dict[str, Any]:
    for name, first in (("train-0", 0), ("train-1", 20), ("test-0", 40)):
        images = [{"bytes": picture(number), "path": None} for number in range(first, first + 20)]
        table = pa.table({"image": images, "label": [number % 3 for number in range(20)], "n": range(20)})
        pq.write_table(table, root / f"{name}.parquet", row_group_size=6)
    return {"format": "parquet", "val": "test-*.parquet"}


def make_folder(root: Path, picture: Any, write_tar: Any) -> dict[str, Any]:
    for number in range(30):
        path = root / ("val" if number % 5 == 0 else "train") / "ab"[number // 5 % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(number) if number != 7 else b"text")
    return {"format": "folder", "train": "train", "val": "val"}


def make_coco(root: Path, picture: Any, write_tar: Any) -> dict[str, Any]:
    (root / "images").mkdir()
    for split, numbers in (("train", range(12)), ("val", range(12, 18))):
        images, annotations = [], []
        for number in numbers:
            (root / "images" / f"{number}.png").write_bytes(picture(number))
            images.append({"id": number, "file_name": f"{number}.png", "width": 24, "height": 16})
            annotations.append({"image_id": number, "bbox": [1, 2, 3, 4], "area": 12, "category_id": 5})
        images.append({"id": 99, "file_name": f"none-{split}.png", "width": 24, "height": 16})
        content = {"images": images, "annotations": annotations, "categories": [{"id": 5, "name": "thing"}]}
        (root / f"instances_{split}.json").write_text(json.dumps(content))
    return {"format": "coco"}


def make_videos(root: Path, picture: Any, write_tar: Any) -> dict[str, Any]:
    (root / "all").mkdir()
    for number in range(20):
        (root / f"all/{number}.mp4").write_bytes(encode(noisy(3, 16, 16)) if number != 7 else b"text")
    (root / "train.csv").write_text("".join(f"{number}.mp4 {number % 3}\n" for number in range(15)))
    (root / "val.csv").write_text("".join(f"{number}.mp4,{number % 3}\n" for number in range(15, 21)))
    return {"format": "video_folder", "train": "train.csv", "val": "val.csv", "videos": "all"}


@pytest.mark.parametrize("make", [make_tar, make_parquet, make_folder, make_coco, make_videos])
def test_the_same_rows_and_bytes_as_from_a_folder(
    tmp_path: Path, bucket: Bucket, picture: Any, write_tar: Any, indexed: Any, make: Callable[..., dict[str, Any]]
) -> None:
    (tmp_path / "pool").mkdir()
    options = make(tmp_path / "pool", picture, write_tar) | {"max_skipped_fraction": 0.2}
    bucket.upload(tmp_path / "pool")
    here = {**options, "path": "pool"}
    there = {**options, "path": bucket.path}
    cards = [indexed(tmp_path, name, how) for name, how in (("here", here), ("there", there))]
    assert cards[0]["images"] >= 18
    assert {**cards[0], "pool": "there"} == cards[1]
    tables = [pq.read_table(tmp_path / "artifacts/index" / name / "index.parquet") for name in ("here", "there")]
    assert tables[0].equals(tables[1])
    rows = tables[0].select(["shard", "offset", "length"]).to_pylist()
    requests = [(row["shard"], row["offset"], row["length"]) for row in rows]
    random.Random(0).shuffle(requests)
    found = [Storage(pool_root(how, tmp_path)).read_many(requests) for how in (here, there)]
    assert found[0] == found[1]
    assert found[0] == [Storage(tmp_path / "pool").read(*request) for request in requests]


def test_training_images_come_through_the_loader(
    tmp_path: Path, bucket: Bucket, tar_pool: dict[str, Any], indexed: Any
) -> None:
    bucket.upload(tmp_path / "pool")
    there = {**tar_pool, "path": bucket.path}
    indexed(tmp_path, "p", there)
    rows = read_split(tmp_path / "artifacts/index/p", "train")
    pixels = [Images(options, rows, 8, tmp_path).get(range(9)) for options in (tar_pool, there)]
    assert (pixels[0] == pixels[1]).all()


def test_a_bucket_is_packed_as_a_folder_is(
    tmp_path: Path, bucket: Bucket, tar_pool: dict[str, Any], indexed: Any
) -> None:
    bucket.upload(tmp_path / "pool")
    tables = {}
    for name, of in (("here", tar_pool), ("there", {**tar_pool, "path": bucket.path})):
        indexed(tmp_path, name, {"format": "packed", "path": name, "short_side": 16, "of": of})
        tables[name] = pq.read_table(tmp_path / "artifacts/index" / name / "index.parquet").drop_columns(["shard"])
    assert tables["here"].equals(tables["there"])
    one, other = (sorted((tmp_path / name).rglob("*.tar")) for name in ("here", "there"))
    assert [path.read_bytes() for path in one] == [path.read_bytes() for path in other]
    assert len(one) > 1


def test_a_listing_takes_pages_and_no_request_for_each_object(
    tmp_path: Path, bucket: Bucket, picture: Any, write_tar: Any
) -> None:
    write_tar(tmp_path / "one.tar", {"a.png": picture(1)})
    for number in range(7):
        bucket.put(f"train-{number}.tar", (tmp_path / "one.tar").read_bytes())
    bucket.put("train-3.parquet", b"side")
    bucket.put("other/train-9.tar", b"is in no pattern")
    bucket.put("train-/", b"")
    bucket.proxy.page = 2
    pool = load_pool("p", {"format": "tar", "path": bucket.path, "train": "train-*.tar", "val_images": 1}, tmp_path)
    shards = pool.shards()
    assert [shard.name for shard in shards] == [f"train-{number}.tar" for number in range(7)]
    tag = shards[0].etag
    assert len(tag) == 32
    assert shards[3].etag.startswith(f"{tag}-")
    assert {shard.bytes for shard in shards} == {(tmp_path / "one.tar").stat().st_size}
    assert [(one.method, one.key) for one in bucket.proxy.asked] == [("GET", "")] * 5


def test_each_byte_of_a_shard_is_fetched_once(
    tmp_path: Path, bucket: Bucket, tar_pool: dict[str, Any], indexed: Any, short_ranges: int
) -> None:
    bucket.upload(tmp_path / "pool")
    indexed(tmp_path, "p", {**tar_pool, "path": bucket.path})
    for name in ("00000.tar", "00001.tar"):
        asked = bucket.proxy.gets(name)
        length = (tmp_path / "pool" / name).stat().st_size
        assert len(asked) == -(-length // short_ranges) > 3
        assert sum(one.sent for one in asked) == length
        assert all(one.if_match for one in asked)
    assert not (tmp_path / "cache").exists(), "streamed bytes are not kept on disk"


def test_a_stream_reads_as_the_file_would(bucket: Bucket, short_ranges: int) -> None:
    content = random.Random(1).randbytes(40_000)
    bucket.put("x.bin", content)
    there = files.S3Files(bucket.folder)
    draws = random.Random(2)
    with there.open("x.bin", there.tag("x.bin").etag) as file, io.BytesIO(content) as truth:
        for _ in range(120):
            if draws.random() < 0.4:
                place = draws.choice([draws.randrange(41_000), max(0, truth.tell() - 2000), truth.tell() + 500])
                assert file.seek(place) == truth.seek(place)
            length = draws.choice([0, 1, 512, 5000, -1 if draws.random() < 0.1 else 10])
            assert file.read(length) == truth.read(length)


@pytest.mark.parametrize(
    "faults",
    [
        ["error:SlowDown:503", "error:Throttling:400", "error:InternalError:500"],
        ["reset"] * 3,
        ["cut"] * 3,
        ["short"] * 3,
        ["error:SlowDown:503", "reset", "error:SlowDown:503", "short", "cut"],
    ],
    ids=lambda faults: f"{faults[0]}x{len(faults)}",
)
def test_what_passes_is_sat_out(
    tmp_path: Path,
    bucket: Bucket,
    tar_pool: dict[str, Any],
    indexed: Any,
    monkeypatch: pytest.MonkeyPatch,
    faults: list[str],
) -> None:
    monkeypatch.setattr(s3, "_CHUNK", 1000)
    bucket.upload(tmp_path / "pool")
    indexed(tmp_path, "here", tar_pool)
    bucket.fail(*faults)
    indexed(tmp_path, "there", {**tar_pool, "path": bucket.path})
    here, there = (pq.read_table(tmp_path / f"artifacts/index/{name}/index.parquet") for name in ("here", "there"))
    assert here.equals(there)
    asked = bucket.proxy.gets("00000.tar") + bucket.proxy.gets("00001.tar")
    assert len(asked) == len(faults) + 2
    assert len({one.if_match for one in bucket.proxy.gets("00000.tar")}) == 1
    if set(faults) <= {"reset", "cut", "short"}:
        # Taken up where it broke: at half of what was left.
        starts = [one.range[0] for one in asked if one.range]
        lengths = [(tmp_path / "pool" / name).stat().st_size for name in ("00000.tar", "00001.tar")]
        assert len(set(starts)) == len(starts) - 1, "only the first bytes of each of two shards begin at the same place"
        assert sum(lengths) <= sum(one.sent for one in asked) <= sum(lengths) + 1000 * len(faults)


def test_what_does_not_pass_is_a_sentence(
    tmp_path: Path,
    bucket: Bucket,
    tar_pool: dict[str, Any],
    indexed: Any,
    monkeypatch: pytest.MonkeyPatch,
    other_settings: Callable[[], None],
) -> None:
    bucket.upload(tmp_path / "pool")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "3")
    there = {**tar_pool, "path": bucket.path}
    place = rf"{bucket.path}/0000\d\.tar"
    for fault, message in [
        ("error:SlowDown:503", rf"{place}: the store has throttled for too long \(SlowDown\); run again later"),
        ("cut", rf"{place}: the connection broke off 9 times while bytes 0 to \d+ were read \(.*\); look at the"),
        ("error:AccessDenied:403", rf"{place}: access is denied \(AccessDenied\); let the credentials list the bucket"),
        ("error:InvalidObjectState:403", rf"{place} is archived; restore it"),
        ("error:Odd:418", rf"{place}: the store answers Odd \(HTTP 418\)"),
    ]:
        bucket.proxy.fault = lambda method, key, fault=fault: (
            fault if method == "GET" and key.endswith(".tar") else None
        )  # type: ignore[misc]
        with pytest.raises(UserError, match=message) as caught:
            indexed(tmp_path, "p", there)
        assert not any(secret in str(caught.value) for secret in (SECRET, ACCESS, "secret-of-the-store"))
        assert not list((tmp_path / "artifacts").rglob("*")), "nothing half-written"
    assert len(bucket.proxy.gets("00000.tar")) < 60
    bucket.proxy.fault = lambda method, key: None
    assert indexed(tmp_path, "p", there)["images"] == 12


def test_mistakes_in_settings_are_sentences(
    tmp_path: Path,
    bucket: Bucket,
    tar_pool: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    other_settings: Callable[[], None],
) -> None:
    bucket.upload(tmp_path / "pool")

    def refused(options: dict[str, Any], message: str) -> None:
        with pytest.raises(UserError, match=message):
            load_pool("p", {**tar_pool, "path": bucket.path, **options}, tmp_path).shards()

    refused(
        {"path": "s3://no-such-bucket/x"}, r"s3://no-such-bucket/x/: there is no bucket 'no-such-bucket' at http://127"
    )
    refused({"path": "s3://"}, r"pools\.p\.path: the address on S3 names no bucket; write s3://BUCKET/PREFIX")
    refused({"path": "s3://key:secret@b/x"}, r"pools\.p\.path: the address on S3 names no bucket")
    refused({"train": "*.tgz"}, rf"pools\.p: no images of format 'tar' in {bucket.path}; correct the options")
    refused({"format": "digits", "classes": None, "val_images": 1}, "unknown option")
    with pytest.raises(UserError, match="rendered on this machine; give a folder of it as 'path'"):
        load_pool("d", {"format": "digits", "path": bucket.path}, tmp_path).prepare()
    bucket.proxy.fault = lambda method, key: "error:InvalidAccessKeyId:403"
    refused({}, r"the credentials are refused \(InvalidAccessKeyId\); renew them")
    bucket.proxy.fault = lambda method, key: "error:IllegalLocationConstraintException:400"
    refused({}, "the bucket is in another region")
    bucket.proxy.fault = lambda method, key: None
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://name:secret@127.0.0.1:9")
    other_settings()
    refused({}, r"http://127\.0\.0\.1:9 cannot be reached \(endpoint connection\); check AWS_ENDPOINT_URL_S3")
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    other_settings()
    refused({}, r"no credentials of AWS are found \(ProfileNotFound\); name a profile in AWS_PROFILE")
    monkeypatch.delenv("AWS_PROFILE")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    other_settings()
    refused({}, r"no credentials of AWS are found \(NoCredentialsError\)")


def test_a_profile_and_its_endpoint_are_enough(
    tmp_path: Path, bucket: Bucket, tar_pool: dict[str, Any], monkeypatch: pytest.MonkeyPatch, other_settings: object
) -> None:
    bucket.upload(tmp_path / "pool")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_PROFILE", "store")
    (tmp_path / "aws-config").write_text(
        f"[profile store]\nregion = eu-west-1\nservices = here\n[services here]\ns3 =\n  endpoint_url = {bucket.proxy.url}\n"
    )
    (tmp_path / "aws-credentials").write_text("[store]\naws_access_key_id = x\naws_secret_access_key = y\n")
    assert len(load_pool("p", {**tar_pool, "path": bucket.path}, tmp_path).shards()) == 2


def test_credentials_are_in_no_file_and_no_output(tmp_path: Path, bucket: Bucket, tar_pool: dict[str, Any]) -> None:
    bucket.upload(tmp_path / "pool")
    there = {**tar_pool, "path": bucket.path}
    (tmp_path / "params.yaml").write_text(json.dumps({"pools": {"p": there}, "study": {"pools": ["p"]}}))
    code = (
        "import sys, json, logging; logging.basicConfig(level=logging.INFO)\n"
        "from pathlib import Path; from mimcore.artifacts import Provenance\n"
        "from mimcore.data.index import build_index; from mimcore.data.listing import scan\n"
        "from mimcore.data.pool import load_pool\n"
        "there = json.loads(sys.argv[1]); here = Path.cwd(); scan(load_pool('p', there, here), here / 'p.json')\n"
        "with Provenance(here / 'artifacts/provenance.json', 'index p', there, {}):\n"
        "    build_index('p', there, here / 'p.json', here / 'artifacts/p', here, here / '.mimcore')\n"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", code, json.dumps(there)]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    written = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert len(written) > 8
    for content in [*written, done.stdout.encode(), done.stderr.encode()]:
        assert SECRET.encode() not in content
        assert ACCESS.encode() not in content


@pytest.mark.parametrize("fault", [None, "unmatched"])
def test_a_shard_that_is_replaced_while_it_is_indexed(
    tmp_path: Path,
    bucket: Bucket,
    tar_pool: dict[str, Any],
    indexed: Any,
    short_ranges: int,
    fault: str | None,
) -> None:
    bucket.upload(tmp_path / "pool")
    content = bytearray((tmp_path / "pool/00000.tar").read_bytes())
    content[700] ^= 1
    asked: list[str] = []

    def replace(method: str, key: str) -> str | None:
        if method == "GET" and key.endswith("00000.tar"):
            asked.append(key)
            if len(asked) == 2:
                bucket.put("00000.tar", bytes(content))
        return fault if key else None

    bucket.proxy.fault = replace
    message = (
        rf"^{bucket.path}/00000\.tar was replaced since it was listed or first read; pin the pool anew with 'mimcore"
    )
    with pytest.raises(UserError, match=message):
        indexed(tmp_path, "p", {**tar_pool, "path": bucket.path})
    assert not list((tmp_path / ".mimcore").rglob("*.parquet"))
    assert not (tmp_path / "artifacts").exists()


def test_a_shard_that_is_replaced_between_two_reads_of_training(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket.put("a.bin", b"0123456789" * 10)
    reading = Storage(bucket.folder)
    assert reading.read("a.bin", 0, 10) == b"0123456789"
    bucket.put("a.bin", b"abcdefghij" * 10)
    with pytest.raises(UserError, match=r"a\.bin was replaced since it was listed or first read"):
        reading.read("a.bin", 20, 10)
    # A process that starts now sees the new bytes, whatever the cache holds of the old ones.
    assert Storage(bucket.folder).read_many([("a.bin", 0, 10), ("a.bin", 20, 10)]) == [b"abcdefghij"] * 2
    bucket.delete("a.bin")
    monkeypatch.setenv("MIMCORE_S3_CACHE_GIB", "0")
    with pytest.raises(
        UserError, match=rf"{bucket.path}/a\.bin is missing; bring the pool back to what its listing says"
    ):
        Storage(bucket.folder).read("a.bin", 0, 10)
    with pytest.raises(UserError, match=r"a\.parquet is missing; bring the pool back"):
        Storage(bucket.folder).read("a.parquet", 0, 10)


def test_short_objects_and_stores_without_ranges(bucket: Bucket) -> None:
    bucket.put("a.bin", b"0123456789")
    bucket.put("none.bin", b"")
    storage = Storage(bucket.folder)
    assert storage.read("none.bin", 0, 0) == b""
    for request, message in [
        (("a.bin", 8, 4), "4 bytes were expected at 8, 2 are there"),
        (("a.bin", 10, 1), "1 bytes were expected at 10, 0 are there"),
        (("none.bin", 0, 1), "1 bytes were expected at 0, 0 are there"),
    ]:
        with pytest.raises(UserError, match=message):
            storage.read(*request)
    bucket.fail("whole", on=".bin")
    with pytest.raises(UserError, match="bytes from 3 on were asked for, and the store sent bytes from 0 on"):
        storage.read("a.bin", 3, 4)


def test_only_new_and_changed_shards_are_read_again(
    tmp_path: Path, bucket: Bucket, tar_pool: dict[str, Any], indexed: Any, write_tar: Any, picture: Any
) -> None:
    write_tar(tmp_path / "pool/00003.tar", {"z.png": picture(60)})
    bucket.upload(tmp_path / "pool")
    there = {**tar_pool, "path": bucket.path}
    indexed(tmp_path, "p", there)
    listing = tmp_path / "listings/p.json"
    assert all(len(shard.etag) == 32 for shard in read_listing(listing))
    write_tar(tmp_path / "new.tar", {"new.png": picture(50)})
    write_tar(tmp_path / "changed.tar", {"z.png": picture(61)})
    bucket.put("00004.tar", (tmp_path / "new.tar").read_bytes())
    bucket.put("00003.tar", (tmp_path / "changed.tar").read_bytes())
    bucket.delete("00000.tar")
    report = scan(load_pool("p", there, tmp_path), listing)
    assert report.sentence() == (
        "pool 'p': 1 added (00004.tar), 1 changed (00003.tar), 1 vanished (00000.tar); 'mimcore scan p --adopt' pins it anew."
    )
    with pytest.raises(UserError, match=r"shard '00000\.tar' is listed, but is not there any more"):
        indexed(tmp_path, "p", there)
    bucket.proxy.asked.clear()
    assert indexed(tmp_path, "p", there, adopt=True)["images"] == 8
    assert {one.key.rpartition("/")[2] for one in bucket.proxy.gets(".tar")} == {"00003.tar", "00004.tar"}


def test_near_ranges_are_one_request_and_the_cache_spares_the_next(bucket: Bucket, tmp_path: Path) -> None:
    content = {name: random.Random(name).randbytes(2_000_000) for name in ("a.bin", "b.bin")}
    for name, data in content.items():
        bucket.put(name, data)
    draws = random.Random(3)
    requests = [(draws.choice("ab") + ".bin", draws.randrange(1_000_000), draws.randrange(1, 9000)) for _ in range(40)]
    requests += [("a.bin", 1_999_990, 10), requests[0]]
    truth = [content[name][start : start + length] for name, start, length in requests]
    assert Storage(bucket.folder).read_many(requests) == truth
    spans = len(bucket.proxy.gets(".bin"))
    assert spans == len(merged(requests)) < 8
    bucket.proxy.asked.clear()
    later = Storage(bucket.folder)
    assert later.read_many(requests) == truth
    assert [one.method for one in bucket.proxy.asked] == ["HEAD", "HEAD"], "the tags alone are asked for"
    entries = sorted(path for path in (tmp_path / "cache").rglob("*") if path.is_file())
    entries[0].unlink()
    entries[1].write_bytes(entries[1].read_bytes()[:-1] + b"?")
    entries[2].write_bytes(b"")
    assert Storage(bucket.folder).read_many(requests) == truth
    assert len(bucket.proxy.gets(".bin")) in range(1, 4)


def test_a_cache_that_cannot_be_written_only_costs_requests(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("MIMCORE_S3_CACHE", str(tmp_path / "file"))
    bucket.put("a.bin", b"0123456789")
    storage = Storage(bucket.folder)
    for _ in range(2):
        assert storage.read("a.bin", 3, 4) == b"3456"
    assert caplog.text.count("images of S3 are not kept in") == 1
    monkeypatch.setenv("MIMCORE_S3_CACHE_GIB", "many")
    with pytest.raises(UserError, match="MIMCORE_S3_CACHE_GIB: 'many' is no number of GiB"):
        Storage(bucket.folder)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 300), st.integers(0, 40)), max_size=30),
    st.integers(0, 20),
    st.integers(1, 60),
)
def test_merged_ranges(requests: list[tuple[str, int, int]], gap: int, longest: int) -> None:
    spans = merged(requests, gap, longest)
    assert sorted(place for span in spans for place in span.requests) == list(range(len(requests)))
    for span in spans:
        inside = [requests[place] for place in span.requests]
        assert {name for name, _, _ in inside} == {span.name}
        assert span.start == min(start for _, start, _ in inside)
        assert span.stop == max(start + length for _, start, length in inside)
        assert span.stop - span.start <= max(longest, *(length for _, _, length in inside))
        wanted = {byte for _, start, length in inside for byte in range(start, start + length)}
        hole = 0
        for byte in range(span.start, span.stop):
            hole = 0 if byte in wanted else hole + 1
            assert hole <= gap
    for before, after in pairwise(spans):
        apart = before.name != after.name or after.start - before.stop > gap
        _, start, length = requests[after.requests[0]]
        assert apart or start + length - before.start > longest, "these two could have been one"
