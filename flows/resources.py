"""Cores and GPUs of this machine, handed out by file locks, so that no two stages of any flow run are given the same.

The kernel releases a lock when its holder ends in any way: nothing is left for a person to clear.
"""

import fcntl
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO, Annotated, Any, Literal

from pydantic import Field

from mimcore.definition import Definition, problems
from mimcore.errors import UserError

#: Seconds between two looks at a lock that another process holds.
PAUSE = 0.1


class Needs(Definition):
    """What a stage needs: ``meta: {mimcore: {...}}`` in ``dvc.yaml``, a field of DVC's own that makes nothing stale."""

    #: CPU cores; the stage's process is told to use as many threads.
    cores: int = Field(1, ge=1)
    #: GPUs for this stage alone. ``auto`` is one where the machine has any, and none elsewhere.
    gpus: Annotated[int, Field(ge=0)] | Literal["auto"] = 0
    #: Memory, GiB: a machine that has less is refused, and the stages that one flow run starts fit together.
    memory_gib: float = Field(0, ge=0)
    #: How often a stage that failed is tried again.
    retries: int = Field(0, ge=0)


def needs_of(stage: str, meta: Mapping[str, Any]) -> Needs:
    """Read what a stage declares.

    Raises:
        UserError: for all that is wrong with it.
    """
    declared = meta.get("mimcore") or {}
    if wrong := problems(Needs, declared, f"dvc.yaml: {stage}: meta.mimcore"):
        raise UserError("\n".join(wrong))
    return Needs.model_validate(declared)


@dataclass(frozen=True)
class Machine:
    """What this process may use."""

    cores: tuple[int, ...]
    gpus: tuple[str, ...]
    memory_gib: float

    def share(self, stage: str, needs: Needs) -> "Share":
        """What a stage gets here.

        Raises:
            UserError: it needs more than there is.
        """
        gpus = min(1, len(self.gpus)) if needs.gpus == "auto" else needs.gpus
        for what, wanted, there in (
            ("cores", needs.cores, len(self.cores)),
            ("GPUs", gpus, len(self.gpus)),
            ("GiB of memory", needs.memory_gib, round(self.memory_gib, 1)),
        ):
            if wanted > there:
                raise UserError(
                    f"{stage} needs {wanted:g} {what}, and this machine offers {there:g}; "
                    "run it on a larger one, or lower meta.mimcore of that stage in dvc.yaml."
                )
        return Share(needs.cores, gpus, needs.memory_gib)


@dataclass(frozen=True)
class Share:
    """Resources of one machine."""

    cores: int
    gpus: int
    memory_gib: float

    def fits(self, taken: Sequence["Share"], machine: Machine) -> bool:
        """Whether this can be had beside what is taken."""
        return (
            self.cores + sum(s.cores for s in taken) <= len(machine.cores)
            and self.gpus + sum(s.gpus for s in taken) <= len(machine.gpus)
            and self.memory_gib + sum(s.memory_gib for s in taken) <= machine.memory_gib
        )


@cache
def this_machine() -> Machine:
    """The cores that this process may use, the GPUs that it may see, and the memory of the machine."""
    pages, page = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    return Machine(tuple(sorted(os.sched_getaffinity(0))), _gpus(), pages * page / 2**30)


def _gpus() -> tuple[str, ...]:
    """Names for CUDA_VISIBLE_DEVICES: those that an outer one allows, else all that the driver lists.

    MIMCORE_GPUS, a list with commas, stands for the driver's where nvidia-smi is missing.
    """
    if (named := os.environ.get("MIMCORE_GPUS")) is not None:
        found = _split(named)
    elif smi := shutil.which("nvidia-smi"):
        listed = subprocess.run([smi, "-L"], capture_output=True, text=True, check=False).stdout
        found = _listed(listed)
    else:
        found = ()
    outer = os.environ.get("CUDA_VISIBLE_DEVICES")
    if outer is None:
        return found
    allowed: list[str] = []
    for name in _split(outer):
        if name.isdigit():
            match = found[int(name)] if int(name) < len(found) else None
        else:
            match = next((gpu for gpu in found if gpu.startswith(name)), None)
        if match is None:  # as CUDA does it: what follows an unknown one is not seen
            break
        allowed.append(match)
    return tuple(allowed)


def _listed(text: str) -> tuple[str, ...]:
    """UUIDs that ``nvidia-smi -L`` prints; a GPU that is split is offered by its parts."""
    found: list[str] = []
    whole = False
    for uuid in re.findall(r"UUID: ((?:GPU|MIG)-[^)\s]+)", text):
        if uuid.startswith("MIG") and whole:
            found.pop()
        whole = uuid.startswith("GPU")
        found.append(uuid)
    return tuple(found)


def _split(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


@contextmanager
def claim(share: Share, machine: Machine, go_on: Callable[[], None]) -> Iterator[dict[str, str]]:
    """Hold as many cores and GPUs for the length of the block; yields the environment that says so.

    Waits its turn: whoever waits for several gathers them first, and later ones queue behind.

    Args:
        share: what is wanted; the machine has it.
        machine: this machine.
        go_on: called now and then while waiting; may raise to give up.
    """
    folder = slots()
    with ExitStack() as held:
        gpus = _gather(folder, "gpu", machine.gpus, share.gpus, held, go_on)
        _gather(folder, "core", [str(core) for core in machine.cores], share.cores, held, go_on)
        yield {
            "CUDA_VISIBLE_DEVICES": ",".join(gpus),
            # GPUs that are named by their number are counted as nvidia-smi does.
            "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
            "OMP_NUM_THREADS": str(share.cores),
        }


def slots() -> Path:
    """The folder of the locks: one for each user of a machine, whatever flow run or checkout; MIMCORE_SLOTS overrides it.

    Raises:
        UserError: someone else owns it.
    """
    folder = Path(os.environ.get("MIMCORE_SLOTS") or f"/var/tmp/mimcore-{os.getuid()}")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise UserError(f"{folder} belongs to another user; set MIMCORE_SLOTS to a folder of your own.")
    return folder


def _gather(
    folder: Path, kind: str, names: Sequence[str], count: int, held: ExitStack, go_on: Callable[[], None]
) -> list[str]:
    taken: list[str] = []
    if not count:
        return taken
    with ExitStack() as turn:
        wait_for(folder / f"{kind}.turn", turn, go_on)
        while True:
            for name in names:
                if name not in taken and try_lock(folder / f"{kind}-{name.replace('/', '_')}", held):
                    taken.append(name)
                    if len(taken) == count:
                        return taken
            go_on()
            time.sleep(PAUSE)


def wait_for(file: Path, held: ExitStack, go_on: Callable[[], None]) -> None:
    """Lock ``file`` as soon as it is free; ``held`` releases it."""
    while not try_lock(file, held):
        go_on()
        time.sleep(PAUSE)


def try_lock(file: Path, held: ExitStack) -> bool:
    """Lock ``file`` if it is free; ``held`` releases it."""
    stream: IO[str] = file.open("a")
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        stream.close()
        return False
    except BaseException:
        stream.close()
        raise
    held.enter_context(stream)
    return True
