"""The same batches, byte for byte, whoever makes them, from whatever container, wherever a run went on."""

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from mimcore.data import processes
from mimcore.data.loader import Batches, Images
from mimcore.data.splits import read_split
from mimcore.data.views import RandomCrops
from mimcore.errors import UserError

N, BATCH, STEPS, REPEATS = 11, 8, 5, 2
CROPS = RandomCrops("s0", (0.2, 1.0), (3 / 4, 4 / 3))
CONTAINERS = ("tar", "parquet", "folder")


@pytest.fixture(scope="module")
def pools(
    tmp_path_factory: pytest.TempPathFactory, picture: Any, write_tar: Any, indexed: Any
) -> dict[str, tuple[dict[str, Any], pa.Table, Path]]:
    """The same JPEGs and PNGs in each container: options, rows in one order, root."""
    root = tmp_path_factory.mktemp("pools")
    images = {}
    for number in range(N + 1):
        kind = "PNG" if number % 4 == 3 else "JPEG"
        images[f"{number:03d}.{'png' if kind == 'PNG' else 'jpg'}"] = picture(
            number, 70 + 9 * number, 130 - 5 * number, kind
        )
    write_tar(root / "tar/0.tar", dict(list(images.items())[:5]))
    write_tar(root / "tar/1.tar", dict(list(images.items())[5:]))
    (root / "folder").mkdir()
    for name, data in images.items():
        (root / "folder" / name).write_bytes(data)
    (root / "parquet").mkdir()
    table = pa.table({"image": list(images.values()), "key": [name[:3] for name in images]})
    pq.write_table(table, root / "parquet/0.parquet", row_group_size=4)
    found = {}
    more: dict[str, dict[str, Any]] = {
        "folder": {"labels": False},
        "parquet": {"key_column": "key", "train": "*.parquet", "label_column": None},
        "tar": {},
    }
    for container in CONTAINERS:
        options = {"format": container, "path": container, "val_images": 1, **more[container]}
        indexed(root, container, options)
        rows = read_split(root / "artifacts/index" / container, "train")
        whole = pa.concat_tables([rows, read_split(root / "artifacts/index" / container, "val")])
        # The hash that draws the validation split depends on the key, which names the file in a folder.
        order = np.argsort([Path(key).stem for key in whole["key"].to_pylist()])[:N]
        found[container] = options, whole.take(order), root
    return found


@pytest.fixture(scope="module")
def batches(pools: Any) -> Callable[..., Batches]:
    def make(container: str = "tar", view: Any = CROPS, workers: int = 0, **how: Any) -> Batches:
        options, rows, root = pools[container]
        images = Images(options, rows, (24, 32), root, how.pop("cache_mib", 0), how.pop("channels", 3))
        return Batches(images, BATCH, "s0", workers, view, **{"repeats": REPEATS} | how)

    return make


@pytest.fixture(scope="module")
def expected(batches: Any) -> dict[bool, list[np.ndarray]]:
    """By whether crops are taken from images: the batches of the first steps."""
    return {
        crops: [batches(view=CROPS if crops else None).batch(step) for step in range(STEPS)] for crops in (True, False)
    }


def equal(found: list[np.ndarray], wanted: list[np.ndarray]) -> bool:
    return len(found) == len(wanted) and all(np.array_equal(a, b) for a, b in zip(found, wanted, strict=True))


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("ranks", [1, 2, 4])
@pytest.mark.parametrize("workers", [0, 1, 4])
@pytest.mark.parametrize("crops", [True, False])
def test_threads_ranks_and_containers(
    batches: Any, expected: Any, container: str, ranks: int, workers: int, crops: bool
) -> None:
    view = CROPS if crops else None
    parts = [
        list(batches(container, view, workers, rank=rank, world_size=ranks).stream(0, STEPS)) for rank in range(ranks)
    ]
    assert {part.shape for part in parts[0]} == {(BATCH // ranks, 3, 24, 32)}
    assert equal([np.concatenate(step) for step in zip(*parts, strict=True)], expected[crops])


@pytest.mark.parametrize(("container", "workers", "ranks"), [("tar", 1, 2), ("folder", 4, 1), ("parquet", 2, 1)])
def test_processes(batches: Any, expected: Any, container: str, workers: int, ranks: int) -> None:
    parts = [
        list(processes.stream(batches(container, workers=workers, rank=rank, world_size=ranks), 1, STEPS))
        for rank in range(ranks)
    ]
    assert equal([np.concatenate(step) for step in zip(*parts, strict=True)], expected[True][1:])


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.integers(0, 3 * N),
    st.integers(1, 4),
    st.sampled_from(CONTAINERS),
    st.sampled_from([0, 1, 4]),
    st.sampled_from([1, 2, 4]),
    st.booleans(),
)
def test_a_restart_at_any_step_changes_nothing(
    batches: Any, start: int, count: int, container: str, workers: int, ranks: int, crops: bool
) -> None:
    view = CROPS if crops else None
    rank = start % ranks
    through = batches(view=view, rank=rank, world_size=ranks)
    restarted = batches(container, view, workers, rank=rank, world_size=ranks)
    assert equal(
        list(restarted.stream(start, start + count)), [through.batch(step) for step in range(start, start + count)]
    )


@given(st.integers(1, 40), st.integers(1, 5), st.integers(1, 6), st.sampled_from([1, 2, 3]), st.integers(0, 2**32))
@settings(deadline=None, max_examples=60)
def test_each_image_is_shown_once_an_epoch_by_as_many_crops_as_are_asked_for(
    n: int, groups: int, repeats: int, ranks: int, seed: int
) -> None:
    size = groups * repeats * ranks
    parts = [Batches(_Some(n), size, seed, repeats=repeats, rank=r, world_size=ranks) for r in range(ranks)]  # type: ignore[arg-type]
    steps = range(-(-2 * n * repeats // size))
    stream = np.concatenate([part.positions(step) for step in steps for part in parts])
    samples = np.concatenate([part.samples(step) for step in steps for part in parts])
    assert np.array_equal(samples, np.arange(len(stream)))
    for epoch in range(2):
        shown = stream[epoch * n * repeats : (epoch + 1) * n * repeats].reshape(n, repeats)
        assert (shown == shown[:, :1]).all()  # side by side
        assert np.array_equal(np.sort(shown[:, 0]), np.arange(n))


class _Some:
    def __init__(self, n: int) -> None:
        self.n = n

    def __len__(self) -> int:
        return self.n


def test_repeats_differ_and_are_decoded_once(batches: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from mimcore.data import views

    calls = []
    decode = views.decode_scaled
    monkeypatch.setattr(views, "decode_scaled", lambda *given: calls.append(1) or decode(*given))
    batch = batches(repeats=4).batch(0)
    assert len(calls) == BATCH // 4
    assert len({image.tobytes() for image in batch}) == BATCH
    squares = batches(view=None, repeats=4).batch(0)
    assert len({image.tobytes() for image in squares}) == BATCH // 4


def test_one_channel_is_the_luma_of_three(batches: Any) -> None:
    for view in (CROPS, None):
        colour, grey = (batches(view=view, channels=channels).batch(0) for channels in (3, 1))
        assert grey.shape == (BATCH, 1, 24, 32)
        luma = np.stack([np.asarray(Image.fromarray(image.transpose(1, 2, 0)).convert("L")) for image in colour])
        assert np.abs(grey[:, 0].astype(int) - luma).mean() < 2


def test_batches_that_cannot_be_divided(batches: Any) -> None:
    with pytest.raises(UserError, match="batch_size 8 is not a multiple of repeated_augmentation, 3"):
        batches(repeats=3)
    with pytest.raises(UserError, match=r"batch_size 8 is not a multiple of the number of processes that train, 3"):
        batches(world_size=3)


def test_an_error_in_a_process_is_raised_at_its_step(pools: Any, batches: Any) -> None:
    options, rows, root = pools["tar"]
    bad = rows.to_pylist()
    bad[5]["checksum"] = "0" * 16
    images = Images(options, pa.Table.from_pylist(bad, rows.schema), 16, root)
    broken = Batches(images, 2, "s0", 1, CROPS)
    wrong = next(step for step in range(N) if 5 in broken.positions(step))
    stream = processes.stream(broken, 0, N)
    for _ in range(wrong):
        next(stream)
    with pytest.raises(UserError, match="is not the one that was indexed") as caught:
        next(stream)
    assert "Traceback" not in str(caught.value)


class _Killed:
    """A view that kills its process at a step."""

    def get(self, images: Any, positions: Any, samples: np.ndarray, repeats: int) -> np.ndarray:
        if samples[0] >= BATCH:
            os.kill(os.getpid(), signal.SIGKILL)
        return CROPS.get(images, positions, samples, repeats)


def test_a_killed_process_ends_in_a_sentence(batches: Any, expected: Any) -> None:
    stream = processes.stream(batches(view=_Killed(), workers=1), 0, STEPS)
    with pytest.raises(UserError, match=r"a process that makes batches was killed .* lower execution\.workers"):
        list(stream)


FULL = """
import sys
from pathlib import Path
import pyarrow.parquet as pq
from mimcore.data import processes
from mimcore.data.loader import Batches, Images
from mimcore.data.views import RandomCrops
from mimcore.errors import UserError
root = Path(sys.argv[1])
images = Images({"format": "tar", "path": "tar", "val_images": 1}, pq.read_table(root / "rows.parquet"), 256, root)
try:
    list(processes.stream(Batches(images, 8, "s0", 1, RandomCrops("s0", (0.2, 1.0), (1.0, 1.0))), 0, 3))
except UserError as error:
    print(error)
"""


def test_a_full_shared_memory_ends_in_a_sentence(pools: Any) -> None:
    """In a namespace of its own, whose /dev/shm holds less than a batch: 1.5 MiB of pixels."""
    mounted = ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs -o size=1M tmpfs /dev/shm && exec "$@"', "sh"]
    if not shutil.which("unshare") or subprocess.run([*mounted, "true"], capture_output=True, check=False).returncode:
        pytest.skip("mounting a small /dev/shm needs the right to do so")
    _, rows, root = pools["tar"]
    pq.write_table(rows, root / "rows.parquet")
    said = subprocess.run(
        [*mounted, sys.executable, "-c", FULL, str(root)], capture_output=True, text=True, timeout=60, check=True
    )
    assert re.fullmatch(
        r"the shared memory \(/dev/shm\) has no room for the batch of step 0, 1\.5 MiB \(.*\); .*--shm-size.*\n",
        said.stdout,
    ), said


def test_resampling_is_the_same_on_any_number_of_threads(batches: Any, expected: Any) -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        assert np.array_equal(batches().batch(0), expected[True][0])
    finally:
        torch.set_num_threads(before)


def test_batches_on_the_device_are_those_of_the_stream(batches: Any, expected: Any) -> None:
    found = [batch.numpy() for batch in processes.on_device(batches().stream(0, STEPS), torch.device("cpu"))]
    assert equal(found, expected[True])


def test_an_epoch_that_lists_images_several_times_is_the_same_for_processes_and_ranks(batches: Any) -> None:
    epoch = np.array([0, 0, 0, 1, 3, 3], np.int64)
    whole = batches(repeats=1, epoch=epoch)
    shown = np.concatenate([whole.positions(step) for step in range(3 * len(epoch))])
    assert np.bincount(shown, minlength=4).tolist() == [BATCH * 3 * n for n in (3, 1, 0, 2)]
    made = [whole.batch(step) for step in range(2)]
    assert equal(list(processes.stream(batches(repeats=1, epoch=epoch, workers=1), 0, 2)), made)
    halves = [batches(repeats=1, epoch=epoch, rank=rank, world_size=2) for rank in range(2)]
    assert equal([np.concatenate([half.batch(step) for half in halves]) for step in range(2)], made)


def test_an_epoch_of_nothing_is_a_sentence(batches: Any) -> None:
    with pytest.raises(UserError, match="no images to make batches of"):
        batches(epoch=np.zeros(0, np.int64))
