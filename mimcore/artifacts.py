"""Artifacts are written beside their place, flushed to disk, and renamed: whole or not at all."""

import hashlib
import json
import os
import platform
import resource
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from mimcore.errors import UserError

#: Libraries whose version can change a result.
LIBRARIES = ("torch", "torchvision", "timm", "numpy", "pyarrow", "polars", "pillow", "scikit-learn", "scipy")


@contextmanager
def directory(path: Path) -> Iterator[Path]:
    """Yield an empty folder that becomes ``path`` if the block ends well, and vanishes if it does not.

    Raises:
        UserError: the disk is full or cannot be written; nothing half-written is left.
    """
    part = path.with_name(f".{path.name}.part-{os.getpid()}")
    try:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        yield part
        for file in sorted(part.rglob("*")):
            _flush(file)
        _flush(part)
        if path.is_dir():
            shutil.rmtree(path)
        part.rename(path)
        _flush(path.parent)
    except OSError as error:
        raise _disk_sentence(error, path) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


@contextmanager
def file(path: Path) -> Iterator[Path]:
    """Yield a path beside ``path`` that takes its place if the block ends well.

    Raises:
        UserError: the disk is full or cannot be written; nothing half-written is left.
    """
    part = path.with_name(f".{path.name}.part-{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield part
        _flush(part)
        part.replace(path)
        _flush(path.parent)
    except OSError as error:
        raise _disk_sentence(error, path) from error
    finally:
        part.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as JSON, in one piece; the same value always gives the same bytes."""
    with file(path) as part:
        part.write_text(json_text(value), encoding="utf-8")


def json_text(value: Any) -> str:
    """What ``write_json`` writes."""
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def read_json(path: Path) -> Any:
    """Read a JSON artifact.

    Raises:
        UserError: it is missing or broken.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} is missing; bring it up to date with 'dvc repro'.") from None
    except json.JSONDecodeError as error:
        raise UserError(f"{path} is not valid JSON ({error}); delete it and run 'dvc repro'.") from None


def digest(value: Any) -> str:
    """SHA-256 of the canonical JSON of ``value``, in hexadecimal."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal.

    Raises:
        UserError: it is missing.
    """
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except FileNotFoundError:
        raise UserError(f"{path} is missing; bring it up to date with 'dvc repro'.") from None


def libraries() -> dict[str, str]:
    """Versions of the installed libraries that can change a result."""
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


class Provenance:
    """Records how an artifact came to be, in a file of its own that no stage depends on.

    Used as a context manager around the work; written only if the work ends well. ``record`` may be
    filled during the work (images seen, FLOPs, device).
    """

    def __init__(self, path: Path, stage: str, definition: Mapping[str, Any], inputs: Mapping[str, str]) -> None:
        self.path = path
        self.record: dict[str, Any] = {
            "stage": stage,
            "definition": dict(definition),
            "inputs": dict(inputs),
        }

    def __enter__(self) -> Self:
        self._start = time.monotonic()
        self.record["started"] = datetime.now(UTC).isoformat(timespec="seconds")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            return
        self.record |= {
            "wall_seconds": round(time.monotonic() - self._start, 3),
            "peak_memory_mib": _peak_memory_mib(),
            "python": platform.python_version(),
            "platform": platform.platform(),
            "libraries": libraries(),
        }
        write_json(self.path, self.record)


def _peak_memory_mib() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak // (1024 * 1024) if sys.platform == "darwin" else peak // 1024)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _disk_sentence(error: OSError, path: Path) -> UserError:
    what = (error.strerror or str(error)).lower()
    return UserError(f"cannot write {path}: {what}; nothing was left there. Free or mend the disk and run again.")
