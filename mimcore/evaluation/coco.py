"""COCO's average precision (Lin et al. 2014, as pycocotools computes it), with standard errors.

The values are those of faster-coco-eval. For the errors detections are matched once, and average precision is computed
again under bootstrap weights of the images (Efron 1979): no image is matched twice.
"""

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from faster_coco_eval.core import mask as coco_mask

from mimcore.evaluation.scenes import Truth
from mimcore.evaluation.task import Metric, Value

#: COCO's thresholds of intersection over union, points of recall, and areas in pixels squared.
OVERLAPS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0, 1, 101)
AREAS = {"all": (0.0, 1e10), "small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, 1e10)}

#: Detections of an image and class that count.
MOST = 100

#: Bootstrap resamples: the standard error is then known to about 7 percent.
RESAMPLES = 100

#: Each metric with its area and its thresholds.
PARTS: dict[str, tuple[str, slice]] = {
    "ap": ("all", slice(0, 10)),
    "ap50": ("all", slice(0, 1)),
    "ap75": ("all", slice(5, 6)),
    "ap_small": ("small", slice(0, 10)),
    "ap_medium": ("medium", slice(0, 10)),
    "ap_large": ("large", slice(0, 10)),
}

METRICS = {
    "ap": Metric("Average precision"),
    "ap50": Metric("Average precision at overlap 0.5"),
    "ap75": Metric("Average precision at overlap 0.75"),
    "ap_small": Metric("Average precision of objects below 32 x 32 pixels"),
    "ap_medium": Metric("Average precision of objects of 32 x 32 to 96 x 96 pixels"),
    "ap_large": Metric("Average precision of objects above 96 x 96 pixels"),
}


@dataclass(frozen=True)
class Detections:
    """What was found in one image, in pixels of the original.

    Attributes:
        boxes: float32 ``(N, 4)``, xyxy.
        scores: float32 ``(N,)``.
        labels: int64 ``(N,)``, 0-based classes.
        masks: COCO's run-length codes of each, where masks are what is found.
    """

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    masks: tuple[dict[str, Any], ...] | None = None


def average_precision(
    truths: list[Truth],
    detections: list[Detections],
    sizes: list[tuple[int, int]],
    classes: int,
    seed: int,
    masks: bool = False,
) -> dict[str, Value]:
    """COCO's metrics; those of an area that no true box has are left out.

    Args:
        truths: of each image.
        detections: of each image.
        sizes: width and height of each image, pixels.
        classes: number of classes.
        seed: of the bootstrap.
        masks: whether masks are compared, and not boxes.

    Returns:
        A value for each name of ``METRICS`` that exists. Standard errors are None with fewer than 2 images.
    """
    values = _values(truths, detections, sizes, classes, masks)
    errors = bootstrap(truths, detections, classes, seed, masks=masks) if len(truths) > 1 else {}
    return {name: Value(value, errors.get(name)) for name, value in values.items() if value >= 0}


def _values(
    truths: list[Truth], detections: list[Detections], sizes: list[tuple[int, int]], classes: int, masks: bool
) -> dict[str, float]:
    """Run faster-coco-eval; -1 where there is no true box."""
    from faster_coco_eval import COCO, COCOeval_faster

    annotations: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    for image, (truth, found) in enumerate(zip(truths, detections, strict=True), start=1):
        for number, (label, area, crowd) in enumerate(zip(truth.labels, truth.areas, truth.crowd, strict=True)):
            entry = {"image_id": image, "category_id": int(label), "area": float(area), "iscrowd": int(crowd)}
            annotations.append(entry | _shape(truth, number, masks) | {"id": len(annotations) + 1})
        for number, (score, label) in enumerate(zip(found.scores, found.labels, strict=True)):
            entry = {"image_id": image, "category_id": int(label), "score": float(score)}
            results.append(entry | _shape(found, number, masks))
    images = [{"id": i, "width": w, "height": h} for i, (w, h) in enumerate(sizes, start=1)]
    categories = [{"id": label, "name": str(label)} for label in range(classes)]
    truth_set = COCO({"images": images, "annotations": annotations, "categories": categories})
    if not results:
        has = {name: any(_counted(t, AREAS[area]).any() for t in truths) for name, (area, _) in PARTS.items()}
        return {name: 0.0 if has[name] else -1.0 for name in PARTS}
    evaluation = COCOeval_faster(
        truth_set, truth_set.loadRes(results), "segm" if masks else "bbox", print_function=_quiet
    )
    evaluation.run()
    return dict(zip(PARTS, map(float, evaluation.stats[:6]), strict=True))


def _quiet(*_: object) -> None:
    """Print nothing."""


def _shape(owner: Truth | Detections, number: int, masks: bool) -> dict[str, Any]:
    """The box, or mask, of an instance as COCO writes it."""
    if masks:
        return {"segmentation": _codes(owner)[number]}
    x0, y0, x1, y1 = map(float, owner.boxes[number])
    return {"bbox": [x0, y0, x1 - x0, y1 - y0]}


def _codes(owner: Truth | Detections) -> tuple[dict[str, Any], ...]:
    if owner.masks is None:
        raise ValueError("masks are compared, but there are none")
    return owner.masks


def _counted(truth: Truth, area: tuple[float, float]) -> np.ndarray:
    """Which true boxes count in a range of areas, bool ``(N,)``."""
    return ~truth.crowd & (truth.areas >= area[0]) & (truth.areas <= area[1])


def bootstrap(
    truths: list[Truth],
    detections: list[Detections],
    classes: int,
    seed: int,
    resamples: int = RESAMPLES,
    masks: bool = False,
) -> dict[str, float]:
    """Standard errors of the metrics over the draw of test images.

    Returns:
        The standard deviation of each metric over resamples of the images with replacement.
    """
    random = np.random.default_rng(seed)
    weights = random.multinomial(len(truths), np.full(len(truths), 1 / len(truths)), size=resamples)
    tables = weighted(truths, detections, classes, weights, masks)
    return {name: float(np.nanstd(table, ddof=1)) for name, table in tables.items()}


def weighted(
    truths: list[Truth], detections: list[Detections], classes: int, weights: np.ndarray, masks: bool = False
) -> dict[str, np.ndarray]:
    """Compute the metrics of a set that has each image as many times as its weight says.

    Args:
        truths: of each image.
        detections: of each image.
        classes: number of classes.
        weights: int ``(B, images)``.
        masks: whether masks are compared, and not boxes.

    Returns:
        For each metric with at least one true box, float64 ``(B,)``; NaN where a resample has no true box.
    """
    areas = {name: area for name, area in AREAS.items() if any(_counted(truth, area).any() for truth in truths)}
    tables = {name: np.full((classes, len(OVERLAPS), len(weights)), np.nan) for name in areas}
    for label in range(classes):
        for name, area in areas.items():
            image, hit, ignored, positives = _match(truths, detections, label, area, masks)
            total = weights @ positives
            for index in range(len(OVERLAPS)):
                counted = ~ignored[index]
                row = _precision(hit[index][counted], weights[:, image[counted]], total)
                tables[name][label, index] = row
    found = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a resample may have no true box of a class
        for metric, (area_name, thresholds) in PARTS.items():
            if area_name in tables:
                found[metric] = np.nanmean(tables[area_name][:, thresholds], axis=(0, 1))
    return found


def _precision(hit: np.ndarray, weights: np.ndarray, total: np.ndarray) -> np.ndarray:
    """Average precision of detections by falling score: hit bool ``(N,)``, weights ``(B, N)``, total ``(B,)``."""
    if not len(hit):
        return np.where(total > 0, 0.0, np.nan)
    correct = np.cumsum(weights * hit, axis=1, dtype=np.float64)
    precision = correct / np.maximum(np.cumsum(weights, axis=1), 1)
    precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    recall = correct / np.maximum(total, 1)[:, None]
    scores = np.full(len(weights), np.nan)
    for index in np.flatnonzero(total):
        first = np.searchsorted(recall[index], RECALLS)
        scores[index] = precision[index][first[first < len(hit)]].sum() / len(RECALLS)
    return scores


def _match(
    truths: list[Truth], detections: list[Detections], label: int, area: tuple[float, float], masks: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Match the detections of a class.

    Returns:
        Of all detections, by falling score: image ``(N,)``, hit ``(T, N)``, ignored ``(T, N)``; and the true boxes that
        count in each image, ``(images,)``.
    """
    images, scores, hits, ignores = [], [], [], []
    positives = np.zeros(len(truths), np.int64)
    for index, (truth, found) in enumerate(zip(truths, detections, strict=True)):
        mine = truth.labels == label
        counted = _counted(truth, area)[mine]
        positives[index] = counted.sum()
        which = np.flatnonzero(found.labels == label)
        which = which[np.argsort(-found.scores[which], kind="stable")][:MOST]
        if not len(which):
            continue
        overlaps, areas = _compare(truth, found, np.flatnonzero(mine), which, masks)
        hit, ignored = _greedy(overlaps, truth.crowd[mine], counted)
        outside = (areas < area[0]) | (areas > area[1])
        images.append(np.full(len(which), index))
        scores.append(found.scores[which])
        hits.append(hit & ~ignored)
        ignores.append(ignored | (~hit & outside))
    if not images:
        empty = np.zeros((len(OVERLAPS), 0), bool)
        return np.zeros(0, np.int64), empty, empty, positives
    order = np.argsort(-np.concatenate(scores), kind="stable")
    hit, ignored = np.concatenate(hits, axis=1)[:, order], np.concatenate(ignores, axis=1)[:, order]
    return np.concatenate(images)[order], hit, ignored, positives


def _compare(
    truth: Truth, found: Detections, mine: np.ndarray, which: np.ndarray, masks: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Overlaps of the detections ``which`` with the true ones ``mine``, float64 ``(N, M)``, and areas of the former, ``(N,)``."""
    if not masks:
        boxes = found.boxes[which]
        return _overlaps(boxes, truth.boxes[mine], truth.crowd[mine]), (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    seen, true = ([_codes(owner)[number] for number in numbers] for owner, numbers in ((found, which), (truth, mine)))
    areas = np.asarray(coco_mask.area(seen), np.float64)
    if not true:
        return np.zeros((len(seen), 0)), areas
    return np.asarray(coco_mask.iou(seen, true, truth.crowd[mine].astype(np.uint8)), np.float64), areas


def _greedy(overlaps: np.ndarray, crowd: np.ndarray, counted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Give each detection, best first, the true box that overlaps it most; boxes that do not count come second.

    Returns:
        matched and matched to a box that does not count, bool ``(T, N)``.
    """
    matched = np.zeros((len(OVERLAPS), len(overlaps)), bool)
    ignored = np.zeros_like(matched)
    if not len(crowd):
        return matched, ignored
    taken = np.zeros((len(OVERLAPS), len(crowd)), bool)
    rows = np.arange(len(OVERLAPS))
    for index, overlap in enumerate(overlaps):
        free = (~taken | crowd) & (overlap >= np.minimum(OVERLAPS, 1 - 1e-10)[:, None])
        first, second = free & counted, free & ~counted
        choice = np.where(first.any(axis=1)[:, None], first, second)
        # COCO takes the last of equal overlaps.
        best = len(crowd) - 1 - np.where(choice, overlap, -1)[:, ::-1].argmax(axis=1)
        matched[:, index] = choice.any(axis=1)
        ignored[:, index] = matched[:, index] & ~counted[best]
        taken[rows, best] |= matched[:, index]
    return matched, ignored


def _overlaps(found: np.ndarray, true: np.ndarray, crowd: np.ndarray) -> np.ndarray:
    """Intersection over union, or over the detection for crowds, float64 ``(N, M)``."""
    found, true = found.astype(np.float64), true.astype(np.float64)
    low = np.maximum(found[:, None, :2], true[None, :, :2])
    high = np.minimum(found[:, None, 2:], true[None, :, 2:])
    shared = (high - low).clip(min=0).prod(axis=2)
    first = (found[:, 2:] - found[:, :2]).prod(axis=1)[:, None]
    second = (true[:, 2:] - true[:, :2]).prod(axis=1)[None]
    union = np.where(crowd[None], first, first + second - shared)
    return np.asarray(shared / np.maximum(union, 1e-12))
