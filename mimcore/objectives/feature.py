"""Masked feature prediction: the features that a teacher makes of the whole image are predicted at its hidden patches.

Wei et al. 2022 (MaskFeat), Baevski et al. 2022 (data2vec), Fang et al. 2023 (EVA); Lu et al. 2023 compare such targets with pixels as
data grow. ``docs/objectives.md`` has the options of each.
"""

from dataclasses import replace
from typing import Literal

import torch
from pydantic import Field, model_validator
from timm.models.vision_transformer import VisionTransformer
from torch import Generator, Tensor, nn
from torch.nn import functional

from mimcore.errors import UserError
from mimcore.models import teacher
from mimcore.models.decoder import Decoder
from mimcore.models.encoder import Encoder, sides
from mimcore.models.encoding import encode_hidden, encode_patches
from mimcore.models.families import Hierarchical
from mimcore.models.features import LayerOptions, Normalization, normalized
from mimcore.models.masking import MaskingOptions, Masks
from mimcore.models.objective import NOTHING, Given, Trained
from mimcore.models.options import ObjectiveOptions
from mimcore.models.patches import patchify
from mimcore.models.principal import colours


class Config(MaskingOptions, ObjectiveOptions):
    """Options of masked feature prediction; those of a teacher are in ``mimcore/models/teacher.py``."""

    #: What makes the targets.
    teacher: teacher.Options
    #: ``mae``: hidden patches are left out of the encoder, and a transformer decoder predicts them (He et al. 2022). ``simmim``: they
    #: enter it as mask tokens, and a linear layer predicts them (Xie et al. 2022; MaskFeat, data2vec and EVA too).
    style: Literal["mae", "simmim"] = "mae"
    #: Part of the mask units that is hidden (He et al. 2022, figure 5); 0.4 in MaskFeat and EVA, 0.6 in data2vec.
    mask_ratio: float = Field(0.75, gt=0, lt=1)
    #: Of the target, once its layers are one.
    target_normalization: Normalization = "none"
    #: ``cosine``: one minus the cosine of prediction and target (EVA's released code, up to the constant).
    loss: Literal["cosine", "smooth_l1", "l1", "l2"] = "cosine"
    #: Where ``smooth_l1`` turns from squared to absolute error (data2vec, section 4.1: 2 for images).
    beta: float = Field(2.0, gt=0)
    #: Width of the decoder's tokens, in the style of MAE (He et al. 2022, table 1b).
    decoder_embed_dim: int = Field(512, ge=16, multiple_of=4)
    #: Blocks of the decoder (table 1a).
    decoder_depth: int = Field(8, ge=1)
    decoder_num_heads: int = Field(16, ge=1)

    @model_validator(mode="after")
    def _fits(self) -> "Config":
        if self.style == "mae" and self.decoder_embed_dim % self.decoder_num_heads:
            raise ValueError(
                f"decoder_num_heads {self.decoder_num_heads} does not divide decoder_embed_dim {self.decoder_embed_dim}"
            )
        return self

    @property
    def over_the_batch(self) -> bool:
        """Whether a target depends on the other images of its batch."""
        layers = self.teacher.layer_normalization if isinstance(self.teacher, LayerOptions) else "none"
        return "batch" in (layers, self.target_normalization)

    def error(self, prediction: Tensor, target: Tensor) -> Tensor:
        """The mean error of ``(B, M, width)``, float32 scalar; zero where the two are equal."""
        prediction = prediction.float()
        if self.loss == "cosine":
            return (1 - functional.cosine_similarity(prediction, target, dim=-1)).mean()
        if self.loss == "smooth_l1":
            return functional.smooth_l1_loss(prediction, target, beta=self.beta)
        return (functional.l1_loss if self.loss == "l1" else functional.mse_loss)(prediction, target)


class Objective(Trained):
    """The loss of predicted features over a timm vision transformer, BEiT or Swin.

    Shapes: B batch, U mask units of the image, N last tokens of the whole image (patches, but of a Swin larger), K of them kept,
    M = N - K hidden, D encoder width, F values of a target.

    Raises:
        UserError: the masks, the encoder or the teacher do not go together.
    """

    def __init__(self, encoder: Encoder, config: Config, given: Given = NOTHING) -> None:
        super().__init__()
        module = encoder.module
        if config.style == "mae" and not isinstance(module, VisionTransformer):
            raise UserError(
                f"objectives.style: 'mae' leaves the hidden patches out of the encoder, and '{encoder.model_name}' needs them all; take "
                "a plain vision transformer, or the style 'simmim'."
            )
        self.encoder = module
        self.config = config
        #: The loss is a mean over images, each with as many hidden patches, unless a target is normalised over the batch.
        self.whole_batch = config.over_the_batch
        self.statistics = encoder.mean, encoder.std
        height, width = sides(encoder.image_size)
        self.masks = Masks.plan(config, (height, width), encoder.patch_size, hide_at_least=config.style == "simmim")
        unit = self.masks.times * encoder.patch_size
        if unit % encoder.stride:
            raise UserError(
                f"objectives.mask_unit: a last token of '{encoder.model_name}' stands for {encoder.stride} pixels, and a feature is hidden "
                f"whole or not at all; take a multiple of it and not {unit}."
            )
        #: The same masks in last tokens.
        self.tokens = replace(self.masks, times=unit // encoder.stride)
        self.grid = (height // encoder.stride, width // encoder.stride)
        self.kept = self.masks.kept * self.tokens.times**2
        self.patch_size = encoder.patch_size
        self.teacher = teacher.build(config.teacher, encoder, self.grid, given)
        if config.style == "simmim":
            #: A vector, so that weight decay leaves it alone, as in SimMIM's released code.
            self.mask_token = nn.Parameter(torch.empty(module.embed_dim))
            nn.init.trunc_normal_(self.mask_token, std=0.02)
            self.decoder: nn.Module = nn.Linear(module.num_features, self.teacher.width)
            return
        self.decoder = Decoder(
            encoder_width=module.embed_dim,
            width=config.decoder_embed_dim,
            depth=config.decoder_depth,
            num_heads=config.decoder_num_heads,
            grid=self.grid,
            outputs=self.teacher.width,
        )

    def draw(self, batch: int, generator: Generator) -> Tensor:
        """Draw the order of the mask units of each image, kept ones first, int64 ``(B, U)``, on the generator's device."""
        return self.masks.draw(batch, generator)

    def forward(self, images: Tensor, drawn: Tensor) -> dict[str, Tensor]:
        """Mean error over the hidden patches.

        Args:
            images: normalised, float ``(B, C, H, W)``.
            drawn: rows of what ``draw`` returned, int64 ``(B, U)``.

        Returns:
            ``{"loss": float32 scalar}``.
        """
        drawn = drawn.to(images.device)
        order = self.tokens.patches(drawn)
        target = self.target(images)
        hidden = order[:, self.kept :].unsqueeze(-1).expand(-1, -1, target.shape[-1])
        return {"loss": self.config.error(self._predict(images, drawn, order), target.gather(1, hidden))}

    @torch.no_grad()
    def target(self, images: Tensor) -> Tensor:
        """What the teacher makes of whole images, float32 ``(B, N, F)``."""
        return normalized(self.teacher(images), self.config.target_normalization)

    def started(self) -> None:
        """A running average starts as the encoder is."""
        self._follow(0.0)

    def after_step(self, step: int, steps: int) -> None:
        """A running average takes in the encoder."""
        if isinstance(self.config.teacher, teacher.AverageOptions):
            self._follow(self.config.teacher.decay(step))

    def reconstruct(self, images: Tensor, drawn: Tensor) -> tuple[Tensor, Tensor]:
        """Show features as colours, for a picture: their three principal components over these images.

        Returns:
            The target of all patches, and the prediction of the hidden ones with the others grey, each ``(B, 3, H, W)``, normalised
            as images are.
        """
        drawn = drawn.to(images.device)
        order = self.tokens.patches(drawn)
        target, prediction = self.target(images), self._predict(images, drawn, order).float()
        if self.config.loss == "cosine":  # their lengths mean nothing
            target, prediction = functional.normalize(target, dim=-1), functional.normalize(prediction, dim=-1)
        shown, predicted = colours(target, prediction)
        hidden = order[:, self.kept :].unsqueeze(-1).expand(-1, -1, 3)
        filled = torch.full_like(shown, 0.5).scatter(1, hidden, predicted)
        mean, std = (images.new_tensor(values).view(1, -1, 1, 1) for values in self.statistics)
        stride = images.shape[-2] // self.grid[0]
        pictures = [patchify(part, 1, inverse=self.grid) for part in (shown, filled)]
        pictures = [part.repeat_interleave(stride, 2).repeat_interleave(stride, 3) for part in pictures]
        return (pictures[0] - mean) / std, (pictures[1] - mean) / std

    def _follow(self, decay: float) -> None:
        if isinstance(self.teacher, teacher.RunningAverage):
            self.teacher.follow(self.encoder, decay)

    def _predict(self, images: Tensor, drawn: Tensor, order: Tensor) -> Tensor:
        """Features of the hidden patches, ``(B, M, F)``, in the order of ``order[:, K:]``."""
        if self.config.style == "mae":
            assert isinstance(self.encoder, VisionTransformer)
            tokens = encode_patches(self.encoder, patchify(images, self.patch_size), order[:, : self.kept])
            predicted: Tensor = self.decoder(tokens, order, self.kept)
        else:
            times = self.masks.times
            hidden = self.masks.hidden(drawn).repeat_interleave(times, 1).repeat_interleave(times, 2)
            tokens = encode_hidden(self.encoder, images, hidden, self.mask_token)
            tokens = tokens[:, 0 if isinstance(self.encoder, Hierarchical) else self.encoder.num_prefix_tokens :]
            index = order[:, self.kept :].unsqueeze(-1).expand(-1, -1, tokens.shape[-1])
            predicted = self.decoder(tokens.gather(1, index))
        return predicted
