"""M3AE: one encoder over patches of an image and tokens of its text, most of both hidden, and a decoder that predicts these.

Geng et al. 2022, 'Multimodal Masked Autoencoders Learn Transferable Representations', section 3.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from pydantic import Field
from timm.models.vision_transformer import VisionTransformer
from torch import Generator, Tensor, nn

from mimcore.models.encoder import Encoder
from mimcore.models.encoding import encode_patches
from mimcore.models.joint import Joint, JointOptions
from mimcore.models.objective import NOTHING, Given, Trained
from mimcore.models.options import ObjectiveOptions
from mimcore.models.patches import patchify
from mimcore.models.positions import sincos_sequence
from mimcore.models.text import read_captions, within
from mimcore.models.tokenizer import TokenizerOptions, load_tokenizer, prepare_tokenizer


class Config(TokenizerOptions, JointOptions, ObjectiveOptions):
    """Options of M3AE; the defaults are those of its released code, but for the tokenizer, which is BERT's there."""

    #: Tokens of a text, both marks included; what is longer is cut.
    context_length: int = Field(64, ge=3)


def prepare(config: Config, rows: pa.Table, folder: Path) -> None:
    """Learn the vocabulary from the captions of a subset."""
    prepare_tokenizer(config, rows, folder)


class Objective(Trained):
    """M3AE's loss; the timm vision transformer is the encoder of both.

    Its artifact is the encoder alone, which sees images as any other does. The paper's token that says 'image' is left to the bias
    of the patch projection, to which it would add; the text has its own.

    Raises:
        UserError: the masks, or the encoder, do not go with it.
    """

    columns = ("caption",)
    text_positions: Tensor

    def __init__(self, encoder: Encoder, config: Config, given: Given = NOTHING) -> None:
        super().__init__()
        self.config = config
        self.prepared = given.prepared is not None
        self.tokenizer = load_tokenizer(config, given.prepared)
        vocab_size = self.tokenizer.vocab_size
        self.joint = Joint(encoder, config, config.context_length, vocab_size, text_width=None)
        self.encoder: Any = encoder.module
        width = self.encoder.embed_dim
        self.tokens = nn.Embedding(vocab_size, width)  # of standard deviation 1, as in the released code
        self.kind = nn.Parameter(torch.empty(width).normal_(std=0.02))
        self.register_buffer("text_positions", sincos_sequence(width, config.context_length), persistent=False)

    def draw(self, batch: int, generator: Generator) -> dict[str, Tensor]:
        """The masks of images and texts, a row per image; see ``Joint.draw``."""
        return self.joint.draw(batch, generator)

    def read(self, rows: pa.Table) -> dict[str, Tensor]:
        """``tokens``, int64 ``(B, L)``, and ``known``: whether there is a caption, float32 ``(B,)``."""
        return read_captions(rows, self.tokenizer, self.config, self.prepared)

    def forward(self, images: Tensor, drawn: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The weighted sum of both errors, and each of them, float32 scalars."""
        valid = self._valid(drawn)
        patches, words = self.joint.errors(self._predict(images, drawn, valid), images, drawn["tokens"], drawn, valid)
        image, text = patches.mean(), words.mean()
        loss = self.config.image_loss_weight * image + self.config.text_loss_weight * text
        return {"loss": loss, "image_loss": image, "text_loss": text}

    def reconstruct(self, images: Tensor, drawn: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Fill in the hidden patches, for a picture; see ``Joint.fill``."""
        return self.joint.fill(self._predict(images, drawn, self._valid(drawn))[0], images, drawn)

    def _valid(self, drawn: Mapping[str, Tensor]) -> Tensor:
        """Which places have a token of a text, bool ``(B, L)``; an image without a caption has none."""
        return within(drawn["tokens"], self.tokenizer.end) & (drawn["known"] > 0).unsqueeze(1)

    def _predict(self, images: Tensor, drawn: Mapping[str, Tensor], valid: Tensor) -> tuple[Tensor, Tensor]:
        assert isinstance(self.encoder, VisionTransformer)
        kept = drawn["text_order"][:, : self.joint.text_kept]
        texts = self.tokens(drawn["tokens"]) + self.text_positions + self.kind
        texts = texts.gather(1, kept.unsqueeze(-1).expand(-1, -1, texts.shape[-1]))
        order = self.joint.patches(drawn)[:, : self.joint.kept]
        patches = patchify(images, self.joint.patch_size)
        encoded = encode_patches(self.encoder, patches, order, texts, valid.gather(1, kept))
        image, text = encoded[:, : -kept.shape[1]], encoded[:, -kept.shape[1] :]
        predicted: tuple[Tensor, Tensor] = self.joint(image, text, drawn, valid)
        return predicted
