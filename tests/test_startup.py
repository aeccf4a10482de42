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
