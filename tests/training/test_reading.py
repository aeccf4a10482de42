"""Objectives that read columns of the subset, from the loop to the validation loss."""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import Generator, Tensor, nn

from mimcore.data.loader import Batches
from mimcore.models.objective import Trained, drawn_for, rows_of
from mimcore.training.reading import reading


class Counts(Trained):
    """Reads the labels; a null is -1."""

    columns = ("label",)

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Identity()

    def draw(self, batch: int, generator: Generator) -> dict[str, Tensor]:
        return {"noise": torch.rand(batch, generator=generator)}

    def read(self, rows: pa.Table) -> dict[str, Tensor]:
        return {"label": torch.tensor([-1 if v is None else v for v in rows["label"].to_pylist()])}


class Rows:
    """A table whose images are not looked at."""

    def __init__(self, images: int) -> None:
        self.rows = pa.table({"label": pa.array(range(images)), "other": pa.nulls(images)})

    def __len__(self) -> int:
        return self.rows.num_rows


@pytest.mark.parametrize(("rank", "world_size"), [(0, 1), (0, 2), (1, 2)])
def test_what_is_read_belongs_to_the_images_of_the_step(rank: int, world_size: int) -> None:
    batches = Batches(Rows(10), 4, "s0", repeats=2, rank=rank, world_size=world_size)  # type: ignore[arg-type]
    found: Iterator[dict[str, Tensor] | None] = reading(Counts(), batches, 1, 9)
    for step, read in zip(range(1, 9), found, strict=True):
        assert read is not None
        np.testing.assert_array_equal(read["label"], batches.positions(step))


def test_nothing_is_read_where_no_column_is_named() -> None:
    objective = Counts()
    objective.columns = ()
    assert list(reading(objective, Batches(Rows(3), 1, "s0"), 0, 2)) == [None, None]  # type: ignore[arg-type]


def test_images_of_which_nothing_is_known_and_parts() -> None:
    drawn = drawn_for(Counts(), 3, torch.Generator().manual_seed(0))
    assert isinstance(drawn, dict)
    assert drawn["label"].tolist() == [-1, -1, -1]
    part = rows_of(drawn, slice(1, 3))
    assert isinstance(part, dict)
    assert torch.equal(part["noise"], drawn["noise"][1:3])
