import contextlib
import io
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mimcore.evaluation.coco import PARTS, Detections, average_precision, bootstrap, weighted
from mimcore.evaluation.dense.masks import encode_masks
from mimcore.evaluation.scenes import Truth


def random_set(seed, images=12, classes=3, crowds=True):
    """True boxes of all of COCO's areas, and detections near some of them, with equal scores among them."""
    random = np.random.default_rng(seed)
    truths, found = [], []
    for _ in range(images):
        n = int(random.integers(0, 6))
        corner = random.uniform(0, 300, (n, 2))
        boxes = np.concatenate(
            [corner, corner + random.choice([10, 50, 150], (n, 1)) * random.uniform(0.5, 1.5, (n, 2))], 1
        )
        labels = random.integers(0, classes, n)
        areas = (boxes[:, 2:] - boxes[:, :2]).prod(1) * random.uniform(0.6, 1, n)
        crowd = random.random(n) < (0.2 if crowds else 0)
        truths.append(Truth(boxes.astype(np.float32), labels, areas.astype(np.float32), crowd))
        copies = np.repeat(np.arange(n), random.integers(0, 3, n))
        near = boxes[copies] + random.normal(0, 4, (len(copies), 4))
        kinds = np.where(random.random(len(copies)) < 0.9, labels[copies], random.integers(0, classes, len(copies)))
        m = int(random.integers(0, 3))
        corner = random.uniform(0, 300, (m, 2))
        other = np.concatenate([corner, corner + random.uniform(5, 150, (m, 2))], 1)
        near = np.concatenate([near, other]).astype(np.float32)
        near[:, 2:] = np.maximum(near[:, 2:], near[:, :2] + 1)
        scores = random.uniform(0.05, 1, len(near)).round(1).astype(np.float32)
        found.append(Detections(near, scores, np.concatenate([kinds, random.integers(0, classes, m)])))
    return truths, found


def with_masks(truths, found, side=40):
    """The boxes at an eighth of their size, as ellipses in them."""
    y, x = np.mgrid[0:side, 0:side] + 0.5

    def masks(boxes):
        low, high = boxes[:, :2, None, None] / 8, boxes[:, 2:, None, None] / 8
        across, down = (
            (2 * place - high[:, k] - low[:, k]) / (high[:, k] - low[:, k]) for k, place in ((0, x), (1, y))
        )
        drawn = across**2 + down**2 <= 1
        drawn[:, 0, 0] |= ~drawn.any((1, 2))
        return drawn

    truths = [replace(t, masks=tuple(encode_masks(drawn := masks(t.boxes))), areas=drawn.sum((1, 2))) for t in truths]
    return truths, [replace(f, masks=tuple(encode_masks(masks(f.boxes)))) for f in found]


def pycocotools_stats(truths, found, classes, masks=False):
    annotations, results, kind = [], [], "segm" if masks else "bbox"
    for image, (truth, seen) in enumerate(zip(truths, found, strict=True), start=1):
        for b, k, a, c in zip(truth.boxes.tolist(), truth.labels, truth.areas, truth.crowd, strict=True):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image,
                    "category_id": int(k),
                    "area": float(a),
                    "iscrowd": int(c),
                    "bbox": [b[0], b[1], b[2] - b[0], b[3] - b[1]],
                }
            )
        if masks:
            for entry, code in zip(annotations[len(annotations) - len(truth.boxes) :], truth.masks, strict=True):
                entry["segmentation"] = code
        for b, k, s in zip(seen.boxes.tolist(), seen.labels, seen.scores, strict=True):
            results.append(
                {
                    "image_id": image,
                    "category_id": int(k),
                    "score": float(s),
                    "bbox": [b[0], b[1], b[2] - b[0], b[3] - b[1]],
                }
            )
        if masks:
            for entry, code in zip(results[len(results) - len(seen.boxes) :], seen.masks, strict=True):
                entry["segmentation"] = code
                del entry["bbox"]
    coco = COCO()
    coco.dataset = {
        "images": [{"id": i + 1, "height": 40, "width": 40} for i in range(len(truths))],
        "annotations": annotations,
        "categories": [{"id": k} for k in range(classes)],
        "info": {},
    }
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(results), kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return dict(zip(PARTS, evaluation.stats[:6], strict=True))


@settings(max_examples=15, deadline=None, derandomize=True)
@given(st.integers(0, 10**6), st.booleans())
def test_values_and_our_matching_are_those_of_pycocotools(seed, masks):
    truths, found = random_set(seed)
    if masks:
        truths, found = with_masks(truths, found)
    expected = pycocotools_stats(truths, found, 3, masks)
    values = average_precision(truths, found, [(40, 40) if masks else (500, 500)] * len(truths), 3, seed=0, masks=masks)
    ours = weighted(truths, found, 3, np.ones((1, len(truths)), np.int64), masks)
    assert set(values) == set(ours) == {name for name, value in expected.items() if value >= 0}
    for name, value in values.items():
        assert value.value == pytest.approx(expected[name], abs=1e-9)
        assert ours[name][0] == pytest.approx(expected[name], abs=1e-9)


def test_a_weight_of_two_is_an_image_twice():
    truths, found = random_set(1, images=5)
    twice = weighted(truths, found, 3, np.array([[2, 1, 0, 1, 1]]))
    which = [0, 0, 1, 3, 4]
    expected = pycocotools_stats([truths[i] for i in which], [found[i] for i in which], 3)
    for name, value in twice.items():
        if expected[name] >= 0:
            assert value[0] == pytest.approx(expected[name], abs=1e-9)


def test_standard_error_is_the_spread_over_fresh_test_sets():
    draws = [
        weighted(*random_set(s, images=40, classes=1, crowds=False), 1, np.ones((1, 40), np.int64)) for s in range(60)
    ]
    spread = np.std([d["ap50"][0] for d in draws], ddof=1)
    errors = [bootstrap(*random_set(s, images=40, classes=1, crowds=False), 1, seed=0)["ap50"] for s in range(5)]
    assert np.mean(errors) == pytest.approx(spread, rel=0.4)


def test_nothing_found_is_zero_and_missing_areas_are_left_out():
    box = np.array([[0, 0, 10, 10]], np.float32)
    truth = Truth(box, np.array([0]), np.array([100], np.float32), np.array([False]))
    nothing = Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64))
    values = average_precision([truth], [nothing], [(20, 20)], 1, seed=0)
    assert {name: value.value for name, value in values.items()} == {"ap": 0, "ap50": 0, "ap75": 0, "ap_small": 0}
