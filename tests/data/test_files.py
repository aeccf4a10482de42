from pathlib import Path

import pytest

from mimcore.data.files import LocalFiles, matches
from mimcore.data.paths import S3Folder, pool_root
from mimcore.errors import UserError

NAMES = (
    *(
        "a.tar",
        "b.tar",
        "a.parquet",
        ".hidden.tar",
        "train-0.tar",
        "train-10.tar",
        "x/a.tar",
        "x/train-0.tar",
        "x/y/a.tar",
    ),
    *("x/y/z/val-0.tar", "val/a.tar", "[odd].tar", "x.y/a.tar", "a.tar.gz"),
)


@pytest.mark.parametrize(
    "pattern",
    [
        *("*.tar", "train-*.tar", "train-?.tar", "train-[0-9].tar", "[!t]*.tar", "x/*.tar", "*/*.tar", "**/*.tar"),
        *(
            "**/train-*.tar",
            "x/**/a.tar",
            "**/y/*.tar",
            "x/**/*",
            "./a.tar",
            "a.tar",
            "none",
            "x/y",
            "*",
            "**/x/**/a.tar",
        ),
        *("[[]odd].tar", "x.*/*.tar", "x/"),
    ],
)
def test_a_pattern_tells_of_a_name_what_the_file_system_does(tmp_path: Path, pattern: str) -> None:
    for name in NAMES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    found = LocalFiles(tmp_path).match(pattern)
    if pattern != "x/":
        assert found == sorted(name for name in NAMES if matches(name, pattern))
    assert not any(matches(name, None) for name in NAMES)


def test_addresses_on_s3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STORE", "s3://my-bucket")
    for path, bucket, prefix, name, text in [
        ("s3://my-bucket/a/b/", "my-bucket", "a/b", "a/b/x.tar", "s3://my-bucket/a/b"),
        ("s3://my-bucket", "my-bucket", "", "x.tar", "s3://my-bucket"),
        ("$STORE/deep", "my-bucket", "deep", "deep/x.tar", "s3://my-bucket/deep"),
    ]:
        folder = pool_root({"path": path}, tmp_path)
        assert folder == S3Folder(bucket, prefix)
        assert (folder.key("x.tar"), str(folder)) == (name, text)
    for path in ("s3://", "s3:///x", "s3://a b/x", "s3://user:secret@host/x"):
        with pytest.raises(UserError, match="names no bucket") as caught:
            pool_root({"path": path}, tmp_path)
        assert "secret" not in str(caught.value)
