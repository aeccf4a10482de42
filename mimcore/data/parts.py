"""The rows of each shard, kept in a file of their own: what has not changed is not looked at again.

Shards are looked at in this process, in several, or on the workers of a Dask cluster; the rows are the same.
"""

import hashlib
import io
import json
import multiprocessing
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import PIL
import pyarrow as pa
import pyarrow.parquet as pq

from mimcore import artifacts
from mimcore.data.pool import Pool, Shard, ShardIndex, Skipped, load_pool
from mimcore.errors import UserError
from mimcore.lifetime import end_with_parent

#: Seconds of work alone before other processes are started, which takes some seconds too.
ALONE_SECONDS = 3.0
#: Seconds to wait for a Dask scheduler.
_SCHEDULER_SECONDS = 20


@dataclass(frozen=True)
class Part:
    """The rows of a shard on disk, and what was left out."""

    path: Path
    rows: int
    schema: pa.Schema
    skipped: list[Skipped]

    def read(self, columns: list[str] | None = None) -> pa.Table:
        """Its rows; those of the columns that it has, if some are named."""
        wanted = None if columns is None else [name for name in columns if name in self.schema.names]
        return pq.read_table(self.path, columns=wanted, partitioning=None).replace_schema_metadata(None)


@dataclass(frozen=True)
class Work:
    """What another process needs to look at the shards of a pool."""

    name: str
    options: str
    root: str
    digest: str

    def pool(self) -> Pool:
        """The pool, checked once in a process."""
        return _pool(self)


def make_parts(
    name: str,
    options: Mapping[str, Any],
    root: Path,
    shards: list[Shard],
    scratch: Path,
    progress: Callable[[int, int], None],
    workers: int,
    cluster: str | None,
) -> list[Part]:
    """The part of each shard, in their order; those that are missing are made.

    Args:
        name: of the pool.
        options: ``pools.<name>`` of ``params.yaml``.
        root: the folder that relative pool paths count from.
        shards: of the listing.
        scratch: where parts are kept, by options, code and the shard's tag.
        progress: told of (shards done, shards in all).
        workers: processes that look at shards. This one alone does if it takes but seconds.
        cluster: address of a Dask scheduler, whose workers look at them instead.

    Raises:
        UserError: a shard cannot be used, a process is killed, or the cluster cannot be used.
    """
    pool = load_pool(name, options, root)
    work = Work(name, json.dumps(options, sort_keys=True, default=str), str(root.absolute()), _digest(pool))
    folder = scratch.absolute() / "index" / work.digest
    paths = [folder / f"{artifacts.digest(list(shard))[:32]}.parquet" for shard in shards]
    found = {
        path: part for shard, path in zip(shards, paths, strict=True) if (part := _open(path)) and pool.is_made(shard)
    }
    missing = [(shard, path) for shard, path in zip(shards, paths, strict=True) if path not in found]
    done = len(shards) - len(missing)
    if done:
        progress(done, len(shards))
    made = _on_cluster(cluster, work, missing) if cluster and missing else _here(pool, work, missing, workers)
    for _ in made:
        done += 1
        progress(done, len(shards))
    parts = [found.get(path) or _open(path) for path in paths]
    return [part for part in parts if part is not None]


def _digest(pool: Pool) -> str:
    """What the rows of a shard depend on besides the shard: the options, and the code that looks at images."""
    config = pool.config.model_dump(mode="json", exclude={"path", "max_skipped_fraction", "caption_template"})
    return artifacts.digest([config, _code()])[:16]


@cache
def _code() -> str:
    code = hashlib.sha256(PIL.__version__.encode())
    here = Path(__file__).parent
    looking = (here / f"{name}.py" for name in ("decode", "header", "perceptual", "rows"))
    for file in sorted([*(here / "formats").glob("*.py"), *looking]):
        code.update(file.read_bytes())
    return code.hexdigest()


@cache
def _pool(work: Work) -> Pool:
    return load_pool(work.name, json.loads(work.options), Path(work.root))


def _open(path: Path) -> Part | None:
    """The part that lies there; None if there is none, or a broken one."""
    try:
        about = pq.read_metadata(path)
        schema = about.schema.to_arrow_schema()
        skipped = [Skipped(*item) for item in json.loads(schema.metadata[b"skipped"])]
    except (OSError, pa.ArrowException, KeyError, TypeError, ValueError):
        return None
    return Part(path, about.num_rows, schema, skipped)


def _write(found: ShardIndex, target: Any) -> None:
    metadata = {"skipped": json.dumps([list(item) for item in found.skipped])}
    pq.write_table(found.rows.replace_schema_metadata(metadata), target, compression="zstd")


def _make(pool: Pool, shard: Shard, path: Path) -> None:
    found = pool.index_shard(shard)
    with artifacts.file(path) as part:
        _write(found, part)


def _make_there(work: Work, shard: Shard, path: Path) -> None:
    _make(work.pool(), shard, path)


def _make_bytes(work: Work, shard: Shard) -> bytes:
    """A part, made on a machine that may share no disk with the one that asked."""
    pool = work.pool()
    if _digest(pool) != work.digest:
        raise UserError(
            f"pool '{work.name}': a Dask worker runs other code or another Pillow than this checkout; start the workers of"
            " execution.index_cluster within the same state of it."
        )
    target = io.BytesIO()
    _write(pool.index_shard(shard), target)
    return target.getvalue()


def _here(pool: Pool, work: Work, missing: list[tuple[Shard, Path]], workers: int) -> Iterator[None]:
    start = time.monotonic()
    for number, (shard, path) in enumerate(missing):
        left = missing[number:]
        if min(workers, len(left)) > 1 and time.monotonic() - start >= ALONE_SECONDS:
            yield from _in_processes(min(workers, len(left)), work, left)
            return
        _make(pool, shard, path)
        yield


def _in_processes(workers: int, work: Work, missing: list[tuple[Shard, Path]]) -> Iterator[None]:
    # Not forked: the threads of pyarrow and of S3 do not come along.
    context = multiprocessing.get_context("spawn")
    executor = ProcessPoolExecutor(workers, context, _start_process)
    try:
        for future in as_completed([executor.submit(_make_there, work, shard, path) for shard, path in missing]):
            yield future.result()
    except BrokenProcessPool:
        raise UserError(
            f"pool '{work.name}': a process that looked at shards was killed, perhaps for its memory; set"
            " execution.index_workers lower and run again: what was looked at is kept."
        ) from None
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


def _start_process() -> None:
    end_with_parent(signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    pa.set_cpu_count(1)


def _on_cluster(address: str, work: Work, missing: list[tuple[Shard, Path]]) -> Iterator[None]:
    try:
        from distributed import Client, KilledWorker
        from distributed import as_completed as completed
    except ImportError:
        raise UserError(
            "execution.index_cluster: Dask is not installed; run 'pip install \"mimcore[cluster]\"', or leave it out."
        ) from None
    try:
        client = Client(  # type: ignore[no-untyped-call]
            address, timeout=_SCHEDULER_SECONDS, set_as_default=False
        )
    except (OSError, TimeoutError, ValueError) as error:
        raise UserError(
            f"execution.index_cluster: no Dask scheduler answers at {address} ({type(error).__name__}); start it, or leave"
            " the option out."
        ) from None
    try:
        with client, client.as_current():
            paths = {client.submit(_make_bytes, work, shard, pure=False): path for shard, path in missing}
            for future in completed(list(paths)):  # type: ignore[no-untyped-call]
                content = future.result()
                with artifacts.file(paths.pop(future)) as part:
                    part.write_bytes(content)
                yield
    except KilledWorker:
        raise UserError(
            f"pool '{work.name}': a shard ended three Dask workers, perhaps for their memory; give them more of it and run"
            " again: what was looked at is kept."
        ) from None
