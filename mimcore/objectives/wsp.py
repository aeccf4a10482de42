"""Weakly supervised pretraining: predict the tags of an image.

Singh et al. 2022, 'Revisiting Weakly Supervised Pre-Training of Visual Perception Models' (SWAG); Singh et al. 2023, 'The Effectiveness of
MAE Pre-Pretraining for Billion-Scale Pretraining', section 3, as a second phase after MAE: cross-entropy, with hashtags for labels.
That each of k tags has a target of 1/k is as in Mahajan et al. 2018, by memory: no source at hand says it of either.
"""

from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import torch
from safetensors.torch import save as serialize
from torch import Generator, Tensor, nn
from torch.nn import functional

from mimcore.models.encoder import Encoder
from mimcore.models.objective import NOTHING, Given, Trained
from mimcore.models.options import ObjectiveOptions
from mimcore.models.pooling import Kind, Pooling
from mimcore.models.vocabulary import (
    F64,
    Vocabulary,
    VocabularyOptions,
    learn_vocabulary,
    read_vocabulary,
    write_vocabulary,
)

#: Weights of the classifier, and of its pooling where that has any, in a run artifact.
HEAD = "head.safetensors"


class Config(VocabularyOptions, ObjectiveOptions):
    """Options of weakly supervised pretraining."""

    #: What the classifier sees: a ViT's class token (Dosovitskiy et al. 2021, section 3.1).
    pooling: Kind = "cls"


def prepare(config: Config, rows: pa.Table, folder: Path) -> None:
    """Learn the vocabulary from the tags of a subset."""
    write_vocabulary(learn_vocabulary(config, rows), folder)


class Objective(Trained):
    """Cross-entropy over tags, each of an image's k tags with a target of 1/k.

    Where no vocabulary was prepared, as when a run is only counted, there are ``max_tags`` nameless ones.
    """

    def __init__(self, encoder: Encoder, config: Config, given: Given = NOTHING) -> None:
        super().__init__()
        self.encoder = encoder.module
        self.config = config
        self.columns = (config.tags_from,)
        self.vocabulary: Vocabulary | None = None
        if given.prepared is not None:
            self.vocabulary = read_vocabulary(config, given.prepared)
        self.pooling = Pooling(config.pooling, encoder.module)
        outputs = len(self.vocabulary.names) if self.vocabulary else config.max_tags
        self.head = nn.Linear(encoder.module.num_features, outputs)
        nn.init.zeros_(self.head.weight)  # Dosovitskiy et al. 2021, released code (``head_zeroinit`` of big_vision)
        nn.init.zeros_(self.head.bias)

    def draw(self, batch: int, generator: Generator) -> dict[str, Tensor]:
        """Nothing is drawn."""
        return {}

    def read(self, rows: pa.Table) -> dict[str, Tensor]:
        """``tags``, numbers of the tags of each image, int64 ``(B, K)``, filled up with -1 to a power of two."""
        found = self.vocabulary.tags(rows) if self.vocabulary else [[] for _ in range(len(rows))]
        longest = max((len(tags) for tags in found), default=1)
        places = 1 << max(longest - 1, 0).bit_length()  # few shapes, for the compiler
        return {"tags": torch.tensor([[*tags, *[-1] * (places - len(tags))] for tags in found], dtype=torch.int64)}

    def copies(self, rows: pa.Table) -> F64 | None:
        """Images of rare tags are shown more often, and those without a tag never."""
        return self.vocabulary.copies(rows) if self.vocabulary else None

    def forward(self, images: Tensor, drawn: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Mean cross-entropy.

        Args:
            images: normalised, float ``(B, C, H, W)``.
            drawn: ``tags``, int64 ``(B, K)``.

        Returns:
            ``{"loss": float32 scalar}``: in training over all images, each of which has a tag; else over those that have one.
        """
        tags = drawn["tags"]
        logits = self.head(self.pooling(self.encoder, images)).float()
        there = tags >= 0
        chosen = functional.log_softmax(logits, dim=-1).gather(1, tags.clamp(min=0))
        each = -torch.where(there, chosen, 0.0).sum(1) / there.sum(1).clamp(min=1)
        tagged = len(images) if self.training else there.any(1).sum().clamp(min=1)
        return {"loss": each.sum() / tagged}

    def save_more(self, folder: Path) -> None:
        """Write the classifier and the names of its outputs."""
        parts = {**self.head.state_dict(), **self.pooling.state_dict(prefix="pooling.")}
        (folder / HEAD).write_bytes(serialize({name: part.detach().cpu().contiguous() for name, part in parts.items()}))
        if self.vocabulary:
            write_vocabulary(self.vocabulary, folder, pooling=self.config.pooling)
