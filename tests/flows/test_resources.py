import subprocess
import sys
import threading
from pathlib import Path

import pytest

from flows import resources
from flows.resources import Machine, Needs, Share, claim, needs_of
from mimcore.errors import UserError

BOX = Machine((0, 1, 2, 3), ("GPU-a", "GPU-b"), 16.0)
LISTED = """GPU 0: NVIDIA X (UUID: GPU-11111111-0000)
GPU 1: NVIDIA X (UUID: GPU-22222222-0000)
  MIG 1g.10gb     Device  0: (UUID: MIG-33333333-0000)
  MIG 1g.10gb     Device  1: (UUID: MIG-44444444-0000)
"""


def nothing() -> None:
    pass


@pytest.fixture(autouse=True)
def _slots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIMCORE_SLOTS", str(tmp_path / "slots"))


def test_a_stage_that_declares_nothing_gets_one_core() -> None:
    assert BOX.share("fit", needs_of("fit", {})) == Share(1, 0, 0)


def test_a_declaration_that_is_wrong_is_refused_with_its_path() -> None:
    with pytest.raises(UserError, match=r"dvc.yaml: fit: meta.mimcore.*core"):
        needs_of("fit", {"mimcore": {"core": 2, "retries": -1}})


@pytest.mark.parametrize(
    ("needs", "words"),
    [
        ({"cores": 5}, "5 cores, and this machine offers 4"),
        ({"gpus": 3}, "3 GPUs, and this machine offers 2"),
        ({"memory_gib": 17}, "17 GiB of memory, and this machine offers 16"),
    ],
)
def test_more_than_the_machine_has_is_refused(needs: dict[str, int], words: str) -> None:
    with pytest.raises(UserError, match=words):
        BOX.share("fit", needs_of("fit", {"mimcore": needs}))


def test_auto_is_a_gpu_where_there_is_one() -> None:
    needs = Needs(gpus="auto")
    assert BOX.share("x", needs).gpus == 1
    assert Machine((0,), (), 1.0).share("x", needs).gpus == 0


def test_what_one_flow_run_starts_fits_together() -> None:
    one = Share(1, 1, 6)
    assert one.fits([one], BOX)
    assert not one.fits([one, one], BOX)  # a third GPU
    assert not Share(1, 0, 6).fits([one, one], BOX)  # 18 GiB
    assert not Share(4, 0, 0).fits([one], BOX)


def test_gpus_are_never_handed_out_doubly() -> None:
    taken: list[str] = []
    inside = threading.Barrier(2)

    def work() -> None:
        with claim(Share(1, 1, 0), BOX, nothing) as environment:
            taken.append(environment["CUDA_VISIBLE_DEVICES"])
            inside.wait(10)

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert sorted(taken) == ["GPU-a", "GPU-b"]


def test_whoever_comes_later_waits_and_a_killed_holder_holds_nothing() -> None:
    code = (
        "import time\nfrom flows.resources import *\n"
        "with claim(Share(1, 2, 0), Machine((0, 1), ('GPU-a', 'GPU-b'), 1.0), lambda: None):\n"
        "    print('held', flush=True)\n    time.sleep(600)\n"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    got = threading.Event()

    def work() -> None:
        with claim(Share(1, 1, 0), BOX, nothing):
            got.set()

    thread = threading.Thread(target=work)
    thread.start()
    assert not got.wait(0.5)
    holder.kill()
    assert got.wait(10)
    thread.join()
    holder.wait()
    holder.stdout.close()


def test_a_stage_without_a_gpu_sees_none_and_is_told_its_threads() -> None:
    with claim(Share(3, 0, 0), BOX, nothing) as environment:
        assert environment["CUDA_VISIBLE_DEVICES"] == ""
        assert environment["OMP_NUM_THREADS"] == "3"


def test_a_split_gpu_is_offered_by_its_parts() -> None:
    assert resources._listed(LISTED) == ("GPU-11111111-0000", "MIG-33333333-0000", "MIG-44444444-0000")


@pytest.mark.parametrize(
    ("outer", "seen"), [("1", ("GPU-b",)), ("GPU-b,GPU-a", ("GPU-b", "GPU-a")), ("", ()), ("0,7,1", ("GPU-a",))]
)
def test_an_outer_list_of_gpus_is_kept_to(outer: str, seen: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIMCORE_GPUS", "GPU-a,GPU-b")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", outer)
    assert resources._gpus() == seen


def test_no_more_cores_than_the_process_may_use() -> None:
    code = (
        "import os; os.sched_setaffinity(0, {0}); from flows.resources import this_machine; print(this_machine().cores)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2]
    )
    assert done.stdout.strip() == "(0,)"
