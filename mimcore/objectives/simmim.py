"""SimMIM: mask tokens go through the encoder, and a linear head predicts the hidden pixels.

Xie et al. 2022, 'SimMIM: a Simple Framework for Masked Image Modeling', section 3.
"""

from typing import ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Generator, Tensor, nn

from mimcore.definition import Definition
from mimcore.errors import UserError
from mimcore.models.encoder import Encoder, sides
from mimcore.models.masking import hidden_units, random_order
from mimcore.models.patches import encode_hidden, window_statistics


class Config(Definition):
    """Options of SimMIM; the defaults are the paper's (sections 3.2 to 3.4 and 4.1)."""

    #: Part of the mask units that is hidden (section 4.1).
    mask_ratio: float = Field(0.6, gt=0, lt=1)
    #: Height and width of what is hidden or seen as a whole, pixels: a multiple of the patch size (section 3.2).
    mask_unit: int = Field(32, ge=1)
    #: Absolute or squared error (section 3.4).
    loss: Literal["l1", "l2"] = "l1"
    #: Standardise each target pixel by the square of this side around it, pixels; without it the target is the pixels.
    #: The released configuration of SwinV2 has 47 (``NORM_TARGET.PATCH_SIZE``).
    target_window: int | None = Field(None, ge=3)

    @model_validator(mode="after")
    def _fits(self) -> "Config":
        if self.target_window is not None and self.target_window % 2 == 0:
            raise ValueError(f"target_window {self.target_window} must be odd, so that a pixel is its window's centre")
        return self


class Objective(nn.Module):
    """SimMIM's loss over a timm vision transformer.

    Shapes: B batch, U mask units of the image, M of them masked, D encoder width.

    Raises:
        UserError: ``mask_unit`` does not go with the model, or leaves nothing to see.
    """

    #: The loss is a mean over images, each with as many masked pixels: micro-batches of it weigh by their images.
    whole_batch: ClassVar[bool] = False

    def __init__(self, encoder: Encoder, config: Config) -> None:
        super().__init__()
        self.encoder = encoder.module
        self.config = config
        unit, patch_size, (height, width) = config.mask_unit, encoder.patch_size, sides(encoder.image_size)
        if unit % patch_size or height % unit or width % unit:
            raise UserError(
                f"objectives.mask_unit: {unit} must be a multiple of the model's patch_size {patch_size} and divide its "
                f"image_size {height}x{width}; choose another."
            )
        self.unit_patches = unit // patch_size
        self.grid = (height // unit, width // unit)
        units = self.grid[0] * self.grid[1]
        self.seen = units - hidden_units(units, config.mask_ratio)
        if not self.seen:
            raise UserError(
                f"objectives.mask_unit: with {unit} and mask_ratio {config.mask_ratio} all of an image of {height}x{width} "
                "pixels is hidden; choose a smaller one of the two."
            )
        #: A vector, so that weight decay leaves it alone, as in the released code.
        self.mask_token = nn.Parameter(torch.empty(self.encoder.embed_dim))
        nn.init.trunc_normal_(self.mask_token, std=0.02)
        self.decoder = nn.Sequential(  # section 3.3: a linear layer is enough
            nn.Conv2d(self.encoder.embed_dim, patch_size**2 * encoder.channels, 1), nn.PixelShuffle(patch_size)
        )

    def draw(self, batch: int, generator: Generator) -> Tensor:
        """Draw the masks of a batch, a row per image; a part of the batch takes its rows of it.

        Args:
            batch: images, B.
            generator: where the randomness comes from; a CPU generator gives the same masks on every device.

        Returns:
            The order of the mask units of each image, seen ones first, int64 ``(B, U)``, on the generator's device.
        """
        return random_order(batch, self.grid[0] * self.grid[1], generator)

    def forward(self, images: Tensor, drawn: Tensor) -> dict[str, Tensor]:
        """Mean error of the masked pixels (section 3.4).

        Args:
            images: normalised, float ``(B, C, H, W)``.
            drawn: rows of what ``draw`` returned, int64 ``(B, U)``.

        Returns:
            ``{"loss": float32 scalar}``.
        """
        hidden = self._hidden(images, drawn)
        target = images.float()
        if self.config.target_window:
            mean, deviation = window_statistics(target, self.config.target_window)
            target = (target - mean) / deviation
        difference = self._predict(images, hidden) - target
        error = difference.abs() if self.config.loss == "l1" else difference.square()
        pixels = _enlarge(hidden, self.config.mask_unit).unsqueeze(1)
        return {"loss": (error * pixels).sum() / (pixels.sum() * images.shape[1])}

    def reconstruct(self, images: Tensor, drawn: Tensor) -> tuple[Tensor, Tensor]:
        """Fill in the hidden units, for a picture.

        Returns:
            Normalised pixels: the input with the hidden units at zero, and with the predicted ones put in; each
            ``(B, C, H, W)``. With ``target_window`` the prediction is given the true windows' mean and deviation.
        """
        hidden = self._hidden(images, drawn)
        prediction = self._predict(images, hidden)
        if self.config.target_window:
            mean, deviation = window_statistics(images.float(), self.config.target_window)
            prediction = prediction * deviation + mean
        pixels = _enlarge(hidden, self.config.mask_unit).unsqueeze(1)
        return images.float().masked_fill(pixels, 0), torch.where(pixels, prediction, images.float())

    def _hidden(self, images: Tensor, drawn: Tensor) -> Tensor:
        """Which mask units are hidden, bool ``(B, rows, columns)``."""
        order = drawn.to(images.device)
        none = torch.zeros_like(order, dtype=torch.bool)
        return none.scatter(1, order[:, self.seen :], True).reshape(-1, *self.grid)

    def _predict(self, images: Tensor, hidden: Tensor) -> Tensor:
        """All pixels, those seen too, float32 ``(B, C, H, W)``."""
        patches = _enlarge(hidden, self.unit_patches)
        prediction: Tensor = self.decoder(encode_hidden(self.encoder, images, patches, self.mask_token))
        return prediction.float()


def _enlarge(mask: Tensor, times: int) -> Tensor:
    """Give each entry of ``(B, rows, columns)`` a square of so many rows and columns."""
    return mask.repeat_interleave(times, 1).repeat_interleave(times, 2)
