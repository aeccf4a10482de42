"""Images made of scikit-learn's 8x8 digits, in the place of a pool."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from sklearn.datasets import load_digits

from mimcore.evaluation.features import FeaturesConfig, extract
from mimcore.evaluation.frozen import Frozen, Split
from mimcore.evaluation.task import Context, Data
from mimcore.models.encoder import Config, Encoder, build


class FakeImages:
    def __init__(self, pictures, columns):
        self.pictures = pictures  # list of uint8 (3, H, W)
        self.rows = pa.table(
            {
                "key": [str(i) for i in range(len(pictures))],
                "width": [p.shape[2] for p in pictures],
                "height": [p.shape[1] for p in pictures],
            }
            | columns
        )

    def __len__(self):
        return len(self.pictures)

    def get(self, positions):
        return np.stack([self.pictures[i] for i in positions])

    def raw(self, position):
        return self.pictures[position]


def digits(first, count, image_size=16):
    """Images of one digit each, with labels."""
    data = load_digits()
    grey = (
        (data.images[first : first + count] * 255 / 16)
        .astype(np.uint8)
        .repeat(image_size // 8, 1)
        .repeat(image_size // 8, 2)
    )
    pictures = [np.repeat(g[None], 3, 0) for g in grey]
    return FakeImages(pictures, {"label": pa.array(data.target[first : first + count], pa.int64())})


def digit_data(train=400, test=200, image_size=16):
    return Data(digits(0, train, image_size), digits(1000, test, image_size), classes=[str(i) for i in range(10)])


def scenes(count, seed, image_size=64, classes=10):
    """Scenes of one to four digits of 12 to 28 pixels on a soft background, with boxes."""
    data = load_digits()
    keep = np.flatnonzero(data.target < classes)
    random = np.random.default_rng(seed)
    pictures, boxes, labels = [], [], []
    for _ in range(count):
        canvas = random.normal(70, 12, (3, image_size, image_size))
        found, kinds = [], []
        for _ in range(random.integers(1, 5)):
            which = keep[random.integers(len(keep))]
            side = int(random.integers(12, 29))
            digit = data.images[which] / 16
            ink = digit[(np.arange(side) * 8 // side)][:, (np.arange(side) * 8 // side)]
            y, x = random.integers(0, image_size - side, 2)
            rows, columns = np.flatnonzero(ink.max(1) > 0.2), np.flatnonzero(ink.max(0) > 0.2)
            box = [x + columns[0], y + rows[0], x + columns[-1] + 1, y + rows[-1] + 1]
            if any(box[0] < b[2] and b[0] < box[2] and box[1] < b[3] and b[1] < box[3] for b in found):
                continue
            colour = random.uniform(140, 255, (3, 1, 1))
            patch = canvas[:, y : y + side, x : x + side]
            patch += ink * (colour - patch)
            found.append([float(v) for v in box])
            kinds.append(int(data.target[which]))
        pictures.append(canvas.clip(0, 255).astype(np.uint8))
        boxes.append(found)
        labels.append(kinds)
    return FakeImages(pictures, box_columns(boxes, labels))


def box_columns(boxes, labels, areas=None, crowd=None):
    areas = areas or [[(b[2] - b[0]) * (b[3] - b[1]) for b in image] for image in boxes]
    crowd = crowd or [[False] * len(image) for image in boxes]
    return {
        "boxes": pa.array(boxes, pa.list_(pa.list_(pa.float32()))),
        "box_labels": pa.array(labels, pa.list_(pa.int32())),
        "box_areas": pa.array(areas, pa.list_(pa.float32())),
        "box_crowd": pa.array(crowd, pa.list_(pa.bool_())),
    }


def encoder(image_size=16, patch_size=4, embed_dim=32, depth=2, num_heads=2, seed=0) -> Encoder:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return build(
            Config(
                architecture="vit_tiny_patch16_224",
                image_size=image_size,
                patch_size=patch_size,
                embed_dim=embed_dim,
                depth=depth,
                num_heads=num_heads,
            )
        )


def frozen(subject, data, folder, **options) -> Frozen:
    """Features of a subject in memory, as a probe gets them."""
    config, where = FeaturesConfig(pool="x", **options), context(folder)
    parts = []
    for images in (data.train, data.test):
        batches = list(extract(subject, images, config, where))
        arrays = {name: torch.cat([batch[name] for batch in batches]).numpy() for name in batches[0]}
        parts.append(Split(images.rows, arrays))
    return Frozen(parts[0], parts[1], data.classes, data.box_classes)


def vectors(count, labels, seed, width=8, columns=None) -> Split:
    """Features around a centre for each label, with noise, in the place of an encoder's."""
    random = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(int(max(labels)) + 1, width))
    numbers = (2 * centres[labels] + random.normal(size=(count, width))).astype(np.float32)
    return Split(pa.table({"label": pa.array(labels, pa.int64())} | (columns or {})), {"mean": numbers})


def context(folder: Path, seed=0, **others) -> Context:
    return Context(device=torch.device("cpu"), seed=seed, folder=folder, where="tasks.t", **others)
