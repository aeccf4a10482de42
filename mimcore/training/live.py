"""What a run tells while it trains: speed, waiting, use of the hardware, gradients, memory."""

import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import torch

from mimcore.errors import UserError
from mimcore.training.state import Run

#: Seconds between two reports: to read a figure is to wait for the device, once in so long.
SECONDS = 10.0
#: Side of the matrices whose product tells the device's rate.
_SIDE = {"cpu": 1024, "cuda": 8192}

T = TypeVar("T")
Write = Callable[[int, dict[str, float]], None]


class Watch:
    """Measures a loop between two reports.

    Args:
        run: is looked at.
        flops_per_image: counted, of a training step.
        folder: live files of the writers are put here.
        writers: ``dvclive`` and ``tensorboard``.
        seconds: between two reports.

    Raises:
        UserError: a writer is not installed.
    """

    def __init__(
        self, run: Run, flops_per_image: float, folder: Path, writers: Iterable[str], seconds: float = SECONDS
    ) -> None:
        self._run, self._flops, self._seconds = run, flops_per_image, seconds
        self._write = [writer(name, folder) for name in writers]
        self._rate = matrix_rate(run.device, run.schedule.precision)
        self._note = ""
        self._restart()

    def _restart(self) -> None:
        self._since, self._step, self._waited = time.perf_counter(), self._run.step, 0.0

    def waiting(self, batches: Iterable[T]) -> Iterator[T]:
        """Yield the batches, and count the time that they are waited for."""
        arriving = iter(batches)
        while True:
            begun = time.perf_counter()
            try:
                batch = next(arriving)
            except StopIteration:
                return
            self._waited += time.perf_counter() - begun
            yield batch

    def note(self) -> str:
        """A few words for the terminal, after each step; new ones when the time has come."""
        if time.perf_counter() - self._since >= self._seconds:
            figures = self.figures()
            for write in self._write:
                write(self._run.step * self._run.schedule.batch_size, figures)
            self._note = (
                f"MFU {figures['model_flops_utilisation']:.0%}, waits for data {figures['data_wait_share']:.0%}, "
                f"gradient {figures['gradient_norm']:.2g}, rate {figures['learning_rate']:.1e}, {figures['memory_mib']:,.0f} MiB"
            )
            self._restart()
        return self._note

    def figures(self) -> dict[str, float]:
        """Figures since the last report; waits for the device."""
        run = self._run
        norm, skipped = float(run.gradient_norm), int(run.skipped)
        spent = time.perf_counter() - self._since
        rate = (run.step - self._step) * run.schedule.batch_size / spent
        return {
            "images_per_second": rate,
            "data_wait_share": self._waited / spent,
            "model_flops_utilisation": rate * self._flops / self._rate,
            "gradient_norm": norm,
            "learning_rate": run.schedule.learning_rate(max(run.step - 1, 0)),
            "memory_mib": memory(run.device) / 2**20,
            "skipped_steps": skipped,
            "seconds_left": (run.schedule.images_seen - run.step * run.schedule.batch_size) / rate if rate else 0.0,
        }


def memory(device: torch.device) -> float:
    """Bytes at most up to now: of tensors on a GPU, or of this process."""
    import resource

    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def matrix_rate(device: torch.device, precision: str) -> float:
    """FLOP/s of a product of two square matrices in a schedule's precision, the best of five."""
    side, dtype = _SIDE[device.type], torch.bfloat16 if precision == "bfloat16" else torch.float32
    a = torch.ones(side, side, device=device, dtype=dtype)
    best = float("inf")
    for _ in range(5):
        begun = time.perf_counter()
        (a @ a)[0, 0].item()
        best = min(best, time.perf_counter() - begun)
    return 2 * side**3 / best


def writer(name: str, folder: Path) -> Write:
    """What writes figures by the number of images seen into ``folder``.

    Raises:
        UserError: its library is not installed.
    """
    try:
        if name == "dvclive":
            from dvclive.live import Live

            live: Any = Live(str(folder / "dvclive"), save_dvc_exp=False, dvcyaml=None, report=None, resume=True)

            def to_dvclive(images_seen: int, figures: dict[str, float]) -> None:
                live.step = images_seen
                for key, value in figures.items():
                    live.log_metric(key, value)
                live.make_summary()

            return to_dvclive
        from torch.utils.tensorboard import SummaryWriter

        board: Any = SummaryWriter(str(folder / "tensorboard"))
    except ImportError as error:
        raise UserError(
            f"execution.live: '{name}' is not installed ({error}); install it with 'pip install {name}', or take it out of the list."
        ) from None

    def to_tensorboard(images_seen: int, figures: dict[str, float]) -> None:
        for key, value in figures.items():
            board.add_scalar(key, value, images_seen)
        board.flush()

    return to_tensorboard
