"""What changes only the speed: never a DVC parameter, so that more workers retrain nothing."""

import ctypes
import os
import sys
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from mimcore.definition import Definition
from mimcore.errors import UserError

if TYPE_CHECKING:
    import torch


class Execution(Definition):
    """The ``execution`` block of ``params.yaml``."""

    #: ``auto`` takes a CUDA GPU if there is one.
    device: Literal["auto", "cpu", "cuda"] = "auto"
    #: CPU threads of one process; 0 takes as many as OMP_NUM_THREADS says, else every core that the process may use.
    threads: int = Field(0, ge=0)
    #: Workers that read and decode images ahead of the training step; 0 decodes in the training thread.
    workers: int = Field(1, ge=0)
    #: What they are. Threads share the memory of decoded images; processes do more on many cores (docs/loader.md).
    worker_kind: Literal["thread", "process"] = "thread"
    #: Memory for decoded images, MiB: a data set that fits is decoded once per process.
    image_cache_mib: int = Field(1024, ge=0)
    #: Processes that look at the shards of a pool while it is indexed; 0 takes every core that this process may use,
    #: whatever number of threads OMP_NUM_THREADS says.
    index_workers: int = Field(0, ge=0)
    #: Address of a Dask scheduler whose workers look at shards instead, such as ``tcp://host:8786``.
    index_cluster: str | None = None
    #: Images of a step that go through the model at once; ``auto`` takes what fits into memory. The batch and its result stay the
    #: same, up to rounding.
    micro_batch: Literal["auto"] | Annotated[int, Field(ge=1)] = "auto"
    #: Compute activations again for the backward pass instead of keeping them: a third more work, far less memory.
    activation_checkpointing: bool = False
    #: Compile the model: ``default``, or ``reduce-overhead`` with CUDA graphs for small models on a GPU (docs/training.md).
    compile: Literal["off", "default", "reduce-overhead"] = "off"
    #: Write what the terminal shows as live files as well, into the scratch folder of the run.
    live: list[Literal["dvclive", "tensorboard"]] = Field(default_factory=list)
    #: Processes that train one run on this machine, each with a part of every batch; under ``torchrun``, it says how many.
    ranks: int = Field(1, ge=1)
    #: How ranks share the work: ``ddp`` (each has all weights), ``fsdp`` (each has a part of every tensor), or ``auto``: ``fsdp``
    #: where the training state would fill more than half of a GPU.
    parallel: Literal["auto", "ddp", "fsdp"] = "auto"
    #: How often ranks that died are started again, from the last checkpoint.
    restarts: int = Field(3, ge=0)
    #: Take kernels that give the same bits each time, where there are such, on a GPU; a CPU's do anyway.
    deterministic: bool = False
    #: Seconds between checkpoints of a run in progress.
    checkpoint_seconds: float = Field(60, gt=0)

    def start(self) -> "torch.device":
        """Set the number of threads and return the device.

        Raises:
            UserError: a GPU is asked for and there is none.
        """
        import torch

        if sys.platform == "linux":
            _keep_freed_memory()
        torch.set_num_threads(self.threads or _cores())
        if self.deterministic:
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what cuBLAS needs for it
            torch.use_deterministic_algorithms(True, warn_only=True)
        if self.device == "cuda" and not torch.cuda.is_available():
            raise UserError("execution.device: 'cuda' is asked for, but torch sees no GPU; use 'auto' or 'cpu'.")
        use_cuda = self.device == "cuda" or (self.device == "auto" and torch.cuda.is_available())
        return torch.device("cuda" if use_cuda else "cpu")

    def index_processes(self) -> int:
        """How many processes look at shards."""
        return self.index_workers or _usable_cores()


def slow_precision(device: "torch.device", precision: str) -> str | None:
    """A sentence where a CPU would have to emulate the precision, which takes ten times as long or more; else None."""
    import torch

    able = torch.cpu.get_capabilities()
    native = able.get("architecture") != "x86_64" or able.get("amx_bf16") or able.get("avx512_bf16")
    if device.type != "cpu" or precision != "bfloat16" or native:
        return None
    return "this CPU has no bfloat16 arithmetic and is very slow at it; set 'precision: float32' in the run's schedule."


def _cores() -> int:
    told = os.environ.get("OMP_NUM_THREADS", "")
    return (int(told) if told.isdigit() else 0) or _usable_cores()


def _usable_cores() -> int:
    return len(os.sched_getaffinity(0))


def _keep_freed_memory() -> None:
    """Let glibc reuse large blocks instead of returning them: a training step asks for the same ones again.

    Spares the page faults of fresh blocks; docs/performance.md has what was seen.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        m_trim_threshold, m_mmap_threshold = -1, -3  # numbers of glibc's malloc.h
        libc.mallopt(m_mmap_threshold, 1 << 30)
        libc.mallopt(m_trim_threshold, 1 << 30)
