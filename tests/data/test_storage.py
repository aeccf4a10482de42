import threading
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mimcore.data.storage import Storage
from mimcore.errors import UserError


def test_byte_ranges_with_few_open_files(tmp_path: Path) -> None:
    for number in range(5):
        (tmp_path / f"{number}.tar").write_bytes(bytes(range(10 * number, 10 * number + 10)))
    storage = Storage(tmp_path, open_files=2)
    for number in [0, 1, 2, 3, 4, 0, 4, 2]:
        assert list(storage.read(f"{number}.tar", 3, 4)) == list(range(10 * number + 3, 10 * number + 7))
    assert storage.read("0.tar", 10, 0) == b""


@pytest.mark.parametrize("struct", [True, False])
def test_rows_of_parquet(tmp_path: Path, struct: bool) -> None:
    values = [f"image {number}".encode() for number in range(25)]
    column = [{"bytes": value, "path": None} for value in values] if struct else values
    pq.write_table(pa.table({"picture": column, "label": range(25)}), tmp_path / "a.parquet", row_group_size=10)
    storage = Storage(tmp_path, image_column="picture", row_group_mib=0)
    for row in [24, 0, 9, 10, 19, 20, 5]:
        assert storage.read("a.parquet", row, len(values[row])) == values[row]
    with pytest.raises(UserError, match=r"a\.parquet: 7 bytes were expected at 25, 0 are there"):
        storage.read("a.parquet", 25, 7)


def test_many_threads_at_once(tmp_path: Path) -> None:
    for number in range(8):
        (tmp_path / f"{number}.bin").write_bytes(bytes([number]) * 1000)
        pq.write_table(pa.table({"image": [bytes([number, row]) for row in range(50)]}), tmp_path / f"{number}.parquet")
    storage = Storage(tmp_path, open_files=2)
    wrong = []

    def read(start: int) -> None:
        for step in range(200):
            number = (start + step * 3) % 8
            if storage.read(f"{number}.bin", step, 5) != bytes([number]) * 5:
                wrong.append(step)
            if storage.read(f"{number}.parquet", step % 50, 2) != bytes([number, step % 50]):
                wrong.append(step)

    threads = [threading.Thread(target=read, args=(start,)) for start in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_mistakes_name_the_file_and_the_cure(tmp_path: Path) -> None:
    (tmp_path / "short.tar").write_bytes(b"123")
    (tmp_path / "bad.parquet").write_bytes(b"123")
    pq.write_table(pa.table({"image": ["text"], "other": [b"1"]}), tmp_path / "text.parquet")
    storage = Storage(tmp_path)
    for shard, message in [
        ("none.tar", r"none\.tar is missing; bring the pool back"),
        ("none.parquet", r"none\.parquet is missing; bring the pool back"),
        ("short.tar", r"short\.tar: 5 bytes were expected at 1, 2 are there; bring"),
        ("bad.parquet", r"bad\.parquet cannot be read"),
        ("text.parquet", r"text\.parquet: column 'image' is string, but binary"),
    ]:
        with pytest.raises(UserError, match=message):
            storage.read(shard, 1, 5)
    with pytest.raises(UserError, match="no column 'img'; name the column of the images in 'image_column'"):
        Storage(tmp_path, image_column="img").read("text.parquet", 0, 1)
