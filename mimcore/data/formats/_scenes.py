"""Draws scenes of handwritten digits on textured grounds, with every kind of truth.

The strokes are the 1797 samples of scikit-learn's ``load_digits`` (Alpaydin and Kaynak, 1998): 8x8 pixels, 17 grey
values. A scene is a pure function of (seed, split, number): its random numbers come from SplitMix64, whose values no
library changes.
"""

import io
import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from faster_coco_eval.core import mask as coco_mask
from PIL import Image

from mimcore.data.hashing import hash64, mix, seed64

#: Goes up whenever the same options would give other scenes.
VERSION = 2
#: Goes up whenever the same scenes would be told of in another way: they are then rendered again, and stay pinned.
TRUTH = 2

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
BACKGROUNDS = ("gradient", "stripes", "checks", "clouds")
#: All of them bright on a dark ground: a small transformer finds strokes by brightness within minutes of training,
#: while with free colours it stayed at chance for as long.
PALETTE = {
    "red": (255, 75, 65),
    "orange": (255, 160, 40),
    "yellow": (250, 240, 70),
    "green": (60, 225, 90),
    "cyan": (70, 230, 240),
    "blue": (95, 150, 255),
    "purple": (190, 105, 255),
    "pink": (255, 140, 205),
    "white": (252, 252, 252),
}
#: Greatest value of a channel of the ground.
GROUND_BRIGHTEST = 90.0
#: Least distance in RGB between a digit and every colour of its ground.
CONTRAST = 90.0
#: Side of a digit as a fraction of the scene's, by size: least and most.
SIZES = {"large": (0.7, 0.92), "medium": (0.36, 0.48), "small": (0.24, 0.30)}
#: Chance of 1, 2, ... digits: most scenes are simple, so that a small model can learn from them in minutes.
COUNTS = (0.45, 0.25, 0.14, 0.09, 0.07)
#: Chance that the main digit is large; else it is medium. The others are medium or small.
MAIN_LARGE = 0.85
MAX_ANGLE = math.radians(15)
#: A digit keeps at least this part of its pixels in sight.
LEAST_VISIBLE = 0.6
#: Every seventh sample or so writes for the validation split only.
VAL_WRITERS = 0.15

_PLACES = 4
_NOISE_GRID = 6
#: Random numbers that a scene can use at most.
_DRAWS = 11 + _NOISE_GRID**2 + 1 + len(COUNTS) * (4 + 2 * _PLACES)
_COLOURS = np.array(list(PALETTE.values()), np.float64)
_COLOUR_NAMES = tuple(PALETTE)

F64 = npt.NDArray[np.float64]


@dataclass
class _Digit:
    label: int
    size: str
    colour: str
    area: int
    visible: int


class _Draws:
    """The random numbers of one scene, one after the other."""

    def __init__(self, values: npt.NDArray[np.floating[Any]]) -> None:
        self._values = values.tolist()
        self._next = 0

    def real(self, low: float = 0.0, high: float = 1.0) -> float:
        value: float = self._values[self._next]
        self._next += 1
        return low + value * (high - low)

    def below(self, n: int) -> int:
        return int(self.real() * n)


class Renderer:
    """Draws the scenes of one split; a scene's label is the digit that shows most, or its colour."""

    def __init__(self, image_size: int, seed: int, split: str, label: Literal["digit", "colour"] = "digit") -> None:
        from sklearn.datasets import load_digits

        self._label = label

        digits = load_digits()
        chosen = hash64([str(sample) for sample in range(len(digits.target))], "handwriting") < VAL_WRITERS * 2.0**64
        chosen = chosen if split == "val" else ~chosen
        # Two empty pixels around, so that a turned stroke is not cut off.
        self._strokes = np.pad(digits.images[chosen] * (255 / 16), ((0, 0), (2, 2), (2, 2))).astype(np.uint8)
        self._labels = digits.target[chosen].tolist()
        self._key = np.uint64(seed64(f"{seed}/{split}"))
        self._side = image_size
        y, x = np.mgrid[0:image_size, 0:image_size] / image_size
        self._x, self._y = x.astype(np.float64), y.astype(np.float64)

    def scene(self, number: int) -> tuple[bytes, dict[str, Any]]:
        """Draw one scene.

        Returns:
            the JPEG, and the truth: ``caption``, ``tags``, ``label``, ``background``, ``digits`` (how many), and the boxes and
            masks with the names and types of the index.
        """
        key = mix(np.uint64(number) ^ self._key)
        draws = self._draws(key)
        background = BACKGROUNDS[draws.below(len(BACKGROUNDS))]
        ground, other = self._ground_colours(draws)
        texture = self._texture(background, draws)
        pixels = ground + texture[..., None] * (other - ground)
        colours = self._colours(ground, other)
        owner = np.full((self._side, self._side), -1, np.int64)
        digits: list[_Digit] = []
        # The first is mostly large: it is the main object, and names the scene's class.
        first_size = int(draws.real() >= MAIN_LARGE)
        sizes = sorted([first_size, *(1 + draws.below(2) for _ in range(_count(draws.real()) - 1))])
        turn = draws.below(len(colours))
        for place, size in enumerate(sizes):
            colour = colours[(turn + place) % len(colours)]
            self._draw_digit(pixels, owner, digits, list(SIZES)[size], colour, draws)
        encoded = io.BytesIO()
        Image.fromarray((pixels + 0.5).astype(np.uint8)).save(encoded, "JPEG", quality=92, subsampling=0)
        return encoded.getvalue(), {
            "background": background,
            "digits": len(digits),
            **_truth(owner, digits, self._label),
        }

    @staticmethod
    def _draws(key: npt.NDArray[np.uint64]) -> _Draws:
        """The random numbers that belong to a scene's key."""
        return _Draws((mix(key + np.arange(_DRAWS, dtype=np.uint64)) >> np.uint64(11)) * 2.0**-53)

    @staticmethod
    def _ground_colours(draws: _Draws) -> tuple[F64, F64]:
        first = np.array([draws.real(0, GROUND_BRIGHTEST) for _ in range(3)])
        second = np.array([draws.real(0, GROUND_BRIGHTEST) for _ in range(3)])
        return first, second

    @staticmethod
    def _colours(first: F64, second: F64) -> list[str]:
        """Colours of the palette that are far from each mixture of the two: from a line in RGB."""
        line = second - first
        along = ((_COLOURS - first) @ line / max(float(line @ line), 1.0)).clip(0, 1)
        distance = np.sqrt(((_COLOURS - first - along[:, None] * line) ** 2).sum(1))
        return [name for name, far in zip(_COLOUR_NAMES, distance >= CONTRAST, strict=True) if far]

    def _texture(self, background: str, draws: _Draws) -> F64:
        """How much of the second colour each pixel has: ``(side, side)``, from 0 to 1."""
        angle = draws.real(0, 2 * math.pi)
        across = math.cos(angle) * self._x + math.sin(angle) * self._y
        if background == "gradient":
            across -= across.min()
            return np.asarray(across / across.max(), np.float64)
        if background == "stripes":
            waves = draws.real(1.5, 6) * across + draws.real()
            return np.asarray(0.5 + 0.5 * np.sin(2 * math.pi * waves), np.float64)
        if background == "checks":
            cells = draws.real(2, 7)
            columns = np.floor(self._x * cells + draws.real())
            rows = np.floor(self._y * cells + draws.real())
            return np.asarray((columns + rows) % 2, np.float64)
        grid = np.array([draws.real() for _ in range(_NOISE_GRID**2)], np.float32).reshape(_NOISE_GRID, _NOISE_GRID)
        clouds = Image.fromarray(grid).resize((self._side, self._side), Image.Resampling.BICUBIC)
        return np.asarray(clouds, np.float64).clip(0, 1)

    def _draw_digit(
        self, pixels: F64, owner: npt.NDArray[np.int64], digits: list[_Digit], size: str, colour: str, draws: _Draws
    ) -> None:
        """Lay one digit over what is there, unless it would hide too much of another everywhere that is tried."""
        sample = draws.below(len(self._labels))
        side = round(self._side * draws.real(*SIZES[size]))
        alpha = stroke(self._strokes[sample], side, draws.real(-MAX_ANGLE, MAX_ANGLE))
        solid = alpha >= 0.5
        area = int(np.count_nonzero(solid))
        places = [(draws.below(self._side - side + 1), draws.below(self._side - side + 1)) for _ in range(_PLACES)]
        for x, y in places:
            region = (slice(y, y + side), slice(x, x + side))
            hidden = np.bincount(owner[region][solid] + 1, minlength=len(digits) + 1)[1:].tolist()
            if all(d.visible - lost >= LEAST_VISIBLE * d.area for d, lost in zip(digits, hidden, strict=True)):
                break
        else:
            return
        for digit, lost in zip(digits, hidden, strict=True):
            digit.visible -= lost
        part = pixels[region]
        part += alpha[..., None] * (_COLOURS[_COLOUR_NAMES.index(colour)] - part)
        owner[region][solid] = len(digits)
        digits.append(_Digit(self._labels[sample], size, colour, area, area))


def _count(chance: float) -> int:
    """How many digits, from a number in [0, 1)."""
    return 1 + sum(chance >= sum(COUNTS[: k + 1]) for k in range(len(COUNTS) - 1))


def stroke(sample: npt.NDArray[np.uint8], side: int, angle: float) -> F64:
    """A stroke enlarged and turned: opacity from 0 to 1, ``(side, side)``."""
    step = 10 / side
    cos, sin = math.cos(angle) * step, math.sin(angle) * step
    centre = len(sample) / 2
    matrix = (cos, sin, centre - (cos + sin) * side / 2, -sin, cos, centre - (cos - sin) * side / 2)
    turned = Image.fromarray(sample).transform((side, side), Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC)
    return ((np.asarray(turned, np.float64) - 64) / 90).clip(0, 1)


def _truth(owner: npt.NDArray[np.int64], digits: list[_Digit], label: str) -> dict[str, Any]:
    """Caption, tags, label, boxes and masks of what is in sight, from the digit that owns each pixel."""
    masks = owner[..., None] == np.arange(len(digits))
    boxes = []
    for number in range(len(digits)):
        rows = np.flatnonzero(masks[..., number].any(1))
        columns = np.flatnonzero(masks[..., number].any(0))
        boxes.append([float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)])
    ranked = sorted(range(len(digits)), key=lambda number: (-digits[number].visible, number))
    main = digits[ranked[0]]
    caption = _phrase(main)
    if len(ranked) > 1:
        relation = _relation(boxes[ranked[0]], boxes[ranked[1]])
        caption = f"{caption} {relation} {_phrase(digits[ranked[1]])}"
    return {
        "caption": caption,
        "tags": _tags([digits[number] for number in ranked]),
        "label": _COLOUR_NAMES.index(main.colour) if label == "colour" else main.label,
        "boxes": boxes,
        "box_labels": [digit.label for digit in digits],
        "box_areas": [float(digit.visible) for digit in digits],
        "box_crowd": [False] * len(digits),
        "masks": [item["counts"].decode() for item in coco_mask.encode(np.asfortranarray(masks, np.uint8))],
    }


def _tags(digits: list[_Digit]) -> list[str]:
    """What the digits are called, then their colours, each once: the one that shows most comes first."""
    return list(dict.fromkeys([*(NAMES[digit.label] for digit in digits), *(digit.colour for digit in digits)]))


def _phrase(digit: _Digit) -> str:
    return f"a {digit.size} {digit.colour} {NAMES[digit.label]}"


def _relation(box: list[float], other: list[float]) -> str:
    right = (box[0] + box[2]) - (other[0] + other[2])
    down = (box[1] + box[3]) - (other[1] + other[3])
    if abs(right) > abs(down):
        return "to the right of" if right > 0 else "to the left of"
    return "below" if down > 0 else "above"
