"""What an objective reads of the rows of a batch, such as captions, made ahead of the step."""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pyarrow as pa
from torch import Tensor

from mimcore.data.loader import Batches
from mimcore.models.objective import Trained

#: Steps that are read ahead.
AHEAD = 2


def reading(objective: Trained, batches: Batches, start: int, stop: int) -> Iterator[dict[str, Tensor] | None]:
    """Yield what is read for this rank's part of each step; None where the objective reads nothing."""
    if not objective.columns:
        yield from (None for _ in range(start, stop))
        return
    rows = batches.images.rows.select(list(objective.columns))

    def read(step: int) -> dict[str, Tensor]:
        return objective.read(rows.take(pa.array(batches.positions(step))))

    with ThreadPoolExecutor(1, thread_name_prefix="reading") as thread:
        waiting: deque[Future[dict[str, Tensor]]] = deque()
        for step in range(start, stop):
            waiting.extend(
                thread.submit(read, later) for later in range(step + len(waiting), min(step + AHEAD + 1, stop))
            )
            yield waiting.popleft().result()
