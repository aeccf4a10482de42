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
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from mimcore.errors import UserError
from mimcore.evaluation.classification import Mixing, MixRecipe, batches, classifier
from mimcore.evaluation.dense.clips import Clips
from mimcore.evaluation.features import ahead
from mimcore.evaluation.heads.video import Classifier, Factorised, inflate
from mimcore.evaluation.randaugment import RandAugment, erase
from mimcore.evaluation.recipe import encoder_groups, head_groups, train
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
from mimcore.models.encoder import Encoder, sides

METRICS = {"top1": Metric("Top-1 accuracy of clips")}
PIXELS = False
NEEDS: Needs = "clips"


class Config(MixRecipe):
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
    #: RandAugment's policy in timm's words, the same for all frames of a clip; null turns it off, and so it is best for directions.
    #: The released code's; the paper's table has magnitude 9.
    rand_augment_policy: str | None = Field("rand-m7-n4-mstd0.5-inc1", pattern="^rand(-[a-z]+[0-9.]+)*$")
    #: Probability that a part of a clip is erased.
    random_erasing: float = Field(0.25, ge=0, le=1)

    @model_validator(mode="after")
    def _possible(self) -> "Config":
        if self.fusion == "tubelets" and self.frames % self.tubelet:
            raise ValueError(f"tubelet {self.tubelet} does not divide frames {self.frames}")
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
        tuned = classifier(encoder, classes, config.drop_path_rate)
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
    mixing = Mixing(config, classes, context.seed)
    policy = None
    if config.rand_augment_policy is not None:
        policy = RandAugment(config.rand_augment_policy, min(clips.shape), model.tuned.mean)

    def draw(what: str, step: int) -> int:
        return seed_number(what, str(context.seed), str(step))

    def read(step: int, positions: np.ndarray) -> tuple[Tensor, Tensor]:
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

    ready = batches(read, len(clips), config, context)

    def losses(step: int) -> Tensor:
        batch, target = next(ready)
        # As images of T * C channels, which timm erases and mixes alike in all frames.
        pixels = model.normalize(batch).flatten(1, 2)
        if config.random_erasing:
            pixels = erase(pixels, config.random_erasing, draw("erase", step))
        pixels, target = mixing.mix(pixels, target, step)
        loss: Tensor = mixing.loss(model(pixels.unflatten(1, batch.shape[1:3])), target)
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
