"""SimMIM: mask tokens go through the encoder, and a linear head predicts the hidden pixels.

Xie et al. 2022, 'SimMIM: a Simple Framework for Masked Image Modeling', section 3.
"""

from typing import Literal

import torch
from pydantic import Field
from timm.models.beit import Beit
from torch import Generator, Tensor, nn

from mimcore.errors import UserError
from mimcore.models.encoder import Encoder, sides
from mimcore.models.encoding import encode_hidden
from mimcore.models.families import Hierarchical
from mimcore.models.masking import MaskingOptions, Masks
from mimcore.models.objective import NOTHING, Given, Trained
from mimcore.models.options import ObjectiveOptions
from mimcore.models.targets import TargetOptions


class Config(MaskingOptions, TargetOptions, ObjectiveOptions):
    """Options of SimMIM; the defaults are the paper's (sections 3.2 to 3.4 and 4.1.2)."""

    #: Part of the mask units that is hidden (section 4.1.2).
    mask_ratio: float = Field(0.6, gt=0, lt=1)
    #: Height and width of what is hidden or seen as a whole, pixels: a multiple of the patch size (section 3.2).
    mask_unit: int | None = Field(32, ge=1)
    #: Absolute error in the paper (section 3.4).
    loss: Literal["l1", "l2"] = "l1"


class Objective(Trained):
    """SimMIM's loss over a timm vision transformer or Swin.

    Shapes: B batch, U mask units of the image, D width of the last tokens, S their stride.

    Raises:
        UserError: ``mask_unit`` does not go with the model, or leaves nothing to see.
    """

    #: The loss is a mean over images, each with as many masked pixels: micro-batches of it weigh by their images.
    whole_batch = False

    def __init__(self, encoder: Encoder, config: Config, given: Given = NOTHING) -> None:
        super().__init__()
        module = encoder.module
        self.encoder = module
        self.config = config
        height, width = sides(encoder.image_size)
        if height % encoder.stride or width % encoder.stride:
            raise UserError(
                f"models.image_size: {height}x{width} is not a multiple of {encoder.stride} pixels, of which each last token of "
                f"'{encoder.model_name}' predicts a square; choose another."
            )
        self.masks = Masks.plan(config, (height, width), encoder.patch_size, hide_at_least=True)
        self.prefix = 0 if isinstance(module, Hierarchical) else module.num_prefix_tokens
        self.rows = height // encoder.stride
        #: A vector, so that weight decay leaves it alone, as in the released code.
        self.mask_token = nn.Parameter(torch.empty(module.embed_dim))
        # Released code: cut at 2 for a Swin, at 0.02 for its ViT.
        cut = 0.02 if isinstance(module, Beit) else 2.0
        nn.init.trunc_normal_(self.mask_token, std=0.02, a=-cut, b=cut)
        self.decoder = nn.Sequential(  # section 3.3: a linear layer is enough
            nn.Conv2d(module.num_features, encoder.stride**2 * encoder.channels, 1), nn.PixelShuffle(encoder.stride)
        )

    def draw(self, batch: int, generator: Generator) -> Tensor:
        """Draw the masks of a batch, a row per image; a part of the batch takes its rows of it.

        Args:
            batch: images, B.
            generator: where the randomness comes from; a CPU generator gives the same masks on every device.

        Returns:
            The order of the mask units of each image, seen ones first, int64 ``(B, U)``, on the generator's device.
        """
        return self.masks.draw(batch, generator)

    def forward(self, images: Tensor, drawn: Tensor) -> dict[str, Tensor]:
        """Mean error of the masked pixels (section 3.4).

        Args:
            images: normalised, float ``(B, C, H, W)``.
            drawn: rows of what ``draw`` returned, int64 ``(B, U)``.

        Returns:
            ``{"loss": float32 scalar}``.
        """
        hidden = self.masks.hidden(drawn.to(images.device))
        error = self.config.error(self._predict(images, hidden), self.config.pixels(images))
        pixels = self._pixels(hidden, images)
        return {"loss": (error * pixels).sum() / (pixels.sum() * images.shape[1])}

    def reconstruct(self, images: Tensor, drawn: Tensor) -> tuple[Tensor, Tensor]:
        """Fill in the hidden units, for a picture.

        Returns:
            Normalised pixels: the input with the hidden units at zero, and with the predicted ones put in; each
            ``(B, C, H, W)``. With ``target_window`` the prediction is given the true windows' mean and deviation.
        """
        hidden = self.masks.hidden(drawn.to(images.device))
        prediction = self.config.undo(self._predict(images, hidden), images)
        pixels = self._pixels(hidden, images)
        return images.float().masked_fill(pixels, 0), torch.where(pixels, prediction, images.float())

    def _predict(self, images: Tensor, hidden: Tensor) -> Tensor:
        """All pixels, those seen too, float32 ``(B, C, H, W)``."""
        tokens = encode_hidden(self.encoder, images, _enlarge(hidden, self.masks.times), self.mask_token)
        prediction: Tensor = self.decoder(tokens[:, self.prefix :].mT.unflatten(2, (self.rows, -1)))
        return prediction.float()

    def _pixels(self, hidden: Tensor, images: Tensor) -> Tensor:
        """Which pixels are hidden, bool ``(B, 1, H, W)``."""
        return _enlarge(hidden, images.shape[-2] // self.masks.grid[0]).unsqueeze(1)


def _enlarge(mask: Tensor, times: int) -> Tensor:
    """Give each entry of ``(B, rows, columns)`` a square of so many rows and columns."""
    return mask.repeat_interleave(times, 1).repeat_interleave(times, 2)
