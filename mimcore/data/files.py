"""The files of a pool, whether they lie in a folder or on S3: what a format lists and reads, and no more."""

import hashlib
import io
import os
import re
from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Protocol

from mimcore.data import s3
from mimcore.data.paths import Root, S3Folder
from mimcore.data.ranges import LONGEST, RangeFile, Ranges, ahead
from mimcore.errors import UserError

#: Bytes read at each end of a file for its fingerprint.
_END = 1 << 16
#: Requests ahead of the one that is being looked at: memory for ``LONGEST`` bytes each.
_AHEAD = 3
#: Small files fetched at once.
_FILES_AHEAD = 32


class Tag(NamedTuple):
    """What tells one state of a file from another."""

    bytes: int
    etag: str


class Files(Protocol):
    """Files below a root. Names are paths below it, with ``/``; what goes wrong is a ``UserError``, with the place."""

    def where(self, name: str = "") -> str:
        """The place of a file, or of the root, for a person."""

    def check(self) -> str | None:
        """What is wrong with the root; None if it is there."""

    def match(self, pattern: str | None) -> list[str]:
        """Names that match a pattern such as ``train-*.tar``, sorted; none for no pattern."""

    def walk(self, base: str) -> list[str] | None:
        """Names of all files below a subfolder; None if it is not there."""

    def exists(self, name: str) -> bool:
        """Whether there is such a file."""

    def tag(self, name: str, end_bytes: int = _END) -> Tag:
        """Length and tag of a file.

        Raises:
            UserError: it is not there or cannot be read.
        """

    def tags(self, names: list[str], end_bytes: int) -> list[Tag | None]:
        """The tag of each file; None for one that is not there."""

    def read(self, name: str) -> bytes:
        """All of a file.

        Raises:
            MissingFileError: it is not there.
            UserError: it cannot be read.
        """

    def read_each(self, names: Iterable[str]) -> Iterator[bytes | None]:
        """All of each file, in their order; None for one that is not there."""

    def open(self, name: str, pinned: str) -> BinaryIO:
        """A file to be read from its start to its end, with short ways back.

        Args:
            name: of the file.
            pinned: its tag as listed, or that of several files of which it is one.
        """

    def table(self, name: str, pinned: str | None) -> Any:
        """What pyarrow opens a Parquet file by; ``pinned`` as for ``open``, None for any state of the file."""


class MissingFileError(UserError):
    """There is no such file."""


def files_of(root: Root) -> Files:
    """The files below a root."""
    return S3Files(root) if isinstance(root, S3Folder) else LocalFiles(root)


def matches(name: str, pattern: str | None) -> bool:
    """Whether a name matches a pattern; as ``match`` of all files would tell."""
    return pattern is not None and _fits(name.split("/"), _parts(pattern))


def _parts(pattern: str) -> list[str]:
    return [part for part in pattern.split("/") if part not in ("", ".")]


def _fits(names: list[str], patterns: list[str]) -> bool:
    if not patterns:
        return not names
    if patterns[0] == "**":
        return any(_fits(names[skipped:], patterns[1:]) for skipped in range(len(names)))
    return bool(names) and fnmatchcase(names[0], patterns[0]) and _fits(names[1:], patterns[1:])


class LocalFiles:
    """Files below a folder of this machine."""

    def __init__(self, folder: Path) -> None:
        """Look at nothing yet."""
        self.folder = folder

    def where(self, name: str = "") -> str:
        """The path."""
        return str(self.folder / name)

    def check(self) -> str | None:
        """Whether the folder is missing."""
        if self.folder.is_dir():
            return None
        return f"there is no folder {self.folder}; correct the path, or fetch the images."

    def match(self, pattern: str | None) -> list[str]:
        """By the file system."""
        found = self.folder.glob(pattern) if pattern else ()
        return sorted(path.relative_to(self.folder).as_posix() for path in found if path.is_file())

    def walk(self, base: str) -> list[str] | None:
        """Links to folders are followed."""
        if not (self.folder / base).is_dir():
            return None
        return [
            (Path(folder) / name).relative_to(self.folder).as_posix()
            for folder, _, names in os.walk(self.folder / base, followlinks=True)
            for name in names
        ]

    def exists(self, name: str) -> bool:
        """Whether there is such a file."""
        return (self.folder / name).is_file()

    def tag(self, name: str, end_bytes: int = _END) -> Tag:
        """By the length and both ends."""
        path = self.folder / name
        try:
            return Tag(path.stat().st_size, fingerprint(path, end_bytes))
        except OSError as error:
            raise _unreadable(path, error) from error

    def tags(self, names: list[str], end_bytes: int) -> list[Tag | None]:
        """One after the other."""
        found: list[Tag | None] = []
        for name in names:
            try:
                found.append(self.tag(name, end_bytes))
            except UserError:
                found.append(None)
        return found

    def read(self, name: str) -> bytes:
        """All of a file."""
        try:
            return (self.folder / name).read_bytes()
        except OSError as error:
            raise _unreadable(self.folder / name, error) from error

    def read_each(self, names: Iterable[str]) -> Iterator[bytes | None]:
        """One after the other."""
        for name in names:
            try:
                yield self.read(name)
            except MissingFileError:
                yield None

    def open(self, name: str, pinned: str) -> BinaryIO:
        """The file itself; its tag was looked at before, and its images have checksums."""
        try:
            return (self.folder / name).open("rb")
        except OSError as error:
            raise _unreadable(self.folder / name, error) from error

    def table(self, name: str, pinned: str | None) -> Any:
        """The path."""
        return self.folder / name


class S3Files:
    """Objects below a prefix of a bucket; listed once, read at their listed state or not at all."""

    def __init__(self, folder: S3Folder) -> None:
        """Ask for nothing yet."""
        self.folder = folder
        self._listed: dict[str, dict[str, Tag]] = {}

    @cached_property
    def _ranges(self) -> Ranges:
        return Ranges(self.folder)

    def where(self, name: str = "") -> str:
        """The address."""
        return f"{self.folder}/{name}" if name else str(self.folder)

    def check(self) -> str | None:
        """Nothing: a prefix is there where objects are, which listing them tells."""
        return None

    def match(self, pattern: str | None) -> list[str]:
        """Of the objects that begin as the pattern does."""
        if not pattern:
            return []
        pattern = "/".join(_parts(pattern))
        literal = re.split(r"[*?\[]", pattern)[0]
        # Without the ending: what lies beside a file by the same name is asked for next.
        prefix = literal if literal != pattern else literal.rpartition(".")[0]
        return sorted(name for name in self._list(prefix) if matches(name, pattern))

    def walk(self, base: str) -> list[str] | None:
        """By the keys."""
        prefix = "" if base == "." else f"{base.rstrip('/')}/"
        return list(self._list(prefix)) or None

    def exists(self, name: str) -> bool:
        """By a listing."""
        return self._find(name) is not None

    def tag(self, name: str, end_bytes: int = _END) -> Tag:
        """As the listing has it."""
        found = self._find(name)
        if found is None:
            raise MissingFileError(f"{self.where(name)} is missing; bring it back, or correct the options of the pool.")
        return found

    def tags(self, names: list[str], end_bytes: int) -> list[Tag | None]:
        """By a listing of what their names have in common."""
        # Letters in common, not folders: a prefix of keys may be any text.
        found = self._list(os.path.commonprefix(names)) if names else {}  # noqa: RUF071
        return [found.get(name) for name in names]

    def read(self, name: str) -> bytes:
        """All of an object, whatever its state."""
        try:
            return self._whole(name)
        except s3.MissingError as error:
            raise MissingFileError(f"{error}; bring it back, or correct the options of the pool.") from None

    def read_each(self, names: Iterable[str]) -> Iterator[bytes | None]:
        """Many at once, in threads."""
        wanted = list(names)

        def one(place: int) -> bytes | None:
            try:
                return self._whole(wanted[place])
            except s3.MissingError:
                return None

        yield from ahead(one, len(wanted), _FILES_AHEAD)

    def open(self, name: str, pinned: str) -> BinaryIO:
        """A stream of long ranges, fetched ahead."""
        found = self._pinned(name, pinned)
        return io.BufferedReader(_Stream(self.folder, found), 1 << 16)

    def table(self, name: str, pinned: str | None) -> Any:
        """A file whose reads are requests."""
        if pinned is not None:
            self._pinned(name, pinned)
        return RangeFile(self._ranges, name)

    def _whole(self, name: str) -> bytes:
        piece = s3.get(self.folder, name, 0, LONGEST)
        if piece.total <= LONGEST:
            return piece.data
        return piece.data + s3.get(self.folder, name, LONGEST, piece.total, piece.etag).data

    def _pinned(self, name: str, pinned: str) -> s3.Object:
        """The object if its tag is the listed one, or one of those that make up the listed one."""
        try:
            found = self._ranges.object(name)
        except s3.MissingError as error:
            raise MissingFileError(f"{error}; bring it back, or pin the pool anew with 'mimcore scan'.") from None
        if pinned != found.etag and not pinned.startswith(f"{found.etag}-") and not pinned.endswith(f"-{found.etag}"):
            raise s3.replaced(self.folder, name)
        return found

    def _list(self, prefix: str) -> dict[str, Tag]:
        known = next((known for known in self._listed if prefix.startswith(known)), None)
        if known is not None:
            return {name: tag for name, tag in self._listed[known].items() if name.startswith(prefix)}
        self._listed[prefix] = {
            found.name: Tag(found.bytes, found.etag) for found in s3.list_objects(self.folder, prefix)
        }
        return self._listed[prefix]

    def _find(self, name: str) -> Tag | None:
        for prefix, listed in self._listed.items():
            if name.startswith(prefix):
                return listed.get(name)
        try:
            found = s3.head(self.folder, name)
        except s3.MissingError:
            return None
        return Tag(found.bytes, found.etag)


class _Stream(RangeFile):
    """An object read from start to end: each byte is fetched once, in long ranges, some of them ahead.

    The range before the present one is kept for short ways back.
    """

    def __init__(self, folder: S3Folder, found: s3.Object) -> None:
        self._folder, self._object = folder, found
        self._length, self._place = found.bytes, 0
        self._kept: dict[int, bytes] = {}
        self._next = 0
        self._coming = self._from(0)

    def readinto(self, target: Any) -> int:
        """As many bytes as the present range has."""
        if self._place >= self._length or not len(target):
            return 0
        number, inside = divmod(self._place, LONGEST)
        data = self._range(number)
        part = data[inside : inside + len(target)]
        target[: len(part)] = part
        self._place += len(part)
        return len(part)

    def close(self) -> None:
        """Ask for no more."""
        if not self.closed:
            self._coming.close()
        super().close()

    def _from(self, first: int) -> Any:
        total = -(-self._length // LONGEST)
        return ahead(lambda step: self._fetch(first + step), total - first, _AHEAD)

    def _fetch(self, number: int) -> bytes:
        start = number * LONGEST
        stop = min(start + LONGEST, self._length)
        return s3.get(self._folder, self._object.name, start, stop, self._object.etag).data

    def _range(self, number: int) -> bytes:
        while number not in self._kept:
            if not self._next <= number <= self._next + _AHEAD:  # A long way, in either direction.
                self._coming.close()
                self._coming, self._next, self._kept = self._from(number), number, {}
            self._kept[self._next] = next(self._coming)
            self._kept.pop(self._next - 2, None)
            self._next += 1
        return self._kept[number]


def fingerprint(path: Path, end_bytes: int = _END) -> str:
    """A cheap digest of a file: of its length, first and last bytes. A copy has the same, wherever and whenever made.

    An edit in the middle that keeps the length is not seen here, but by the checksum of the image when it is read.
    """
    length = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(end_bytes)
        file.seek(max(len(head), length - end_bytes))
        tail = file.read(end_bytes)
    return hashlib.sha256(b"%d\n" % length + head + tail).hexdigest()[:16]


def _unreadable(path: Path, error: OSError) -> UserError:
    if isinstance(error, FileNotFoundError):
        return MissingFileError(f"{path} is missing; bring it back, or correct the options of the pool.")
    return UserError(f"{path} cannot be read ({error.strerror or error}); mend it, or take it out of the pool.")
