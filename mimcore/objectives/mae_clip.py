"""MAE-CLIP: CLIP's loss, and a decoder that predicts hidden patches and hidden tokens from what both towers see of the pair.

Weers et al. 2023, 'Masked Autoencoding Does Not Help Natural Language Supervision at Scale'. Dong et al. 2023, 'MaskCLIP', and
Mu et al. 2022, 'SLIP', put self-supervision beside CLIP likewise.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
from pydantic import Field
from torch import Generator, Tensor

from mimcore.models.encoder import Encoder
from mimcore.models.joint import Joint, JointOptions
from mimcore.models.objective import NOTHING, Given
from mimcore.models.options import ObjectiveOptions
from mimcore.models.pooling import Kind
from mimcore.models.text import within
from mimcore.models.tokenizer import prepare_tokenizer
from mimcore.models.towers import TowerOptions, Towers
from mimcore.models.whole_batch import Embedded


class Config(TowerOptions, JointOptions, ObjectiveOptions):
    """Options of MAE-CLIP: towers as CLIP's, masks, decoder and weights of the errors as M3AE's, the pooling of Weers et al."""

    #: Attention pooling is the paper's first choice; that ``gap`` or ``max`` is better is one of its findings.
    pooling: Kind = "map"
    #: The text tower is read with places left out, and its tokens see each other, for the decoder.
    causal: bool = False
    #: Weight of CLIP's loss.
    contrastive_loss_weight: float = Field(1.0, ge=0)
    #: Compare the masked image, whose tokens the decoder has, with its text, instead of the whole image: one pass of the encoder, not two.
    mask_contrastive: bool = False


def prepare(config: Config, rows: pa.Table, folder: Path) -> None:
    """Learn the vocabulary from the captions of a subset."""
    prepare_tokenizer(config, rows, folder)


class Objective(Towers):
    """The weighted sum of CLIP's loss and both errors of the decoder.

    Raises:
        UserError: the options do not go with the encoder.
    """

    def __init__(self, encoder: Encoder, config: Config, given: Given = NOTHING) -> None:
        super().__init__(config, given)
        self.config = config
        vocab_size = self.tokenizer.vocab_size
        self.joint = Joint(encoder, config, config.context_length, vocab_size, config.text_width)
        self.encoder: Any = encoder.module
        self.add_towers(encoder.module)

    def draw(self, batch: int, generator: Generator) -> dict[str, Tensor]:
        """The masks of images and texts, a row per image; see ``Joint.draw``."""
        return self.joint.draw(batch, generator)

    def embed(self, images: Tensor, drawn: Mapping[str, Tensor]) -> Embedded:
        """Both vectors of each pair, the scale, both errors, and whether there is a caption."""
        seen = self.joint.encode(self.encoder, images, drawn)
        if self.config.mask_contrastive:
            image = self.image.project(self.image.pooling.pool(seen, self.encoder))
        else:
            image = self.image(self.encoder, images)
        valid = self._valid(drawn)
        predicted = self._predict(seen, drawn, valid)
        patches, words = self.joint.errors(predicted, images, drawn["tokens"], drawn, valid)
        return self.embed_pairs(image, drawn, patches=patches, words=words)

    def compare(self, embedded: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """``{"loss": float32 scalar}`` and its three parts, not yet weighted."""
        contrastive = self.contrast(embedded)
        image, text = embedded["patches"].mean(), embedded["words"].mean()
        config = self.config
        loss = config.contrastive_loss_weight * contrastive
        loss = loss + config.image_loss_weight * image + config.text_loss_weight * text
        return {"loss": loss, "contrastive_loss": contrastive, "image_loss": image, "text_loss": text}

    def reconstruct(self, images: Tensor, drawn: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Fill in the hidden patches, for a picture; see ``Joint.fill``."""
        seen = self.joint.encode(self.encoder, images, drawn)
        return self.joint.fill(self._predict(seen, drawn, self._valid(drawn))[0], images, drawn)

    def _valid(self, drawn: Mapping[str, Tensor]) -> Tensor:
        """Which places have a token of a text, bool ``(B, L)``; an image without a caption has none."""
        return within(drawn["tokens"], self.tokenizer.end) & (drawn["known"] > 0).unsqueeze(1)

    def _predict(self, seen: Tensor, drawn: Mapping[str, Tensor], valid: Tensor) -> tuple[Tensor, Tensor]:
        kept = drawn["text_order"][:, : self.joint.text_kept]
        texts = self.text.norm(self.text.states(drawn["tokens"], kept))
        predicted: tuple[Tensor, Tensor] = self.joint(seen, texts, drawn, valid)
        return predicted
