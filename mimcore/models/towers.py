"""What objectives with a text tower share: tokens of captions, both sides of the shared space, and the comparison in it."""

from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from mimcore.models.contrast import contrastive_loss
from mimcore.models.families import Module
from mimcore.models.objective import Given
from mimcore.models.text import Projection, TextOptions, TextTransformer, read_captions, save_towers
from mimcore.models.tokenizer import load_tokenizer
from mimcore.models.whole_batch import Embedded, WholeBatch


class TowerOptions(TextOptions):
    """Options of the text tower, and of how both are compared."""

    #: What cosines are divided by at first (Radford et al. 2021, section 2.5).
    initial_temperature: float = Field(0.07, gt=0)
    #: What they are multiplied by at most (Radford et al. 2021, section 2.5, table 18).
    max_scale: float = Field(100.0, ge=1)


class Towers(WholeBatch):
    """An objective that compares images with their captions; ``add_towers`` makes what it compares by.

    Args:
        config: options.
        given: what was prepared of the subset: the tokenizer.
    """

    columns = ("caption",)

    def __init__(self, config: TowerOptions, given: Given) -> None:
        super().__init__()
        self.towers = config
        self.prepared = given.prepared is not None
        self.tokenizer = load_tokenizer(config, given.prepared)

    def add_towers(self, module: Module) -> None:
        """Make ``text``, the text tower, and ``image``, the projection of the encoder's tokens; their weights are drawn here."""
        config = self.towers
        self.text = TextTransformer(self.tokenizer.vocab_size, self.tokenizer.end, config)
        self.image = Projection(
            config.pooling, module, config.projection_dim, config.initial_temperature, config.max_scale
        )

    def read(self, rows: pa.Table) -> dict[str, Tensor]:
        """``tokens``, int64 ``(B, L)``, and ``known``: whether there is a caption, float32 ``(B,)``."""
        return read_captions(rows, self.tokenizer, self.towers, self.prepared)

    def embed_pairs(self, image: Tensor, drawn: Mapping[str, Tensor], **more: Tensor) -> Embedded:
        """What ``contrast`` needs of each pair: both vectors, the scale, and whether there is a caption.

        Args:
            image: vectors of the images, ``(B, D)``.
            drawn: ``tokens`` and ``known``, as ``read`` gives them.
            more: what else each pair brings.
        """
        text = functional.normalize(self.text(drawn["tokens"]).float(), dim=-1)
        scale = self.image.logit_scale.expand(len(image))
        return {"image": image, "text": text, "scale": scale, **more, "known": drawn["known"]}

    @staticmethod
    def contrast(embedded: Mapping[str, Tensor]) -> Tensor:
        """CLIP's loss, float32 scalar."""
        return contrastive_loss(*(embedded[name] for name in ("image", "text", "scale", "known")))

    def after_step(self, step: int, steps: int) -> None:
        """Keep the scale within its bound."""
        self.image.clamp()

    def save_more(self, folder: Path) -> None:
        """Write both sides of the shared space."""
        save_towers(folder, self.text, self.image, self.tokenizer, self.towers)
