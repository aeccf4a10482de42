"""Scenes of digits with boxes, instance masks and classes, in the place of a pool."""

import io

import numpy as np
import pyarrow as pa
from fakes import FakeImages
from PIL import Image

from mimcore.data.formats._scenes import NAMES, Renderer
from mimcore.evaluation.dense.masks import encode_masks


def dense_scenes(count, first=0, image_size=64, split="train", wide=0, parity=False):
    """Scenes of the embedded pool; ``wide`` columns are added at the right, so that the images are not square;
    with ``parity`` the classes are even and odd."""
    renderer = Renderer(image_size, 0, split)
    pictures, rows = [], []
    for number in range(first, first + count):
        data, truth = renderer.scene(number)
        picture = np.asarray(Image.open(io.BytesIO(data))).transpose(2, 0, 1)
        # Run lengths go down the columns: what is added at the right is only a longer run of nothing.
        pictures.append(np.pad(picture, ((0, 0), (0, 0), (0, wide)), "edge"))
        rows.append(truth)
    images = FakeImages(pictures, {})
    if wide:
        widened(rows, image_size, wide)
    columns = {name: pa.array([row[name] for row in rows]) for name in ("boxes", "box_areas", "box_crowd", "masks")}
    columns["box_labels"] = pa.array(
        [[k % 2 if parity else k for k in row["box_labels"]] for row in rows], pa.list_(pa.int32())
    )
    for name, column in columns.items():
        images.rows = images.rows.append_column(name, column)
    return images


def widened(rows, image_size, wide):
    from faster_coco_eval.core import mask as coco_mask

    for row in rows:
        size = [image_size, image_size]
        masks = np.stack([coco_mask.decode({"size": size, "counts": one.encode()}) for one in row["masks"]])
        row["masks"] = [one["counts"] for one in encode_masks(np.pad(masks, ((0, 0), (0, 0), (0, wide))))]


CLASSES = list(NAMES)
