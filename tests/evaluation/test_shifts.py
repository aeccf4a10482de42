"""Shifted pools: scores by hand, and pools that are the clean images themselves."""

import dataclasses
import math

import numpy as np
import pyarrow as pa
import pytest
import torch
from fakes import FakeImages, context, digit_data, encoder

from mimcore.evaluation import robustness
from mimcore.evaluation.robustness import Config
from mimcore.evaluation.shifts import Answers, shift_values
from mimcore.evaluation.task import Data, Metric, ShiftedImages, metrics_of


def coded(scores: list[list[int]], labels: list[int]) -> FakeImages:
    """Images whose first pixels are their scores."""
    pictures = []
    for row in scores:
        picture = np.zeros((3, 2, 4), np.uint8)
        picture[0, 0, : len(row)] = row
        pictures.append(picture)
    return FakeImages(pictures, {"label": pa.array(labels, pa.int64())})


def read(images: torch.Tensor) -> torch.Tensor:
    return images[:, 0, 0].float()


def test_answers_are_limited_to_the_classes_of_the_shifted_pool(tmp_path) -> None:
    """By hand: classes 0 to 3, of which the shifted pool has 1 and 3."""
    clean = coded(
        [
            [9, 5, 0, 1],  # class 1: class 0 is ahead, but not asked for: right
            [0, 2, 9, 4],  # class 3: right, of 1 and 3
            [0, 7, 0, 6],  # class 3: wrong
            [9, 8, 0, 0],  # class 0: not compared
            [0, 0, 9, 8],  # class 2: not compared
            [0, 9, 0, 0],  # class 1: right
        ],
        [1, 3, 3, 0, 2, 1],
    )
    shifted = coded(
        [
            [9, 5, 0, 1],  # class 1: right
            [9, 1, 9, 5],  # class 1: wrong
            [0, 3, 9, 2],  # class 3: wrong
            [0, 1, 9, 2],  # class 3: right
            [0, 9, 9, 2],  # class 3: wrong
        ],
        [1, 1, 3, 3, 3],
    )
    data = Data(clean, clean, list("abcd"), shifted={"art": ShiftedImages(shifted, [1, 3])})
    answers = Answers(data)
    for rows in ([0, 1, 2], [3, 4, 5]):
        answers.add(read(torch.from_numpy(clean.get(rows))))
    found = shift_values(read, answers, data, context(tmp_path))
    assert found["top1_art"].value == pytest.approx(2 / 5)
    assert found["gap_art"].value == pytest.approx(3 / 4 - 2 / 5)
    expected = math.hypot(math.sqrt(0.4 * 0.6 / 5), math.sqrt(0.75 * 0.25 / 4))
    assert found["gap_art"].standard_error == pytest.approx(expected)


def test_clean_images_in_another_pool_leave_no_gap(tmp_path) -> None:
    data = digit_data(150, 40)
    few = [row for row, label in enumerate(data.test.rows["label"].to_pylist()) if label in (2, 3, 7)]
    part = FakeImages([data.test.pictures[row] for row in few], {"label": data.test.rows["label"].take(few)})
    same = {"same": ShiftedImages(data.test, list(range(10))), "part": ShiftedImages(part, [2, 3, 7])}
    data = dataclasses.replace(data, shifted=same)
    found = robustness.evaluate(
        encoder(), Config(pool="x", l2=[0.01], shifted=["same", "part"]), data, context(tmp_path)
    )
    assert found["top1_same"].value == pytest.approx(1 - found["clean_error"].value)
    assert found["gap_same"].value == found["gap_part"].value == 0
    # Of three classes no answer is lost to the seven others.
    assert found["top1_part"].value >= found["top1_same"].value


def test_what_a_task_measures_follows_its_options() -> None:
    found = metrics_of(robustness, {"shifted": ["sketch"]})
    assert set(found) == set(robustness.METRICS) | {"top1_sketch", "gap_sketch"}
    assert (found["top1_sketch"].higher_is_better, found["gap_sketch"].higher_is_better) == (True, False)
    assert next(iter(found)) == "mce"
    assert metrics_of(robustness, {}) == robustness.METRICS
    assert all(isinstance(metric, Metric) for metric in found.values())
