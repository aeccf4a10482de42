"""A contact sheet: what a subset looks like, at a glance."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from mimcore.data.loader import Images

#: Images shown, the first of the draw.
SHOWN = 64
_SIDE = 96
_GAP = 6
_PAPER = 250


def write_sheet(path: Path, drawn: pa.Table, pool_options: Mapping[str, Any], root: Path) -> None:
    """Write a grid of the first images of a draw.

    Args:
        path: the PNG to write.
        drawn: rows in the order of the draw, at least one.
        pool_options: ``pools.<pool>`` of ``params.yaml``.
        root: the folder that relative pool paths count from.
    """
    shown = drawn.slice(0, SHOWN)
    pixels = Images(pool_options, shown, _SIDE, root).get(np.arange(shown.num_rows))
    columns = math.ceil(math.sqrt(len(pixels)))
    lines = math.ceil(len(pixels) / columns)
    step = _SIDE + _GAP
    sheet = np.full((lines * step + _GAP, columns * step + _GAP, 3), _PAPER, np.uint8)
    for number, image in enumerate(pixels):
        top, left = _GAP + number // columns * step, _GAP + number % columns * step
        sheet[top : top + _SIDE, left : left + _SIDE] = image.transpose(1, 2, 0)
    Image.fromarray(sheet).save(path)
