"""CLIP: an image and a text encoder whose vectors are near each other where the text is the image's.

Radford et al. 2021, 'Learning Transferable Visual Models From Natural Language Supervision', section 2. With ``freeze_image`` it is
locked-image tuning: Zhai et al. 2022, 'LiT: Zero-Shot Transfer with Locked-image text Tuning'. With ``mask_ratio`` it is FLIP: Li et
al. 2023, 'Scaling Language-Image Pre-training via Masking'.
"""

from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
from pydantic import Field
from timm.models.vision_transformer import VisionTransformer
from torch import Generator, Tensor

from mimcore.errors import UserError
from mimcore.models.encoder import Encoder, sides
from mimcore.models.masking import MaskingOptions, Masks
from mimcore.models.objective import NOTHING, Given
from mimcore.models.options import ObjectiveOptions
from mimcore.models.tokenizer import prepare_tokenizer
from mimcore.models.towers import TowerOptions, Towers
from mimcore.models.whole_batch import Embedded


class Config(TowerOptions, MaskingOptions, ObjectiveOptions):
    """Options of CLIP; the defaults are the paper's (sections 2.3 to 2.5, tables 18 and 20).

    Its schedule (table 18): batches of 32,768, 2,000 steps of warmup, decay 0.2, Adam with 0.98 as the second beta and epsilon
    1e-6 for ViTs, a cosine of 32 epochs, and random square crops alone; the learning rate is 5e-4 for ViT-B (table 20).
    """

    #: Part of the image's mask units that the encoder does not see in training: 0 in CLIP; FLIP's 0.5 (its released configurations)
    #: costs half.
    mask_ratio: float = Field(0.0, ge=0, lt=1)
    #: Leave the image encoder as it is, for a second phase of ``use: weights``: LiT's setting 'Lu' (section 3.3).
    freeze_image: bool = False


def prepare(config: Config, rows: pa.Table, folder: Path) -> None:
    """Learn the vocabulary from the captions of a subset."""
    prepare_tokenizer(config, rows, folder)


class Objective(Towers):
    """CLIP's loss over a timm encoder and a text tower.

    Raises:
        UserError: the options do not go with the encoder.
    """

    def __init__(self, encoder: Encoder, config: Config, given: Given = NOTHING) -> None:
        super().__init__(config, given)
        self.encoder = encoder.module
        self.config = config
        self.masks: Masks | None = None
        if config.mask_ratio:
            if not isinstance(encoder.module, VisionTransformer):
                raise UserError(
                    f"objectives.mask_ratio: '{encoder.model_name}' needs all patches; take a plain vision transformer, or 0."
                )
            self.masks = Masks.plan(config, sides(encoder.image_size), encoder.patch_size, hide_at_least=False)
        self.add_towers(encoder.module)
        if config.freeze_image:
            self.encoder.requires_grad_(False)

    def train(self, mode: bool = True) -> "Objective":
        """A frozen encoder drops nothing."""
        super().train(mode)
        if self.config.freeze_image:
            self.encoder.eval()
        return self

    def draw(self, batch: int, generator: Generator) -> dict[str, Tensor]:
        """``order``, the order of each image's mask units, int64 ``(B, U)``, where some are hidden."""
        return {"order": self.masks.draw(batch, generator)} if self.masks else {}

    def embed(self, images: Tensor, drawn: Mapping[str, Tensor]) -> Embedded:
        """Both vectors of each pair, the scale, and whether there is a caption."""
        kept = self._kept(drawn["order"]) if self.masks else None
        return self.embed_pairs(self.image(self.encoder, images, kept), drawn)

    def compare(self, embedded: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """``{"loss": float32 scalar}``."""
        return {"loss": self.contrast(embedded)}

    def _kept(self, order: Tensor) -> Tensor:
        assert self.masks is not None
        return self.masks.patches(order)[:, : self.masks.kept * self.masks.times**2]
