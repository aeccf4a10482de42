from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from drawing import check_keep, keeping
from features import pinned
from hypothesis import HealthCheck, settings
from hypothesis import given as given_that
from hypothesis import strategies as st

from mimcore.errors import UserError
from mimcore.sampling.strategies import given

UIDS = [f"{number * 0x9E3779B97F4A7C15F39CC0605CEDC835 % 2**128:032x}" for number in range(1, 40)]
ROWS = pa.table({"key": [f"{number:03d}" for number in range(39)], "uid": UIDS})


def datacomp(path: Path, uids: list[str]) -> Path:
    """As DataComp's baselines write their subsets."""
    pairs = [(int(uid[:16], 16), int(uid[16:32], 16)) for uid in uids]
    np.save(path, np.sort(np.array(pairs, np.dtype("u8,u8"))))
    return path


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given_that(st.sets(st.integers(0, 38), min_size=1), st.data())
def test_text_and_uids_keep_what_they_list(tmp_path: Path, places: set[int], data: st.DataObject) -> None:
    (tmp_path / "list.txt").write_text("\r\n".join(f"{place:03d}" for place in places) + "\n\n")
    text = given.Config(file=pinned(tmp_path / "list.txt"))
    file = datacomp(tmp_path / "list.npy", [UIDS[place] for place in places])
    uids = given.Config(file=pinned(file), column="uid")
    assert keeping(given, text)(ROWS) == keeping(given, uids)(ROWS) == [f"{place:03d}" for place in sorted(places)]
    check_keep(keeping(given, text), ROWS, data)
    check_keep(keeping(given, uids), ROWS, data)


def test_golden_keep(tmp_path: Path) -> None:
    """A uid's first 16 digits are the first number of the pair."""
    np.save(tmp_path / "list.npy", np.array([(0x9E3779B97F4A7C15, 0xF39CC0605CEDC835)], np.dtype("u8,u8")))
    config = given.Config(file=pinned(tmp_path / "list.npy"), column="uid")
    assert keeping(given, config)(ROWS) == ["000"]


def test_what_is_missing_is_refused_or_allowed(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("000\n001\nnone\n001\n")
    file = pinned(tmp_path / "list.txt")
    with pytest.raises(
        UserError, match=r"^options\.max_missing_fraction: 1 of the 3 images that .*list\.txt lists are not among"
    ):
        keeping(given, given.Config(file=file))(ROWS)
    assert keeping(given, given.Config(file=file, max_missing_fraction=0.4))(ROWS) == ["000", "001"]
    listed = pinned(datacomp(tmp_path / "list.npy", [*UIDS[:3], "0" * 32]))
    with pytest.raises(UserError, match=r"^options\.max_missing_fraction: 1 of the 4 images"):
        keeping(given, given.Config(file=listed, column="uid"))(ROWS)


def test_mistakes(tmp_path: Path) -> None:
    uids = pinned(datacomp(tmp_path / "list.npy", UIDS[:3]))
    np.save(tmp_path / "other.npy", np.arange(4))
    (tmp_path / "picture.jpg").write_bytes(b"\xff\xd8\xff")
    (tmp_path / "broken.npy").write_bytes(b"no array")
    for config, message in [
        (given.Config(file=uids), r"^options\.column: not every 'key' is a uid of 32 hexadecimal digits"),
        (given.Config(file=uids, column="uuid"), r"^options\.column: .* no column 'uuid'; did you mean 'uid'"),
        (
            given.Config(file=pinned(tmp_path / "other.npy"), column="uid"),
            r"^options\.file: .*holds int64 of shape \(4,\), not uids",
        ),
        (
            given.Config(file=pinned(tmp_path / "broken.npy"), column="uid"),
            r"^options\.file: .*broken\.npy is no NumPy array",
        ),
        (given.Config(file=pinned(tmp_path / "picture.jpg")), r"^options\.file: .*picture\.jpg is no text in UTF-8"),
    ]:
        with pytest.raises(UserError, match=message):
            keeping(given, config)(ROWS)
