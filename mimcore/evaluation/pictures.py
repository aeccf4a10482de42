"""Pictures of what a task did."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torchvision.ops import nms

from mimcore.evaluation.coco import Detections
from mimcore.evaluation.scenes import Truth
from mimcore.evaluation.task import Images

#: Pixels: the height of each image in the picture, the space around it, the height of the letters.
SIDE, GAP, LETTERS = 320, 16, 14

#: Paper, ink, and the colours of true and predicted boxes: told apart by those who see no red or green too.
PAPER, INK, TRUE, FOUND = "#ffffff", "#222222", "#56b4e9", "#e69f00"

#: Least score of a detection that is drawn.
SHOWN = 0.3


def draw_detections(
    path: Path, images: Images, truths: list[Truth], found: list[Detections], names: list[str] | None, most: int = 6
) -> None:
    """Draw true and predicted boxes on the first test images, three in a row.

    Args:
        path: a PNG to write.
        images: the test images.
        truths: their boxes.
        found: what was detected in them, in pixels of the original.
        names: of the classes.
        most: images to draw.
    """
    tiles = [_tile(images.raw(i), truths[i], found[i], names) for i in range(min(most, len(images)))]
    columns = min(3, len(tiles))
    rows = [tiles[i : i + columns] for i in range(0, len(tiles), columns)]
    width = max(sum(tile.width + GAP for tile in row) for row in rows) + GAP
    top = GAP + 2 * LETTERS
    sheet = Image.new("RGB", (width, top + len(rows) * (SIDE + GAP)), PAPER)
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(LETTERS)
    x = GAP
    for colour, text in ((TRUE, "annotated"), (FOUND, f"detected (score {SHOWN} or more)")):
        pen.rectangle((x, GAP, x + LETTERS, GAP + LETTERS), outline=colour, width=3)
        pen.text((x + LETTERS + 6, GAP + LETTERS / 2), text, fill=INK, font=font, anchor="lm")
        x += LETTERS + 30 + round(pen.textlength(text, font=font))
    for line, row in enumerate(rows):
        x = GAP
        for tile in row:
            sheet.paste(tile, (x, top + line * (SIDE + GAP)))
            x += tile.width + GAP
    sheet.save(path)


def _tile(pixels: np.ndarray, truth: Truth, found: Detections, names: list[str] | None) -> Image.Image:
    """One image with its boxes, ``SIDE`` pixels high."""
    image = Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)))
    scale = SIDE / image.height
    grown = scale > 2
    tile = image.resize(
        (max(1, min(2 * SIDE, round(image.width * scale))), SIDE),
        Image.Resampling.NEAREST if grown else Image.Resampling.LANCZOS,
    )
    ratio = np.tile([tile.width / image.width, tile.height / image.height], 2)
    pen, font = ImageDraw.Draw(tile), ImageFont.load_default(LETTERS - 2)
    for box in truth.boxes * ratio:
        pen.rectangle(tuple(box.tolist()), outline=TRUE, width=4)
    # Of detections that overlap by half only the best is drawn, whatever their classes, or none could be read.
    best = nms(torch.from_numpy(found.boxes), torch.from_numpy(found.scores), 0.5).numpy()
    for box, score, label in zip(found.boxes[best] * ratio, found.scores[best], found.labels[best], strict=True):
        if score < SHOWN:
            continue
        pen.rectangle(tuple(box.tolist()), outline=FOUND, width=2)
        text = f"{names[label] if names else label} {score:.2f}"
        width = pen.textlength(text, font=font)
        x, y = min(max(0.0, float(box[0])), max(0.0, tile.width - width - 4)), max(0.0, float(box[1]) - LETTERS)
        pen.rectangle((x, y, x + width + 4, y + LETTERS), fill=FOUND)
        pen.text((x + 2, y + LETTERS / 2), text, fill=INK, font=font, anchor="lm")
    return tile
