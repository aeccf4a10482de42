"""Masked autoencoder: encode a few patches, decode them all, minimise the error of the hidden ones.

He et al. 2022, 'Masked Autoencoders Are Scalable Vision Learners', section 3.
"""

import math
from typing import ClassVar

from pydantic import Field, model_validator
from torch import Generator, Tensor, nn

from mimcore.definition import Definition
from mimcore.models.decoder import Decoder
from mimcore.models.encoder import Encoder
from mimcore.models.masking import kept_patches, random_order
from mimcore.models.patches import encode_patches, normalize_patches, patchify


class Config(Definition):
    """Options of MAE; the defaults are the paper's for ViT-B, L and H (section 4.1, tables 1 and 8)."""

    #: Part of the patches that is hidden (table 1, figure 5).
    mask_ratio: float = Field(0.75, gt=0, lt=1)
    #: Standardise each target patch by its own mean and variance (table 1d).
    norm_pix_loss: bool = True
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
        return self


class Objective(nn.Module):
    """MAE's loss over a timm vision transformer.

    Shapes: B batch, N patches of the image, K kept, M = N - K masked, D encoder width, P values of a patch.
    """

    #: The loss is a mean over images, each with as many masked patches: micro-batches of it weigh by their images.
    whole_batch: ClassVar[bool] = False

    def __init__(self, encoder: Encoder, config: Config) -> None:
        super().__init__()
        self.encoder = encoder.module
        self.config = config
        self.patch_size = encoder.patch_size
        self.patches = math.prod(self.encoder.patch_embed.grid_size)
        self.kept = kept_patches(self.patches, config.mask_ratio)
        self.decoder = Decoder(
            encoder_width=self.encoder.embed_dim,
            width=config.decoder_embed_dim,
            depth=config.decoder_depth,
            num_heads=config.decoder_num_heads,
            grid=self.encoder.patch_embed.grid_size,
            outputs=self.patch_size**2 * encoder.channels,
        )

    def draw(self, batch: int, generator: Generator) -> Tensor:
        """Draw the masks of a batch, a row per image; a part of the batch takes its rows of it.

        Args:
            batch: images, B.
            generator: where the randomness comes from; a CPU generator gives the same masks on every device.

        Returns:
            The order of the patches of each image, kept ones first, int64 ``(B, N)``, on the generator's device.
        """
        return random_order(batch, self.patches, generator)

    def forward(self, images: Tensor, drawn: Tensor) -> dict[str, Tensor]:
        """Mean squared error over the masked patches.

        Args:
            images: normalised, float ``(B, C, H, W)``.
            drawn: rows of what ``draw`` returned, int64 ``(B, N)``.

        Returns:
            ``{"loss": float32 scalar}``.
        """
        patches, target, order = self._prepare(images, drawn)
        prediction = self._predict(patches, order)  # (B, M, P)
        masked = order[:, self.kept :]
        target = target.gather(1, masked.unsqueeze(-1).expand(-1, -1, target.shape[-1]))
        return {"loss": (prediction.float() - target).square().mean()}

    def reconstruct(self, images: Tensor, drawn: Tensor) -> tuple[Tensor, Tensor]:
        """Fill in the hidden patches, for a picture.

        Returns:
            Normalised pixels: the input with the hidden patches at zero, and with the predicted ones put in; each
            ``(B, C, H, W)``. With ``norm_pix_loss`` the prediction is given the true patch's mean and variance.
        """
        patches, _, order = self._prepare(images, drawn)
        prediction = self._predict(patches, order).float()
        masked = order[:, self.kept :].unsqueeze(-1).expand(-1, -1, patches.shape[-1])
        if self.config.norm_pix_loss:
            true = patches.float().gather(1, masked)
            prediction = prediction * (true.var(-1, keepdim=True) + 1e-6).sqrt() + true.mean(-1, keepdim=True)
        pictures = []
        for fill in (prediction.new_zeros(()).expand_as(prediction), prediction):
            filled = patches.float().scatter(1, masked, fill)
            pictures.append(patchify(filled, self.patch_size, inverse=images.shape[-2:]))
        return pictures[0], pictures[1]

    def _prepare(self, images: Tensor, drawn: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        patches = patchify(images, self.patch_size)  # (B, N, P)
        target = patches.float()
        if self.config.norm_pix_loss:
            target = normalize_patches(target)
        return patches, target, drawn.to(images.device)

    def _predict(self, patches: Tensor, order: Tensor) -> Tensor:
        tokens = encode_patches(self.encoder, patches, order[:, : self.kept])  # (B, prefix + K, D)
        prediction: Tensor = self.decoder(tokens, order, self.kept)
        return prediction
