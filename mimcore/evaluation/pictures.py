"""Pictures of what a task did."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageColor, ImageDraw, ImageFont
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

#: Least score of a mask that is drawn: below it, masks lie over each other.
SHOWN_MASK = 0.5


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
    _sheet(
        path,
        tiles,
        [(TRUE, "annotated"), (FOUND, f"detected (score {SHOWN} or more)")],
        min(3, len(tiles)),
        filled=False,
    )


def draw_maps(path: Path, shown: list[tuple[np.ndarray, np.ndarray, np.ndarray]], names: list[str]) -> None:
    """Draw images beside their true and predicted classes of pixels, an image to a row.

    Args:
        path: a PNG to write.
        shown: of each image the pixels, uint8 ``(3, H, W)``, and its true and predicted classes, integers ``(H, W)``; a
            negative class is of no account and stays as the image is.
        names: of the classes.
    """
    tiles = []
    for pixels, truth, found in shown:
        tiles += [_fitted(_coloured(pixels, classes)) for classes in (np.full_like(truth, -1), truth, found)]
    present = sorted(
        {int(label) for _, *maps in shown for classes in maps for label in np.unique(classes) if label >= 0}
    )
    key = [(_colour(label), names[label]) for label in present]
    _sheet(path, tiles, [*key, (PAPER, "each image, as annotated, as found")], 3, filled=True)


def draw_instances(
    path: Path,
    shown: list[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]],
    names: list[str] | None,
) -> None:
    """Draw images beside their true and predicted instances, each class in a colour of its own, an image to a row.

    Args:
        path: a PNG to write.
        shown: of each image the pixels, uint8 ``(3, H, W)``, its true masks, bool ``(N, H, W)``, and their classes ``(N,)``, and
            the masks and classes that were found, likewise.
        names: of the classes.
    """
    tiles = []
    for pixels, *sides in shown:
        tiles.append(_fitted(pixels))
        for masks, labels in (sides[:2], sides[2:]):
            painted = pixels
            for mask, label in zip(masks, labels, strict=True):
                painted = _coloured(painted, np.where(mask, int(label), -1))
                edge = mask & ~(
                    mask & np.roll(mask, 1, 0) & np.roll(mask, -1, 0) & np.roll(mask, 1, 1) & np.roll(mask, -1, 1)
                )
                painted = np.where(edge, 255, painted).astype(np.uint8)
            tiles.append(_fitted(painted))
    present = sorted({int(label) for _, _, true, _, found in shown for label in (*true, *found)})
    key = [(_colour(label), names[label] if names else str(label)) for label in present]
    _sheet(
        path, tiles, [*key, (PAPER, f"each image, as annotated, as found (score {SHOWN_MASK} or more)")], 3, filled=True
    )


def _coloured(pixels: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Lay the colours of classes half-transparent over uint8 ``(3, H, W)``."""
    found = pixels.copy()
    for label in np.unique(classes[classes >= 0]).tolist():
        colour = np.array(ImageColor.getrgb(_colour(label)))[:, None]
        inside = classes == label
        found[:, inside] = (0.35 * pixels[:, inside] + 0.65 * colour).astype(np.uint8)
    return found


def _colour(label: int) -> str:
    """A colour for each class: neighbours are a golden angle of hue apart, and of other brightness."""
    return f"hsl({label * 137.508 % 360:.0f}, 85%, {(35, 60, 78)[label % 3]}%)"


def _fitted(pixels: np.ndarray) -> Image.Image:
    """An image ``SIDE`` pixels high."""
    image = Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)))
    scale = SIDE / image.height
    how = Image.Resampling.NEAREST if scale > 2 else Image.Resampling.LANCZOS
    return image.resize((max(1, min(2 * SIDE, round(image.width * scale))), SIDE), how)


def _sheet(path: Path, tiles: list[Image.Image], key: list[tuple[str, str]], columns: int, filled: bool) -> None:
    """Set tiles in rows under a line that says what the colours mean."""
    font = ImageFont.load_default(LETTERS)
    lengths = [LETTERS + 30 + round(font.getlength(text)) for _, text in key]
    rows = [tiles[i : i + columns] for i in range(0, len(tiles), columns)]
    width = max(sum(tile.width + GAP for tile in row) for row in rows) + GAP
    places, x, line = [], GAP, 0
    for length in lengths:
        if x > GAP and x + length > width:
            x, line = GAP, line + 1
        places.append((x, GAP + line * 2 * LETTERS))
        x += length
    top = GAP + (line + 1) * 2 * LETTERS
    sheet = Image.new("RGB", (width, top + len(rows) * (SIDE + GAP)), PAPER)
    pen = ImageDraw.Draw(sheet)
    for (x, y), (colour, text) in zip(places, key, strict=True):
        pen.rectangle((x, y, x + LETTERS, y + LETTERS), fill=colour if filled else None, outline=colour, width=3)
        pen.text((x + LETTERS + 6, y + LETTERS / 2), text, fill=INK, font=font, anchor="lm")
    for line, row in enumerate(rows):
        x = GAP
        for tile in row:
            sheet.paste(tile, (x, top + line * (SIDE + GAP)))
            x += tile.width + GAP
    sheet.save(path)


def _tile(pixels: np.ndarray, truth: Truth, found: Detections, names: list[str] | None) -> Image.Image:
    """One image with its boxes, ``SIDE`` pixels high."""
    tile = _fitted(pixels)
    ratio = np.tile([tile.width / pixels.shape[2], tile.height / pixels.shape[1]], 2)
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
