"""Draws clips of a handwritten digit that moves over a textured ground, in one of eight directions.

The digit leaves at one edge and enters at the opposite one, and begins anywhere: no single frame tells where it goes. The
strokes, grounds and colours are those of ``_scenes``, and so is the source of random numbers.
"""

import math
from typing import Any

import numpy as np

from mimcore.data.clips import animate
from mimcore.data.formats import _scenes
from mimcore.data.hashing import mix

#: Goes up whenever the same options would give other clips.
VERSION = 1

#: Across and down, by name.
DIRECTIONS = {
    "right": (1, 0),
    "down right": (1, 1),
    "down": (0, 1),
    "down left": (-1, 1),
    "left": (-1, 0),
    "up left": (-1, -1),
    "up": (0, -1),
    "up right": (1, -1),
}
#: Side of the digit as a part of the scene's, least and most.
SIDE = (0.36, 0.6)
#: Pixels that it moves between frames, as a part of the scene's side: least and most. A pixel or more from 32 pixels on, so that
#: no frame is like the one before.
SPEED = (1 / 32, 3 / 32)


class MotionRenderer(_scenes.Renderer):
    """Draws the clips of one split."""

    def __init__(self, image_size: int, seed: int, split: str, frames: int) -> None:
        super().__init__(image_size, seed, split)
        self._frames = frames

    def scene(self, number: int) -> tuple[bytes, dict[str, Any]]:
        """Draw one clip.

        Returns:
            an animated WebP, and the truth: ``caption``, ``tags``, ``label`` (the direction), ``frames``, ``background``.
        """
        draws = self._draws(mix(np.uint64(number) ^ self._key ^ np.uint64(VERSION)))
        label = draws.below(len(DIRECTIONS))
        background = _scenes.BACKGROUNDS[draws.below(len(_scenes.BACKGROUNDS))]
        ground, other = self._ground_colours(draws)
        still = ground + self._texture(background, draws)[..., None] * (other - ground)
        colours = self._colours(ground, other)
        colour = colours[draws.below(len(colours))]
        sample = draws.below(len(self._labels))
        side = round(self._side * draws.real(*SIDE))
        alpha = np.zeros((self._side, self._side))
        alpha[:side, :side] = _scenes.stroke(
            self._strokes[sample], side, draws.real(-_scenes.MAX_ANGLE, _scenes.MAX_ANGLE)
        )
        x, y, speed = draws.below(self._side), draws.below(self._side), self._side * draws.real(*SPEED)
        name, (across, down) = list(DIRECTIONS.items())[label]
        frames = []
        for time in range(self._frames):
            moved = math.floor(time * speed)
            there = np.roll(alpha, (y + down * moved, x + across * moved), (0, 1))[..., None]
            frames.append((still + there * (np.array(_scenes.PALETTE[colour]) - still) + 0.5).astype(np.uint8))
        digit = _scenes.NAMES[self._labels[sample]]
        return animate(frames), {
            "caption": f"a {colour} {digit} moves {name}",
            "tags": [digit, colour, *name.split()],
            "label": label,
            "frames": self._frames,
            "background": background,
        }
