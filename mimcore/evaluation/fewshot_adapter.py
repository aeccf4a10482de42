"""Few-shot with an adapter: a few images of each class train small parts in a frozen encoder, and a linear classifier on it.

Singh et al. 2023 (section 4.4) report few shots with linear classifiers and with adapters; of LoRA, AdaptFormer and visual prompt tuning
(VPT) the last was their best. Offered are VPT with prompts in every block (Jia et al. 2022, VPT-deep) and LoRA (Hu et al. 2021). The
images are those of ``fewshot``.
"""

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import numpy as np
import torch
from pydantic import Field, model_validator
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from mimcore.errors import UserError
from mimcore.evaluation.adapters.lora import add_lora, merge
from mimcore.evaluation.adapters.prompts import add_prompts
from mimcore.evaluation.classification import CropOptions, batches, random_crop, top1
from mimcore.evaluation.features import autocast
from mimcore.evaluation.recipe import FrozenRecipe, head_groups, train
from mimcore.evaluation.shots import ShotsOptions, metrics, over_draws
from mimcore.evaluation.task import (
    Context,
    Data,
    Images,
    Needs,
    NotApplicable,
    Pooling,
    Value,
    class_count,
    labels_of,
    seed_number,
    seeded,
)
from mimcore.models import families
from mimcore.models.encoder import Encoder

METRICS = metrics(", with an adapter")
PIXELS = False
NEEDS: Needs = "labels"


class Config(ShotsOptions, CropOptions, FrozenRecipe):
    """Options of few-shot classification with an adapter.

    Neither paper trains ViTs on so few images without others to choose the learning rate on: VPT searches SGD's over three decades. One
    rate of AdamW is chosen here in its place, CLIP-LoRA's, which is for few shots (Zanella & Ben Ayed 2024, released code: 2e-4 for 32
    images), and grows with the batch as VPT's does (``tune_fgvc.py``: in proportion, for a batch of 256).
    """

    #: ``prompts`` (VPT-deep), for plain ViTs, or ``lora``, for any encoder.
    adapter: Literal["prompts", "lora"] = "prompts"
    #: Prompts of each block (VPT's released code, ``NUM_TOKENS`` of ``config.py``; the paper searches 1 to 200).
    prompts: int = Field(5, ge=1)
    #: Rank of LoRA's product (its released code for RoBERTa: ``lora_r 8``, ``lora_alpha 16``).
    rank: int = Field(8, ge=1)
    #: The product is multiplied by alpha over rank (Hu et al. 2021, section 4.1).
    alpha: float = Field(16.0, gt=0)
    #: ``mean`` over the patches, prompts left out, or the class token, ``cls``.
    pooling: Pooling = "mean"
    #: Length of the training for one image of each class, images; n images of each take n times as long, which is as many epochs
    #: for all (VPT: 100).
    images_seen: int = Field(ge=1)
    #: VPT's released code, ``base-prompt.yaml``.
    batch_size: int = Field(128, ge=2)
    #: Peak learning rate of a batch of 256 images; it grows in proportion to the batch.
    base_learning_rate: float = Field(1.6e-3, gt=0)
    #: 10 of VPT's 100 epochs (``base-prompt.yaml``).
    warmup_fraction: float = Field(0.1, ge=0, lt=1)
    #: CLIP-LoRA's released code; the largest that VPT searches.
    weight_decay: float = Field(1e-2, ge=0)

    @model_validator(mode="after")
    def _of_the_adapter(self) -> "Config":
        for field, adapter in {"prompts": "prompts", "rank": "lora", "alpha": "lora"}.items():
            if field in self.model_fields_set and self.adapter != adapter:
                raise ValueError(f"{field} is an option of 'adapter: {adapter}', but adapter is '{self.adapter}'")
        return self

    @property
    def repeats(self) -> int:
        """Times that ``images_seen`` are trained on."""
        return self.draws * sum(self.shots)

    @property
    def views(self) -> int:
        """Times that a test image is seen."""
        return self.draws * len(self.shots)


class Adapted(nn.Module):
    """A frozen encoder with an adapter, and its classifier: uint8 ``(B, C, H, W)`` to scores ``(B, classes)``, float32.

    Features are normalised over the batch, without affine, before they are classified (He et al. 2022, appendix A.1, whose released
    code, ``main_linprobe.py``, starts the classifier with a standard deviation of 0.01).

    Args:
        encoder: it is copied.
        classes: how many.
        config: which adapter, pooling and precision.
    """

    def __init__(self, encoder: Encoder, classes: int, config: Config) -> None:
        super().__init__()
        module = copy.deepcopy(encoder.module).requires_grad_(False)
        if config.adapter == "lora":
            self.learned = add_lora(module, config.rank, config.alpha)
        else:
            assert isinstance(module, VisionTransformer)
            self.learned = add_prompts(module, config.prompts)
        self.encoder = replace(encoder, module=module)
        self.module, self.config = module, config
        width = int(module.num_features)
        classifier = nn.Linear(width, classes)
        nn.init.trunc_normal_(classifier.weight, std=0.01)
        nn.init.zeros_(classifier.bias)
        self.head = nn.Sequential(nn.BatchNorm1d(width, affine=False, eps=1e-6), classifier)
        self.learned += list(self.head.parameters())

    def train(self, mode: bool = True) -> "Adapted":
        """Of the frozen encoder nothing is ever dropped."""
        super().train(mode)
        self.module.eval()
        return self

    def features(self, images: Tensor) -> Tensor:
        """Pooled after the encoder's last norm, float32 ``(B, D)``."""
        with autocast(images.device, self.config.precision):
            cls, patches = families.tokens(self.module, self.encoder.normalize(images))
        return patches.float().mean(dim=1) if cls is None or self.config.pooling == "mean" else cls.float()

    def forward(self, images: Tensor) -> Tensor:
        """Scores."""
        scores: Tensor = self.head(self.features(images))
        return scores


def evaluate(encoder: Encoder, config: Config, data: Data, context: Context) -> dict[str, Value]:
    """Top-1 accuracy on the test images for each number of shots: mean over the draws and its standard error.

    Raises:
        NotApplicable: the encoder is of a family that the adapter is not for.
        UserError: the encoder has no class token to pool, no class has as many training images as the least number of shots, or a loss
            stops being finite.
    """
    if config.adapter == "prompts" and not isinstance(encoder.module, VisionTransformer):
        raise NotApplicable(
            f"{context.where}: prompts are for plain vision transformers, and this encoder is {encoder.model_name};"
            " 'adapter: lora' takes any."
        )
    if config.pooling == "cls" and not families.has_class_token(encoder.module):
        raise UserError(f"{context.where}.pooling: the encoder has no class token; use 'mean'.")
    classes = class_count(data, context.where)

    def share(positions: np.ndarray, shots: int, number: int) -> float:
        inner = replace(context, seed=seed_number("adapter", str(context.seed), str(shots), str(number)))
        length = config.model_copy(update={"images_seen": config.images_seen * shots})
        with seeded(inner.seed, context.device):
            model = Adapted(encoder, classes, config).to(context.device).train()
            peak = config.base_learning_rate * config.batch_size / 256
            losses = _losses(model, data.train, positions, length, inner)
            train(head_groups(model.learned, config), peak, losses, length, inner)
        merge(model.module)
        return top1(model.eval(), data.test, inner).value

    return over_draws(config, labels_of(data.train).numpy(), share, context, context.where)


def _losses(
    model: Adapted, images: Images, drawn: np.ndarray, config: Config, context: Context
) -> Callable[[int], Tensor]:
    """Make the function from a step to its loss, on the images that were drawn."""
    labels = labels_of(images)

    def read(step: int, positions: np.ndarray) -> tuple[Tensor, Tensor]:
        chosen = drawn[positions]
        return torch.from_numpy(images.get(chosen)), labels[chosen]

    ready = batches(read, len(drawn), config, context)

    def losses(step: int) -> Tensor:
        pixels, target = next(ready)
        return F.cross_entropy(model(random_crop(pixels, config, context.seed, step)), target)

    return losses
