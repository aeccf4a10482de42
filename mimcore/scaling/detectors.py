"""Detectors of over-fitting, kept apart since they disagree."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mimcore.scaling.table import Array


class Detected(NamedTuple):
    """What was seen of one cell: runs that differ in their length alone.

    ``loss_rose``: the loss of the longest run exceeds the shortest's, by ``loss_change``. ``task_fell``: the task's score at the
    longest is below the best of the shorter ones, ``task_change`` being the difference; None without a task.
    ``gap_widened``: the gap between validation and training loss grew; None without a training loss. ``within_noise``: the change
    of the loss is within what two seeds differ by; None where no seed noise is known.
    """

    cell: str
    loss_rose: bool
    loss_change: float
    task_fell: bool | None
    task_change: float | None
    gap_widened: bool | None
    within_noise: bool | None


def by_length(
    cells: Sequence[str],
    length: Array,
    loss: Array,
    *,
    task: Array | None = None,
    train_loss: Array | None = None,
    noise: float | None = None,
) -> list[Detected]:
    """Compare the longest run of each cell with the shorter ones.

    Runs of one cell and length (seeds) are averaged. A cell of one length is left out.

    Args:
        cells: the name of each run's cell (model and images), N of them.
        length: images seen or iterations, float64 ``(N,)``.
        loss: validation loss, float64 ``(N,)``.
        task: a task's score of which more is better, float64 ``(N,)``.
        train_loss: the loss on training images, float64 ``(N,)``.
        noise: standard deviation of the loss between seeds; a change within twice that of a difference is flagged as noise.
    """
    found = []
    names = np.array(cells)
    for cell in dict.fromkeys(cells):
        here = names == cell
        short, long = length[here].min(), length[here].max()
        if short == long:
            continue
        ends = [here & (length == end) for end in (short, long)]
        change = _change(loss, ends)
        score = None if task is None else _from_best(task, length, here)
        gap = None if train_loss is None else _change(loss - train_loss, ends)
        found.append(
            Detected(
                cell,
                change > 0,
                change,
                None if score is None else score < 0,
                score,
                None if gap is None else gap > 0,
                None if noise is None else abs(change) <= 2 * noise * 2**0.5,
            )
        )
    return found


def _from_best(score: Array, length: Array, here: NDArray[np.bool_]) -> float:
    """The score at the longest minus the best at any shorter length."""
    lengths = np.unique(length[here])
    means = [float(score[here & (length == one)].mean()) for one in lengths]
    return means[-1] - max(means[:-1])


def _change(values: Array, ends: Sequence[NDArray[np.bool_]]) -> float:
    return float(values[ends[1]].mean() - values[ends[0]].mean())
