"""Random access to objects of S3: near ranges in one request, requests side by side, and a cache on disk."""

import io
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from mimcore.data import s3
from mimcore.data.disk_cache import DiskCache
from mimcore.data.paths import S3Folder, main_checkout
from mimcore.errors import UserError

#: Ranges with at most so many bytes between them are asked for at once: 256 KiB take about 3 ms at the 85 MB/s that one
#: connection of S3 gives, a request of its own some 100 ms until its first byte (Amazon, "Best practices design
#: patterns: optimizing Amazon S3 performance"). Where traffic leaves the region and is paid for, less would be cheaper.
GAP = 256 << 10
#: Bytes of one request at most: the guide's 8 to 16 MB, at the lower end since several are under way at once.
LONGEST = 8 << 20
#: Requests under way at once.
PARALLEL = 32

#: Folder of the cache, and its limit in GiB; 0 keeps nothing.
CACHE, CACHE_GIB = "MIMCORE_S3_CACHE", "MIMCORE_S3_CACHE_GIB"
_CACHE_GIB = 16.0

#: (name, first byte, number of bytes).
Request = tuple[str, int, int]
S = TypeVar("S")
T = TypeVar("T")
_MAKING = threading.Lock()


class Span(NamedTuple):
    """A range that serves several requests."""

    name: str
    start: int
    stop: int
    #: Places of the requests in the sequence that was given.
    requests: list[int]


def merged(requests: Sequence[Request], gap: int = GAP, longest: int = LONGEST) -> list[Span]:
    """Few ranges that hold all that is requested, by name and place.

    Args:
        requests: in any order; they may overlap.
        gap: bytes between two ranges of one object that are taken along at most.
        longest: bytes of a range at most, unless a single request is longer.
    """
    spans: list[Span] = []
    for place in sorted(range(len(requests)), key=lambda place: requests[place]):
        name, start, length = requests[place]
        last = spans[-1] if spans else None
        if last and last.name == name and start - last.stop <= gap and start + length - last.start <= longest:
            last.requests.append(place)
            spans[-1] = last._replace(stop=max(last.stop, start + length))
        else:
            spans.append(Span(name, start, start + length, [place]))
    return spans


class Ranges:
    """Reads ranges of the objects below a folder of S3; safe to use from several threads.

    Each object is pinned at the first access: what replaces it later is refused.
    """

    def __init__(self, folder: S3Folder, kept: DiskCache | None = None) -> None:
        """Ask for nothing yet.

        Args:
            folder: what names count from.
            kept: where what was read is kept.
        """
        self._folder = folder
        self._kept = kept
        self._lock = threading.Lock()
        self._objects: dict[str, s3.Object] = {}

    def object(self, name: str) -> s3.Object:
        """Tag and length of an object, as they were at the first access.

        Raises:
            MissingError: there is no such object.
            UserError: it cannot be had.
        """
        found = self._objects.get(name)
        return found or self._pin(s3.head(self._folder, name))

    def read(self, requests: Sequence[Request]) -> list[bytes]:
        """The bytes of each request, fewer where its object ends before.

        Raises:
            MissingError: there is no such object.
            ReplacedError: it is not the one of the first access.
            UserError: it cannot be had.
        """
        found: list[bytes | None] = [None] * len(requests)
        if self._kept:
            _side_by_side(self.object, {name for name, _, _ in requests} - set(self._objects))
            for place, request in enumerate(requests):
                found[place] = self._kept.get(self._entry(request))
        wanted = [place for place, data in enumerate(found) if data is None and requests[place][2] > 0]
        spans = merged([requests[place] for place in wanted])
        pieces = [piece for span in spans for piece in _pieces(span)]
        fetched = iter(_side_by_side(self._fetch, pieces))
        for span in spans:
            data = b"".join(next(fetched) for _ in _pieces(span))
            for number in span.requests:
                place = wanted[number]
                _, start, length = requests[place]
                part = data[start - span.start : start - span.start + length]
                found[place] = part
                # What an object is too short for is the caller's to refuse.
                if self._kept and len(part) == length:
                    self._kept.put(self._entry(requests[place]), part)
        return [data or b"" for data in found]

    def _fetch(self, span: Span) -> bytes:
        known = self._objects.get(span.name)
        piece = s3.get(self._folder, span.name, span.start, span.stop, known.etag if known else None)
        pinned = self._pin(s3.Object(span.name, piece.total, piece.etag))
        if pinned.etag != piece.etag:
            raise s3.replaced(self._folder, span.name)
        return piece.data

    def _pin(self, found: s3.Object) -> s3.Object:
        with self._lock:
            return self._objects.setdefault(found.name, found)

    def _entry(self, request: Request) -> str:
        name, start, length = request
        return f"{self._folder.bucket}/{self._folder.key(name)}@{self._objects[name].etag}:{start}+{length}"


class RangeFile(io.RawIOBase):
    """An object of S3 as a file in which each read is a request, as pyarrow reads Parquet."""

    def __init__(self, ranges: Ranges, name: str) -> None:
        """Learn its length."""
        self._ranges, self._name = ranges, name
        self._length = ranges.object(name).bytes
        self._place = 0

    def readable(self) -> bool:
        """Yes."""
        return True

    def seekable(self) -> bool:
        """Yes."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Ask for nothing."""
        self._place = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._length}[whence]
        return self._place

    def tell(self) -> int:
        """Where the next read begins."""
        return self._place

    def readinto(self, target: Any) -> int:
        """Fill the target, unless the object ends before."""
        length = max(0, min(len(target), self._length - self._place))
        (data,) = self._ranges.read([(self._name, self._place, length)])
        target[: len(data)] = data
        self._place += len(data)
        return len(data)


def default_cache() -> DiskCache | None:
    """The cache that the environment asks for; by default 16 GiB in ``.mimcore/cache/s3`` of the main checkout.

    Raises:
        UserError: a variable is wrong.
    """
    text = os.environ.get(CACHE_GIB, "")
    try:
        limit = float(text or _CACHE_GIB)
    except ValueError:
        limit = -1
    if not 0 <= limit < float("inf"):
        raise UserError(f"{CACHE_GIB}: '{text}' is no number of GiB; set 0 to keep nothing, or unset it.")
    if limit == 0:
        return None
    named = os.environ.get(CACHE)
    folder = Path(named).expanduser() if named else main_checkout(Path.cwd()) / ".mimcore/cache/s3"
    return DiskCache(folder, int(limit * 2**30))


def ahead(work: Callable[[int], T], count: int, at_once: int) -> Iterator[T]:
    """Results of ``work(0)``, ``work(1)``, ... in order, made in threads, at most ``at_once`` of them ahead."""
    waiting: list[Future[T]] = []
    started = 0
    try:
        for _ in range(count):
            while started < count and len(waiting) < at_once:
                waiting.append(_threads().submit(work, started))
                started += 1
            yield waiting.pop(0).result()
    finally:
        for future in waiting:
            future.cancel()


def _pieces(span: Span) -> Iterator[Span]:
    """A range in pieces that are short enough for one request."""
    for start in range(span.start, span.stop, LONGEST):
        yield Span(span.name, start, min(start + LONGEST, span.stop), [])


def _side_by_side(work: Callable[[S], T], items: Iterable[S]) -> list[T]:
    """``work`` of each item, in their order; the first error ends those that have not begun."""
    items = list(items)
    if len(items) < 2:
        return [work(item) for item in items]
    futures = [_threads().submit(work, item) for item in items]
    try:
        return [future.result() for future in futures]
    except BaseException:
        for future in futures:
            future.cancel()
        raise


def _threads() -> ThreadPoolExecutor:
    """The threads of this process: a forked one has none of its parent's."""
    with _MAKING:
        return _threads_of(os.getpid())


@cache
def _threads_of(process: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(PARALLEL, thread_name_prefix="s3")
