"""Masked autoencoder: encode a few patches, decode them all, minimise the error of the hidden ones.

He et al. 2022, 'Masked Autoencoders Are Scalable Vision Learners', section 3.
"""

from typing import Literal

import torch
from pydantic import Field, model_validator
from timm.models.vision_transformer import VisionTransformer
from torch import Generator, Tensor, nn

from mimcore.errors import UserError
from mimcore.models.decoder import Decoder
from mimcore.models.encoder import Encoder, sides
from mimcore.models.encoding import encode_hidden, encode_patches
from mimcore.models.families import Hierarchical
from mimcore.models.masking import MaskingOptions, Masks
from mimcore.models.objective import NOTHING, Given, Trained
from mimcore.models.options import ObjectiveOptions
from mimcore.models.patches import normalize_patches, patchify
from mimcore.models.targets import TargetOptions


class Config(MaskingOptions, TargetOptions, ObjectiveOptions):
    """Options of MAE; the defaults are the paper's for ViT-B, L and H (section 4.1, tables 1 and 8)."""

    #: Part of the mask units that is hidden (table 1, figure 5).
    mask_ratio: float = Field(0.75, gt=0, lt=1)
    #: Squared error in the paper (section 3, 'Reconstruction target').
    loss: Literal["l1", "l2"] = "l2"
    #: Standardise each target patch by its own mean and variance (table 1d).
    norm_pix_loss: bool = True
    #: Part of all patches that is predicted, drawn from the hidden ones; all of these if not given. The other hidden patches
    #: are left out of the decoder (Fu et al. 2024, 'Rethinking Patch Dependence for Masked Autoencoders', section 3.3).
    prediction_ratio: float | None = Field(None, gt=0, lt=1)
    #: Give the encoder mask tokens in the place of the hidden patches, instead of the decoder (table 1c).
    encoder_mask_tokens: bool = False
    #: Width of the decoder's tokens (table 1b).
    decoder_embed_dim: int = Field(512, ge=16, multiple_of=4)
    #: Blocks of the decoder (table 1a).
    decoder_depth: int = Field(8, ge=1)
    decoder_num_heads: int = Field(16, ge=1)

    @model_validator(mode="after")
    def _fits(self) -> "Config":
        if self.decoder_embed_dim % self.decoder_num_heads:
            raise ValueError(
                f"decoder_num_heads {self.decoder_num_heads} does not divide decoder_embed_dim {self.decoder_embed_dim}"
            )
        if self.target_window is not None and self.norm_pix_loss:
            raise ValueError("target_window and norm_pix_loss standardise the target twice; set norm_pix_loss to false")
        if self.prediction_ratio is not None and self.prediction_ratio > self.mask_ratio:
            raise ValueError(f"prediction_ratio {self.prediction_ratio} is more than mask_ratio {self.mask_ratio}")
        return self


class Objective(Trained):
    """MAE's loss over a timm vision transformer.

    Shapes: B batch, U mask units of the image, N patches, K kept, M predicted of the N - K hidden, D encoder width, P values
    of a patch.

    Raises:
        UserError: the masks, or the encoder, do not go with it.
    """

    #: The loss is a mean over images, each with as many predicted patches: micro-batches of it weigh by their images.
    whole_batch = False

    def __init__(self, encoder: Encoder, config: Config, given: Given = NOTHING) -> None:
        super().__init__()
        module = encoder.module
        if isinstance(module, Hierarchical) or not (
            isinstance(module, VisionTransformer) or config.encoder_mask_tokens
        ):
            raise UserError(
                f"objectives: MAE leaves the hidden patches out of the encoder, and '{encoder.model_name}' needs them all; take "
                "a plain vision transformer, or the objective 'simmim'."
            )
        self.encoder = module
        self.config = config
        self.patch_size = encoder.patch_size
        self.masks = Masks.plan(config, sides(encoder.image_size), encoder.patch_size, hide_at_least=False)
        patches = self.masks.grid[0] * self.masks.grid[1] * self.masks.times**2
        self.kept = self.masks.kept * self.masks.times**2
        self.shown = patches  # to the decoder: the kept, and those that are predicted
        if config.prediction_ratio is not None:
            self.shown = min(patches, self.kept + max(1, round(patches * config.prediction_ratio)))
        self.mask_token = nn.Parameter(torch.empty(module.embed_dim)) if config.encoder_mask_tokens else None
        if self.mask_token is not None:
            nn.init.normal_(self.mask_token, std=0.02)
        self.decoder = Decoder(
            encoder_width=module.embed_dim,
            width=config.decoder_embed_dim,
            depth=config.decoder_depth,
            num_heads=config.decoder_num_heads,
            grid=(self.masks.grid[0] * self.masks.times, self.masks.grid[1] * self.masks.times),
            outputs=self.patch_size**2 * encoder.channels,
            mask_tokens=not config.encoder_mask_tokens,
        )

    def draw(self, batch: int, generator: Generator) -> Tensor:
        """Draw the masks of a batch, a row per image; a part of the batch takes its rows of it.

        Args:
            batch: images, B.
            generator: where the randomness comes from; a CPU generator gives the same masks on every device.

        Returns:
            The order of the mask units of each image, kept ones first, int64 ``(B, U)``, on the generator's device.
        """
        return self.masks.draw(batch, generator)

    def forward(self, images: Tensor, drawn: Tensor) -> dict[str, Tensor]:
        """Mean error over the predicted patches.

        Args:
            images: normalised, float ``(B, C, H, W)``.
            drawn: rows of what ``draw`` returned, int64 ``(B, U)``.

        Returns:
            ``{"loss": float32 scalar}``.
        """
        order = self._order(images, drawn)
        target = patchify(self.config.pixels(images), self.patch_size)
        target = target.gather(1, order[:, self.kept :].unsqueeze(-1).expand(-1, -1, target.shape[-1]))
        if self.config.norm_pix_loss:
            target = normalize_patches(target)
        return {"loss": self.config.error(self._predict(images, drawn, order), target).mean()}

    def reconstruct(self, images: Tensor, drawn: Tensor) -> tuple[Tensor, Tensor]:
        """Fill in the hidden patches, for a picture.

        Returns:
            Normalised pixels: the input with the hidden patches at zero, and with the predicted ones put in; each
            ``(B, C, H, W)``. A standardised prediction is given the mean and variance of the true pixels. Hidden patches
            that are not predicted stay at zero.
        """
        order = self._order(images, drawn)
        patches = patchify(images, self.patch_size).float()
        width = patches.shape[-1]
        hidden = self.masks.patches(drawn.to(images.device))[:, self.kept :].unsqueeze(-1).expand(-1, -1, width)
        blank = patches.scatter(1, hidden, 0.0)
        predicted = order[:, self.kept :].unsqueeze(-1).expand(-1, -1, width)
        prediction = self._predict(images, drawn, order).float()
        if self.config.norm_pix_loss:
            true = patches.gather(1, predicted)
            prediction = prediction * (true.var(-1, keepdim=True) + 1e-6).sqrt() + true.mean(-1, keepdim=True)
        filled = patchify(blank.scatter(1, predicted, prediction), self.patch_size, inverse=images.shape[-2:])
        pixels = self.config.undo(filled, images)
        blank, mask = (
            patchify(part, self.patch_size, inverse=images.shape[-2:])
            for part in (blank, torch.zeros_like(blank).scatter(1, predicted, 1.0))
        )
        return blank, torch.where(mask > 0, pixels, blank)

    def _order(self, images: Tensor, drawn: Tensor) -> Tensor:
        """The patches that the decoder is shown, kept ones first, int64 ``(B, K + M)``."""
        return self.masks.patches(drawn.to(images.device))[:, : self.shown]

    def _predict(self, images: Tensor, drawn: Tensor, order: Tensor) -> Tensor:
        if self.mask_token is None:
            assert isinstance(self.encoder, VisionTransformer)
            patches = patchify(images, self.patch_size)
            tokens = encode_patches(self.encoder, patches, order[:, : self.kept])  # (B, prefix + K, D)
        else:
            hidden = self.masks.hidden(drawn.to(images.device))
            hidden = hidden.repeat_interleave(self.masks.times, 1).repeat_interleave(self.masks.times, 2)
            tokens = encode_hidden(self.encoder, images, hidden, self.mask_token)
            prefix = self.encoder.num_prefix_tokens
            index = order.unsqueeze(-1).expand(-1, -1, tokens.shape[-1])
            tokens = torch.cat([tokens[:, :prefix], tokens[:, prefix:].gather(1, index)], dim=1)
        prediction: Tensor = self.decoder(tokens, order, self.kept)
        return prediction
