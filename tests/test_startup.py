"""What a process of ours leaves out, in a process of its own."""

import subprocess
import sys

import pytest
import torch

BEGIN = "from mimcore.startup import prepare; prepare(); import torch;"
without_gpu = pytest.mark.skipif(torch.accelerator.is_available(), reason="a GPU is here, and Triton is of use")


def said(code: str) -> str:
    found = subprocess.run([sys.executable, "-c", BEGIN + code], capture_output=True, text=True, check=True)
    return found.stdout.strip()


@without_gpu
def test_timm_does_not_load_triton_where_there_is_no_gpu() -> None:
    assert said("import timm, sys; print('timm' in sys.modules, 'triton' in sys.modules)") == "True False"


def test_triton_is_there_for_a_gpu() -> None:
    code = "torch.accelerator.is_available = lambda: True; from importlib.util import find_spec; print(find_spec('triton'))"
    here = subprocess.run([sys.executable, "-c", "import triton"], capture_output=True, check=False).returncode == 0
    assert (said(code) != "None") == here


def printed(code: str) -> list[int]:
    """What a process prints that loads torch, without ``prepare`` and with it."""
    begins = ("", "from mimcore.startup import prepare; prepare();")
    commands = [[sys.executable, "-c", code.format(begin=begin)] for begin in begins]
    return [int(subprocess.run(one, capture_output=True, text=True, check=True).stdout) for one in commands]


def test_loading_torch_is_not_held_up_by_looking_for_garbage() -> None:
    """Torch makes a million objects that stay: at Python's own threshold they are gone through hundreds of times."""
    without, ours = printed("import gc; {begin} import torch; print(sum(one['collections'] for one in gc.get_stats()))")
    assert ours < without / 5


def test_what_stays_until_the_end_is_not_gone_through_again() -> None:
    without, ours = printed(
        "import atexit, gc; atexit.register(lambda: print(gc.get_freeze_count())); {begin} import torch"
    )
    assert without == 0
    assert ours > 100_000
