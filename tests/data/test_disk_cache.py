import os
import threading
from pathlib import Path

import pytest

from mimcore.data.disk_cache import DiskCache


def held(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def test_what_was_kept_is_found_by_others(tmp_path: Path) -> None:
    one, other = DiskCache(tmp_path, 1 << 20), DiskCache(tmp_path, 1 << 20)
    assert one.get("a") is None
    for name, data in {"a": b"some bytes", "b": b"", "c/d:e": b"\0" * 99}.items():
        one.put(name, data)
        assert other.get(name) == data
    assert other.get("d") is None


@pytest.mark.parametrize(
    "spoil", [lambda data: data[:-1], lambda data: b"", lambda data: b"x" + data[1:], lambda data: data * 2]
)
def test_an_entry_that_is_not_whole_is_absent(tmp_path: Path, spoil: object) -> None:
    kept = DiskCache(tmp_path, 1 << 20)
    kept.put("a", b"some bytes")
    (path,) = [path for path in tmp_path.rglob("*") if path.is_file()]
    path.write_bytes(spoil(path.read_bytes()))  # type: ignore[operator]
    assert kept.get("a") is None
    assert not path.exists()
    kept.put("a", b"others")
    assert kept.get("a") == b"others"


def test_the_longest_unused_go_first_and_the_limit_holds(tmp_path: Path) -> None:
    limit = 100_000
    writers = [DiskCache(tmp_path, limit) for _ in range(2)]
    for number in range(300):
        writers[number % 2].put(str(number), bytes(1000))
        for name in (str(number), "7") if number > 7 else (str(number),):
            path = writers[0]._path(name)
            if path.exists():
                assert writers[0].get(name) == bytes(1000)
                # Times of a file system may be too coarse to tell one entry from the next.
                os.utime(path, (number, number))
        assert number % 5 or held(tmp_path) <= limit * (1 + 2 / 16) + 2000
    found = [number for number in range(300) if writers[0].get(str(number)) is not None]
    assert found[0] == 7, "it was used all the time"
    assert found[1:] == list(range(found[1], 300)), "no newer one went before an older one"
    assert len(found) > 80
    writers[0].put("huge", bytes(limit))
    assert writers[0].get("huge") is None


def test_many_threads_share_a_folder(tmp_path: Path) -> None:
    wrong = []

    def work(start: int) -> None:
        kept = DiskCache(tmp_path, 20_000)
        for step in range(150):
            name = str((start * 7 + step) % 60)
            data = kept.get(name)
            if data is not None and data != name.encode() * 300:
                wrong.append(name)
            kept.put(name, name.encode() * 300)

    threads = [threading.Thread(target=work, args=(start,)) for start in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert not [path for path in tmp_path.rglob("*") if ".part-" in path.name]
