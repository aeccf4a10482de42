"""Bytes kept on disk up to a limit, the longest unused thrown out first; shared by processes without a lock.

An entry is written beside its place and renamed, and ends with a checksum: whatever else is found is as good as absent.
"""

import hashlib
import logging
import os
import threading
import zlib
from contextlib import suppress
from pathlib import Path

#: Of the limit: so much may be written by one process before the folder is measured again, and is freed beyond the limit.
_SLACK = 1 / 16
_CHECK = 4


class DiskCache:
    """A folder of entries; safe to use from several threads and processes. It never raises: a cache may only miss."""

    def __init__(self, folder: Path, limit_bytes: int) -> None:
        """Touch nothing yet.

        Args:
            folder: of the entries; made when the first one is kept.
            limit_bytes: of all entries. Each process that writes may pass it by a sixteenth.
        """
        self.folder = folder
        self.limit_bytes = limit_bytes
        self._lock = threading.Lock()
        #: Bytes written since the folder was last measured; infinite before it ever was.
        self._written = float("inf")
        self._warned = False

    def get(self, name: str) -> bytes | None:
        """The bytes of an entry, which now is the latest used; None if there is no whole one."""
        path = self._path(name)
        try:
            data = path.read_bytes()
            if len(data) >= _CHECK and zlib.crc32(data[:-_CHECK]).to_bytes(_CHECK, "little") == data[-_CHECK:]:
                os.utime(path)
                return data[:-_CHECK]
            path.unlink(missing_ok=True)
        except OSError:  # Thrown out meanwhile, or never there.
            pass
        return None

    def put(self, name: str, data: bytes) -> None:
        """Keep an entry; nothing is kept where it does not fit or the disk is full."""
        if len(data) > self.limit_bytes * _SLACK:
            return
        path = self._path(name)
        part = path.with_name(f".{path.name}.part-{os.getpid()}-{threading.get_ident()}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            part.write_bytes(data + zlib.crc32(data).to_bytes(_CHECK, "little"))
            part.replace(path)
        except OSError as error:
            with suppress(OSError):
                part.unlink(missing_ok=True)
            self._warn(error)
            return
        with self._lock:
            self._written += len(data) + _CHECK
            if self._written > self.limit_bytes * _SLACK:
                self._throw_out()
                self._written = 0

    def _path(self, name: str) -> Path:
        digest = hashlib.sha256(name.encode()).hexdigest()[:40]
        return self.folder / digest[:2] / digest[2:]

    def _throw_out(self) -> None:
        """Measure the folder, and remove the longest unused entries where it holds more than the limit."""
        entries, held = [], 0
        for folder in self._folders():
            try:
                with os.scandir(folder) as files:
                    for file in files:
                        with suppress(OSError):
                            about = file.stat()
                            entries.append((about.st_mtime_ns, about.st_size, file.path))
                            held += about.st_size
            except OSError:
                continue
        if held <= self.limit_bytes:
            return
        for _, size, path in sorted(entries):
            if held <= self.limit_bytes * (1 - _SLACK):
                break
            with suppress(OSError):
                Path(path).unlink()
            held -= size

    def _folders(self) -> list[str]:
        try:
            with os.scandir(self.folder) as files:
                return [file.path for file in files if file.is_dir(follow_symlinks=False)]
        except OSError:
            return []

    def _warn(self, error: OSError) -> None:
        if not self._warned:
            self._warned = True
            logging.getLogger(__name__).warning(
                "images of S3 are not kept in %s (%s); name another folder in MIMCORE_S3_CACHE.",
                self.folder,
                error.strerror,
            )
