"""Hidden patches of an image and hidden tokens of its text, predicted together from what is seen of both."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from pydantic import Field, model_validator
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Generator, Tensor, nn
from torch.nn import functional

from mimcore.errors import UserError
from mimcore.models.encoder import Encoder, initialize, sides
from mimcore.models.encoding import encode_patches
from mimcore.models.masking import MaskingOptions, Masks, kept_patches
from mimcore.models.patches import normalize_patches, patchify
from mimcore.models.positions import sincos_positions, sincos_sequence
from mimcore.models.targets import TargetOptions


class JointOptions(MaskingOptions, TargetOptions):
    """Options of hiding and predicting; the defaults are M3AE's (Geng et al. 2022, appendix, table 2, and released code)."""

    #: Part of the mask units of an image that is hidden.
    mask_ratio: float = Field(0.75, gt=0, lt=1)
    #: Part of the places of a text that is hidden, those behind its end among them.
    text_mask_ratio: float = Field(0.75, gt=0, lt=1)
    #: Standardise each target patch by its own mean and variance, as MAE does.
    norm_pix_loss: bool = False
    #: Weight of the error of the hidden patches.
    image_loss_weight: float = Field(1.0, ge=0)
    #: Weight of the cross-entropy of the hidden tokens (the released command of pretraining; the flag's own default is 0.1).
    text_loss_weight: float = Field(0.5, ge=0)
    #: Width of the decoder's tokens.
    decoder_embed_dim: int = Field(512, ge=16, multiple_of=4)
    #: Blocks of the decoder.
    decoder_depth: int = Field(8, ge=1)
    decoder_num_heads: int = Field(16, ge=1)

    @model_validator(mode="after")
    def _joint(self) -> "JointOptions":
        if self.decoder_embed_dim % self.decoder_num_heads:
            raise ValueError(
                f"decoder_num_heads {self.decoder_num_heads} does not divide decoder_embed_dim {self.decoder_embed_dim}"
            )
        if self.target_window is not None and self.norm_pix_loss:
            raise ValueError("target_window and norm_pix_loss standardise the target twice; set norm_pix_loss to false")
        return self


class Joint(nn.Module):
    """Masks of both, a transformer over the tokens of both, and the errors of what it predicts.

    Shapes: B batch, N patches, K of them kept, L places of a text, S of them kept, D the encoder's width, V tokens of the vocabulary.

    Args:
        encoder: of the images.
        options: as declared.
        context_length: L.
        vocab_size: V.
        text_width: of the text's tokens; None where they come from the image encoder, whose projection they then share.

    Raises:
        UserError: the masks, or the encoder, do not go with it.
    """

    def __init__(
        self, encoder: Encoder, options: JointOptions, context_length: int, vocab_size: int, text_width: int | None
    ) -> None:
        super().__init__()
        module = encoder.module
        if not isinstance(module, VisionTransformer):
            raise UserError(
                f"objectives: hidden patches are left out of the encoder, and '{encoder.model_name}' needs them all; take a plain "
                "vision transformer."
            )
        self.options, self.patch_size = options, encoder.patch_size
        self.masks = Masks.plan(options, sides(encoder.image_size), encoder.patch_size, hide_at_least=False)
        self.kept = self.masks.kept * self.masks.times**2
        self.context_length, self.text_kept = context_length, kept_patches(context_length, options.text_mask_ratio)
        width = options.decoder_embed_dim
        norm: Any = partial(nn.LayerNorm, eps=1e-6)
        self.embed = nn.Linear(module.embed_dim, width)
        self.embed_text = nn.Linear(text_width, width) if text_width else None
        self.blocks = nn.ModuleList(
            Block(width, options.decoder_num_heads, qkv_bias=True, norm_layer=norm)
            for _ in range(options.decoder_depth)
        )
        self.norm = norm(width)
        self.predict = nn.Linear(width, encoder.patch_size**2 * encoder.channels)
        self.predict_text = nn.Linear(width, vocab_size)
        initialize(self)
        #: Mask token and kind of the image's and of the text's tokens.
        self.mask_token, self.text_mask_token, self.kind, self.text_kind = (
            nn.Parameter(torch.empty(width).normal_(std=0.02)) for _ in range(4)
        )
        grid = (self.masks.grid[0] * self.masks.times, self.masks.grid[1] * self.masks.times)
        self.register_buffer("positions", sincos_positions(width, grid, 0), persistent=False)
        self.register_buffer("text_positions", sincos_sequence(width, context_length), persistent=False)

    positions: Tensor
    text_positions: Tensor

    def draw(self, batch: int, generator: Generator) -> dict[str, Tensor]:
        """``order`` of each image's mask units and ``text_order`` of each text's places, kept ones first; int64, a row per image."""
        order = self.masks.draw(batch, generator)
        places = torch.rand(batch, self.context_length, generator=generator, device=generator.device).argsort(dim=1)
        # Ascending, so that causal attention means the same as in a whole text.
        places = torch.cat([places[:, : self.text_kept].sort(dim=1).values, places[:, self.text_kept :]], dim=1)
        return {"order": order, "text_order": places}

    def patches(self, drawn: Mapping[str, Tensor]) -> Tensor:
        """The order of all patches, int64 ``(B, N)``."""
        return self.masks.patches(drawn["order"])

    def encode(self, encoder: VisionTransformer, images: Tensor, drawn: Mapping[str, Tensor]) -> Tensor:
        """An image encoder's tokens of the kept patches, ``(B, prefix + K, D)``."""
        return encode_patches(encoder, patchify(images, self.patch_size), self.patches(drawn)[:, : self.kept])

    def forward(self, image: Tensor, text: Tensor, drawn: Mapping[str, Tensor], valid: Tensor) -> tuple[Tensor, Tensor]:
        """Predict what is hidden.

        Args:
            image: prefix and kept tokens, ``(B, prefix + K, D)``.
            text: kept tokens, ``(B, S, D or text_width)``.
            drawn: what ``draw`` returned.
            valid: which places have a token of the text, bool ``(B, L)``.

        Returns:
            Patches ``(B, N - K, P)``, and logits of tokens ``(B, L - S, V)``, in the order of the hidden ones.
        """
        order, text_order = self.patches(drawn), drawn["text_order"]
        x, y = self.embed(image), (self.embed if self.embed_text is None else self.embed_text)(text)
        prefix, patches = image.shape[1] - self.kept, order.shape[1]
        x = torch.cat([x, self.mask_token.to(x.dtype).expand(len(x), patches - self.kept, -1)], dim=1)
        y = torch.cat([y, self.text_mask_token.to(y.dtype).expand(len(y), text_order.shape[1] - y.shape[1], -1)], dim=1)
        x = x + functional.pad(_placed(self.positions, order) + self.kind, (0, 0, prefix, 0))
        y = y + _placed(self.text_positions, text_order) + self.text_kind
        seen = torch.cat([valid.new_ones(len(x), x.shape[1]), valid.gather(1, text_order)], dim=1)[:, None, None]
        z = torch.cat([x, y], dim=1)
        for block in self.blocks:
            z = block(z, attn_mask=seen)
        z = self.norm(z)
        return self.predict(z[:, prefix + self.kept : prefix + patches]), self.predict_text(
            z[:, prefix + patches + self.text_kept :]
        )

    def errors(
        self,
        predicted: tuple[Tensor, Tensor],
        images: Tensor,
        tokens: Tensor,
        drawn: Mapping[str, Tensor],
        valid: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """The mean error of each image's hidden patches, and of each text's hidden tokens; float32 ``(B,)`` both.

        A text of which no token is hidden has an error of 0, as in M3AE's released code.
        """
        target = _picked(patchify(self.options.pixels(images), self.patch_size), self.patches(drawn)[:, self.kept :])
        if self.options.norm_pix_loss:
            target = normalize_patches(target)
        of_patches = self.options.error(predicted[0], target).mean(dim=(1, 2))
        hidden = drawn["text_order"][:, self.text_kept :]
        counted = valid.gather(1, hidden)
        each = functional.cross_entropy(predicted[1].float().mT, tokens.gather(1, hidden), reduction="none")
        of_tokens = torch.where(counted, each, 0.0).sum(1) / counted.sum(1).clamp(min=1)
        return of_patches, of_tokens

    def fill(self, prediction: Tensor, images: Tensor, drawn: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Normalised pixels, the hidden patches at zero, and with the predicted ones put in; each ``(B, C, H, W)``."""
        order, size = self.patches(drawn)[:, self.kept :], images.shape[-2:]
        patches = patchify(images, self.patch_size).float()
        prediction = prediction.float()
        if self.options.norm_pix_loss:
            true = _picked(patches, order)
            prediction = prediction * (true.var(-1, keepdim=True) + 1e-6).sqrt() + true.mean(-1, keepdim=True)
        index = order.unsqueeze(-1).expand(-1, -1, patches.shape[-1])
        mask = torch.zeros_like(patches).scatter(1, index, 1.0)
        filled = self.options.undo(
            patchify(patches.scatter(1, index, prediction), self.patch_size, inverse=size), images
        )
        hidden = patchify(mask, self.patch_size, inverse=size) > 0
        return images.float().masked_fill(hidden, 0), torch.where(hidden, filled, images.float())


def _placed(positions: Tensor, order: Tensor) -> Tensor:
    return _picked(positions.expand(len(order), -1, -1), order)


def _picked(rows: Tensor, index: Tensor) -> Tensor:
    """Of ``(B, N, D)`` the rows at ``(B, K)``."""
    return rows.gather(1, index.unsqueeze(-1).expand(-1, -1, rows.shape[-1]))
