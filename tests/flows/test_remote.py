"""Two checkouts that share nothing but a DVC remote on S3."""

import json
import shutil
from collections.abc import Iterator
from contextlib import chdir
from pathlib import Path

import pytest

pytest.importorskip("prefect", reason="needs the extra 'flows'")
pytest.importorskip("dvc_s3", reason="needs the extra 's3'")
pytest.importorskip("moto.server", reason="needs the extra 'dev'")

from dvc.repo import Repo
from s3_server import s3_server
from scratch_cluster import repro
from scratch_store import CONFIG, Store

from flows import remote
from mimcore.errors import UserError

pytestmark = [pytest.mark.filterwarnings("ignore")]  # of DVC's own libraries


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with s3_server() as url:
        yield url


@pytest.fixture
def store(endpoint: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Store:
    return Store(endpoint, tmp_path, monkeypatch)


def test_what_one_checkout_made_the_other_restores(store: Store) -> None:
    first, second = store.checkout("first"), store.checkout("second")
    repro(first)
    assert store.executed() == ["draw", "count"]
    for stage in ("draw", "count"):
        assert remote.publish(first, stage) == 1
        assert remote.fetch_result(second, stage) == "fetched"
        repro(second, stage)
    assert store.executed() == ["draw", "count"], "the second checkout executed what the first had made"
    for name in ("drawn/a.txt", "drawn/b.txt", "counted.txt", "metric.json"):
        assert (second / name).read_bytes() == (first / name).read_bytes()
    assert json.loads((second / "metric.json").read_text()) == {"lines": 2}, "what git keeps must be restored too"

    # And back: the second goes on from an edit, and the first learns of it.
    for root in (first, second):
        (root / "seed.txt").write_text("two\n")
    assert remote.fetch_result(second, "draw") == "unknown", "nobody has made this"
    repro(second)
    assert store.executed() == ["draw", "count"] * 2
    assert remote.publish(second) == 2
    for stage in ("draw", "count"):
        assert remote.fetch_result(first, stage) == "fetched"
        repro(first, stage)
    repro(first)
    assert store.executed() == ["draw", "count"] * 2
    assert (first / "counted.txt").read_text() == "two\ntwo\n"


def test_by_hand_what_git_does_not_keep_travels(store: Store) -> None:
    """As docs/s3.md says: push from one clone, pull into another."""
    first, second = store.checkout("first"), store.checkout("second")
    repro(first)
    with chdir(first), Repo() as repo:
        repo.push(run_cache=True)
    shutil.copy(first / "dvc.lock", second / "dvc.lock")
    shutil.copy(first / "metric.json", second / "metric.json")  # By git: it is no output of DVC's cache.
    with chdir(second), Repo() as repo:
        repo.pull(run_cache=True)
    for name in ("drawn/a.txt", "drawn/b.txt", "counted.txt"):
        assert (second / name).read_bytes() == (first / name).read_bytes()
    repro(second)
    assert store.executed() == ["draw", "count"]


def test_only_one_stage_travels(store: Store) -> None:
    first = store.checkout("first")
    repro(first)
    remote.publish(first, "draw")
    assert len([key for key in store.objects() if "/runs/" in key]) == 1
    assert len([key for key in store.objects() if "/files/" in key]) == 2, "the list of the folder, and one file twice"
    before = store.objects()
    assert remote.publish(first, "draw") == 0
    assert store.objects() == before
    assert remote.publish(first) == 1, "the other one"
    assert remote.publish(first) == 0


def test_inputs_are_fetched_as_the_lock_names_them(store: Store) -> None:
    first, second = store.checkout("first"), store.checkout("second")
    repro(first)
    remote.publish(first, "draw")
    shutil.copy(first / "dvc.lock", second / "dvc.lock")
    remote.fetch_inputs(second, "count")
    assert (second / "drawn/b.txt").read_text() == "one\n"
    repro(second, "count")
    assert store.executed() == ["draw", "count", "count"]


def test_an_entry_whose_outputs_are_gone_is_not_taken(store: Store) -> None:
    first, second = store.checkout("first"), store.checkout("second")
    repro(first)
    remote.publish(first, "draw")
    for key in store.objects():
        if "/files/" in key:
            store.client.delete_object(Bucket=store.bucket, Key=key)
    assert remote.fetch_result(second, "draw") == "unknown"
    repro(second, "draw")
    assert store.executed() == ["draw", "count", "draw"]


def test_what_is_missing_is_said(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    first = store.checkout("first")
    repro(first)
    shutil.rmtree(first / "drawn")
    shutil.rmtree(first / ".dvc/cache")
    with pytest.raises(UserError, match=r"'store' of .* failed: .*drawn"):
        remote.fetch_inputs(first, "count")
    assert remote.has_remote(first)
    (first / ".dvc/config").write_text("[core]\n    analytics = false\n")
    assert not remote.has_remote(first)
    with pytest.raises(UserError, match=r"has no DVC remote; add one"):
        remote.publish(first, "draw")


def test_a_remote_that_cannot_be_reached_is_said(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    first = store.checkout("first")
    (first / ".dvc/config").write_text(CONFIG.format(bucket=store.bucket, endpoint="http://127.0.0.1:9"))
    with pytest.raises(UserError, match=r"the DVC remote 'store' of .* failed: .*127[.]0[.]0[.]1:9"):
        remote.fetch_result(first, "draw")
