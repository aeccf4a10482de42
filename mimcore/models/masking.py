"""Which patches are hidden: as many in every image, so that a batch has one shape and its parts weigh alike."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Generator, Tensor

from mimcore.definition import Definition
from mimcore.errors import UserError

#: Rectangles drawn for an image under ``block``; where they hide too little, the rest is hidden at random.
BLOCKS = 32


class MaskingOptions(Definition):
    """Options of an objective that say what is hidden."""

    #: ``random``; ``block``, rectangles as in BEiT; or ``grid``, all but one of every so many (He et al. 2022, figure 6, table 1f).
    masking: Literal["random", "block", "grid"] = "random"
    #: Part of the mask units that is hidden.
    mask_ratio: float = Field(0.75, gt=0, lt=1)
    #: Height and width of what is hidden or seen as a whole, pixels, a multiple of the patch size; a patch if not given.
    mask_unit: int | None = Field(None, ge=1)

    @model_validator(mode="after")
    def _grid(self) -> "MaskingOptions":
        if self.masking == "grid" and not math.isclose(
            1 - 1 / grid_step(self.mask_ratio) ** 2, self.mask_ratio, abs_tol=1e-3
        ):
            raise ValueError(
                f"mask_ratio {self.mask_ratio} is not one of a grid, which keeps one unit of every square: 0.75 (of 2 x 2), "
                "0.889 (of 3 x 3), 0.9375 (of 4 x 4)"
            )
        return self


def grid_step(mask_ratio: float) -> int:
    """Side of the squares of units that keep one each, at least 2."""
    return max(2, round(1 / math.sqrt(1 - mask_ratio)))


def kept_patches(patches: int, mask_ratio: float) -> int:
    """How many of an image's patches are kept: ``int(N * (1 - mask_ratio))``, as in MAE's released code, at least one."""
    return max(1, int(patches * (1 - mask_ratio)))


def hidden_units(units: int, mask_ratio: float) -> int:
    """How many of an image's mask units are hidden: ``ceil(U * mask_ratio)``, as in SimMIM's released code."""
    return math.ceil(units * mask_ratio)


@dataclass(frozen=True)
class Masks:
    """The masks of an objective.

    Attributes:
        options: what is declared.
        grid: rows and columns of mask units, U in all.
        times: patches along the side of a unit.
        kept: units of an image that are seen.
    """

    options: MaskingOptions
    grid: tuple[int, int]
    times: int
    kept: int

    @classmethod
    def plan(cls, options: MaskingOptions, sides: tuple[int, int], patch_size: int, *, hide_at_least: bool) -> "Masks":
        """Fit the masks to a model.

        Args:
            options: what is declared.
            sides: height and width of its images, pixels.
            patch_size: pixels.
            hide_at_least: round the hidden units up (SimMIM) or down as far as one is kept (MAE).

        Raises:
            UserError: the mask unit does not go with the model, or leaves nothing to see or to predict.
        """
        unit, (height, width) = options.mask_unit or patch_size, sides
        if unit % patch_size or height % unit or width % unit:
            raise UserError(
                f"objectives.mask_unit: {unit} must be a multiple of the model's patch_size {patch_size} and divide its "
                f"image_size {height}x{width}; choose another."
            )
        grid = (height // unit, width // unit)
        units = grid[0] * grid[1]
        kept = (
            units - hidden_units(units, options.mask_ratio)
            if hide_at_least
            else kept_patches(units, options.mask_ratio)
        )
        if options.masking == "grid":
            step = grid_step(options.mask_ratio)
            if grid[0] % step or grid[1] % step:
                raise UserError(
                    f"objectives.masking: a grid that keeps one unit of every {step} x {step} needs as many rows and columns "
                    f"or a multiple of them, and the image has {grid[0]} x {grid[1]}; choose another mask_unit or 'random'."
                )
            kept = units // step**2
        if not 0 < kept < units:
            raise UserError(
                f"objectives.mask_unit: with {unit} and mask_ratio {options.mask_ratio}, {kept} of the {units} units of an "
                f"image of {height}x{width} pixels are seen; choose a smaller unit."
            )
        return cls(options, grid, unit // patch_size, kept)

    def draw(self, batch: int, generator: Generator) -> Tensor:
        """Draw the masks of a batch, a row per image.

        Args:
            batch: images, B.
            generator: where the randomness comes from; the result lies on its device.

        Returns:
            The order of the units of each image, int64 ``(B, U)``: those that are kept first, and both parts at random.
        """
        units = self.grid[0] * self.grid[1]
        if self.options.masking == "random":  # He et al. 2022, section 3, 'simple implementation'
            return torch.rand(batch, units, generator=generator, device=generator.device).argsort(dim=1)
        ranks = (block_ranks if self.options.masking == "block" else grid_ranks)(self, batch, generator)
        hidden = ranks.argsort(dim=1).argsort(dim=1) >= self.kept
        return (torch.rand(batch, units, generator=generator, device=generator.device) + hidden).argsort(dim=1)

    def patches(self, drawn: Tensor) -> Tensor:
        """The order of the patches: each unit's in the place of the unit, int64 ``(B, U)`` to ``(B, N)``."""
        if self.times == 1:
            return drawn
        columns = self.grid[1] * self.times
        first = drawn // self.grid[1] * self.times * columns + drawn % self.grid[1] * self.times
        inside = torch.arange(self.times, device=drawn.device)
        within = (inside.unsqueeze(1) * columns + inside).flatten()
        return (first.unsqueeze(-1) + within).flatten(1)

    def hidden(self, drawn: Tensor) -> Tensor:
        """Which units are hidden, bool ``(B, rows, columns)``."""
        none = torch.zeros_like(drawn, dtype=torch.bool)
        hidden: Tensor = none.scatter(1, drawn[:, self.kept :], True).unflatten(1, self.grid)
        return hidden


def block_ranks(masks: Masks, batch: int, generator: Generator) -> Tensor:
    """Rank the units of each image by the rectangle that hides them, the first ones highest; float ``(B, U)``.

    Rectangles of 16 of 196 up to 40 % of the units, their sides in a ratio of 0.3 to 1 / 0.3, are put anywhere (Bao et al.
    2022, 'BEiT', algorithm 1); the one that would hide too much is thinned at random, since each image hides as many.
    """

    def draw() -> Tensor:
        return torch.rand(batch, BLOCKS, generator=generator, device=generator.device)

    rows, columns = masks.grid
    units = rows * columns
    area = units * (16 / 196 + draw() * (0.4 - 16 / 196))
    aspect = (math.log(0.3) * (1 - 2 * draw())).exp()
    height = (area * aspect).sqrt().round().clamp(1, rows)
    width = (area / aspect).sqrt().round().clamp(1, columns)
    top = (draw() * (rows - height + 1)).floor()
    left = (draw() * (columns - width + 1)).floor()
    row, column = torch.arange(rows, device=generator.device), torch.arange(columns, device=generator.device)
    in_rows = (row >= top.unsqueeze(-1)) & (row < (top + height).unsqueeze(-1))  # (B, R, rows)
    in_columns = (column >= left.unsqueeze(-1)) & (column < (left + width).unsqueeze(-1))
    covered = (in_rows.unsqueeze(3) & in_columns.unsqueeze(2)).flatten(2)  # (B, R, U)
    age = torch.arange(BLOCKS, 0, -1, device=generator.device, dtype=torch.float32).unsqueeze(1)
    first: Tensor = (covered * age).amax(dim=1)
    return first + torch.rand(batch, units, generator=generator, device=generator.device)


def grid_ranks(masks: Masks, batch: int, generator: Generator) -> Tensor:
    """Rank the units of each image, the one kept of every square lowest; float ``(B, U)``.

    Which one it is of its square is drawn for each image (the paper does not say), so that every place is seen at times.
    """
    rows, columns = masks.grid
    step = grid_step(masks.options.mask_ratio)
    at = torch.randint(step**2, (batch, 1, 1), generator=generator, device=generator.device)
    row = torch.arange(rows, device=generator.device).unsqueeze(1)
    column = torch.arange(columns, device=generator.device)
    ranks: Tensor = (row % step * step + column % step != at).float()
    return ranks.flatten(1)
