"""Action recognition: the encoder inflated to clips and fine-tuned, by VideoMAE's recipe (Tong et al. 2022, appendix, section 7).

A plain ViT reads tubelets with joint attention over space and time; any encoder may read frames one by one, under a transformer
over time. Each test clip is seen several times, and the chances of the classes are averaged (Simonyan & Zisserman 2014; Feichtenhofer
et al. 2019, section 4).
"""

from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
from pydantic import Field, model_validator
from timm.data import Mixup
from timm.loss import LabelSmoothingCrossEntropy, SoftTargetCrossEntropy
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from mimcore.errors import UserError
from mimcore.evaluation.dense.clips import Clips
from mimcore.evaluation.features import ahead
from mimcore.evaluation.heads.video import Classifier, Factorised, inflate
from mimcore.evaluation.randaugment import RandAugment, erase, seeded_timm
from mimcore.evaluation.recipe import Recipe, encoder_groups, head_groups, order, train
from mimcore.evaluation.task import (
    Context,
    Data,
    Metric,
    Needs,
    Value,
    accuracy,
    class_count,
    labels_of,
    seed_number,
    seeded,
)
from mimcore.models import families
from mimcore.models.encoder import Encoder, sides

METRICS = {"top1": Metric("Top-1 accuracy of clips")}
PIXELS = False
NEEDS: Needs = "clips"


class Config(Recipe):
    """Options of action recognition; defaults without a source of their own are VideoMAE's for Kinetics-400 and ViT-B.

    Its table of fine-tuning has repeated augmentation beside them, two views of a clip in a batch, which is not offered here: 0.8 to 1.0
    points there.
    """

    #: Frames that the encoder sees, T.
    frames: int = Field(16, ge=1)
    #: Frames of the clip from one to the next.
    stride: int = Field(4, ge=1)
    #: ``tubelets``: a plain ViT inflated, VideoMAE's; ``factorised``: frames one by one, then over time (ViViT), for any encoder.
    fusion: Literal["tubelets", "factorised"] = "tubelets"
    #: Frames of a tubelet.
    tubelet: int = Field(2, ge=1)
    #: Views of a test clip in time, and crops of each.
    test_clips: int = Field(5, ge=1)
    test_crops: Literal[1, 3] = 3
    batch_size: int = Field(512, ge=2)
    #: Peak learning rate of a batch of 256 clips; it grows in proportion to the batch. 5e-4 on Something-Something.
    base_learning_rate: float = Field(1e-3, gt=0)
    #: Where the cosine ends: 1e-6 for 256 clips in the released code, here for 512.
    min_learning_rate: float = Field(2e-6, ge=0)
    #: 5 of 75 epochs.
    warmup_fraction: float = Field(5 / 75, ge=0, lt=1)
    weight_decay: float = Field(0.05, ge=0)
    layer_decay: float = Field(0.75, gt=0, le=1)
    #: Share of the target that is spread over all classes.
    label_smoothing: float = Field(0.1, ge=0, lt=1)
    #: Parameter of mixup's beta distribution (Zhang et al. 2018), and of cutmix's (Yun et al. 2019); 0 turns either off.
    mixup: float = Field(0.8, ge=0)
    cutmix: float = Field(1.0, ge=0)
    #: RandAugment's policy in timm's words, the same for all frames of a clip; null turns it off, and so it is best for directions.
    #: The released code's; the paper's table has magnitude 9.
    rand_augment_policy: str | None = Field("rand-m7-n4-mstd0.5-inc1", pattern="^rand(-[a-z]+[0-9.]+)*$")
    #: Probability that a part of a clip is erased.
    random_erasing: float = Field(0.25, ge=0, le=1)
    #: Least and greatest share of the area that a crop keeps; (1, 1) crops nothing.
    crop_scale: tuple[float, float] = (0.08, 1.0)
    #: Whether half of the clips are mirrored; not where left and right are told apart, as in Something-Something.
    mirror: bool = True

    @model_validator(mode="after")
    def _possible(self) -> "Config":
        if self.fusion == "tubelets" and self.frames % self.tubelet:
            raise ValueError(f"tubelet {self.tubelet} does not divide frames {self.frames}")
        if (self.mixup or self.cutmix) and self.batch_size % 2:
            raise ValueError(f"batch_size {self.batch_size} must be even, since mixup and cutmix pair the clips")
        if not 0 < self.crop_scale[0] <= self.crop_scale[1] <= 1:
            raise ValueError(f"crop_scale {self.crop_scale} must rise within (0, 1]")
        return self

    @property
    def encoded(self) -> int:
        """Images' worth of tokens that the encoder reads of a clip."""
        return self.frames // self.tubelet if self.fusion == "tubelets" else self.frames

    @property
    def views(self) -> int:
        """Times that a test clip is seen."""
        return self.test_clips * self.test_crops


def evaluate(encoder: Encoder, config: Config, data: Data, context: Context) -> dict[str, Value]:
    """Fine-tune a copy of the encoder on clips and return the top-1 accuracy on the test clips.

    Raises:
        UserError: the encoder is of a kind that cannot be inflated or takes no RGB, a clip cannot be decoded, or the loss is not
            finite.
    """
    if encoder.channels != 3:
        raise UserError(f"{context.where}: video needs an encoder of three channels; this one has {encoder.channels}.")
    if config.fusion == "tubelets" and not isinstance(encoder.module, VisionTransformer):
        raise UserError(
            f"{context.where}.fusion: 'tubelets' needs a plain ViT, and this encoder is {encoder.model_name}; use"
            " 'factorised'."
        )
    classes = class_count(data, context.where)
    shape = sides(encoder.image_size)
    train_on, test_on = (Clips(images, shape, config.frames, config.stride) for images in (data.train, data.test))
    with seeded(context.seed, context.device):
        model, groups = _build(encoder, classes, config)
        model.to(context.device).train()
        peak = config.base_learning_rate * config.batch_size / 256
        labels = labels_of(data.train)
        train(groups, peak, _losses(model, classes, labels, train_on, config, context), config, context)
    return {"top1": accuracy(_answers(model, test_on, config, context) == labels_of(data.test))}


def _build(encoder: Encoder, classes: int, config: Config) -> tuple[Classifier, list[dict[str, object]]]:
    """The model and its parameter groups."""
    if config.fusion == "tubelets":
        # Means over all patches under a norm that starts afresh, and a head near zero: as VideoMAE.
        tuned = encoder.fresh(num_classes=classes, global_pool="avg", drop_path_rate=config.drop_path_rate)
        nn.init.trunc_normal_(families.head_weight(tuned.module), std=2e-5)
        inflate(tuned, config.frames, config.tubelet)
        return Classifier(tuned.module, tuned, config.precision), encoder_groups(tuned.module, config)
    tuned = encoder.fresh(drop_path_rate=config.drop_path_rate)
    joined = Factorised(tuned, config.frames, classes)
    inside = {id(parameter) for parameter in tuned.module.parameters()}
    new = [parameter for parameter in joined.parameters() if id(parameter) not in inside]
    groups = encoder_groups(tuned.module, config, scale=config.layer_decay) + head_groups(new, config)
    return Classifier(joined, tuned, config.precision), groups


def _losses(
    model: Classifier, classes: int, labels: Tensor, clips: Clips, config: Config, context: Context
) -> Callable[[int], Tensor]:
    """Make the function from a step to its loss."""
    mixup: Mixup | None = None
    criterion: nn.Module = LabelSmoothingCrossEntropy(config.label_smoothing)
    if config.mixup or config.cutmix:
        mixup = Mixup(config.mixup, config.cutmix, label_smoothing=config.label_smoothing, num_classes=classes)
        criterion = SoftTargetCrossEntropy()
    policy = None
    if config.rand_augment_policy is not None:
        policy = RandAugment(config.rand_augment_policy, min(clips.shape), model.tuned.mean)

    def draw(what: str, step: int) -> int:
        return seed_number(what, str(context.seed), str(step))

    def read(numbered: tuple[int, np.ndarray]) -> tuple[Tensor, Tensor]:
        step, positions = numbered
        seed = f"{context.seed}/clips"
        samples = zip(positions.tolist(), range(step * len(positions), (step + 1) * len(positions)), strict=True)
        batch = torch.stack(
            [clips.training(at, sample, seed, config.crop_scale, config.mirror) for at, sample in samples]
        )
        if policy is not None:
            # One seed for each clip: its frames are changed alike.
            seeds = [draw(f"rand_augment {row}", step) for row in range(len(batch))]
            batch = torch.stack([_alike(clip, policy, one) for clip, one in zip(batch, seeds, strict=True)])
        return batch, labels[positions]

    ready = ahead(read, enumerate(order(len(clips), config.batch_size, config.steps, context.seed)), context.workers)

    def losses(step: int) -> Tensor:
        batch, target = (part.to(context.device, non_blocking=True) for part in next(ready))
        # As images of T * C channels, which timm erases and mixes alike in all frames.
        pixels = model.normalize(batch).flatten(1, 2)
        if config.random_erasing:
            pixels = erase(pixels, config.random_erasing, draw("erase", step))
        if mixup is not None:
            with seeded_timm(draw("mixup", step)):
                pixels, target = mixup(pixels, target)
        loss: Tensor = criterion(model(pixels.unflatten(1, batch.shape[1:3])), target)
        return loss

    return losses


def _alike(clip: Tensor, policy: RandAugment, seed: int) -> Tensor:
    """Change all frames of uint8 ``(T, 3, H, W)`` by the same operations."""
    return torch.from_numpy(np.concatenate([policy(frame[None].numpy(), seed) for frame in clip]))


def _answers(model: Classifier, clips: Clips, config: Config, context: Context) -> Tensor:
    """The class of each test clip: that of the greatest mean chance over its views, int64 ``(N,)``."""
    model.eval()
    answers: list[Tensor] = []
    read = ahead(lambda at: clips.testing(at, config.test_clips, config.test_crops), range(len(clips)), context.workers)
    for views in read:
        with torch.inference_mode():
            parts = views.to(context.device).split(config.batch_size)
            chances = torch.cat([model(model.normalize(part)).softmax(dim=1) for part in parts])
            answers.append(chances.mean(dim=0).argmax().cpu())
        context.progress("testing", len(answers), len(clips))
    return torch.stack(answers)
