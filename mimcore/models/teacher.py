"""Teachers of the objective ``feature``: what is predicted of the hidden patches, made from the whole image.

Lu et al. 2023 ('Delving Deeper into Data Scaling in Masked Image Modeling') compare such targets with pixels, as data grow.
"""

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from mimcore.definition import Definition, resolve
from mimcore.errors import UserError
from mimcore.models import encoder as encoders
from mimcore.models import pretrained
from mimcore.models.encoder import Encoder, Side, sides
from mimcore.models.features import LayerOptions, Normalization, combined, layer_maps
from mimcore.models.hog import Hog, HogOptions
from mimcore.models.objective import Given
from mimcore.models.patches import patchify


class PixelOptions(Definition):
    """The patches themselves, for comparison."""

    kind: Literal["pixels"]


class RunOptions(LayerOptions):
    """The encoder of another run: the one that a phase of ``use: teacher`` follows."""

    kind: Literal["run"]
    #: Height and width that the image is resized to for the teacher, pixels; that of its own training if not given.
    image_size: Side | tuple[Side, Side] | None = None


class TimmOptions(pretrained.TimmOptions, LayerOptions):
    """A model of timm, such as CLIP's, DINO's or EVA's encoders.

    The defaults are the last layer after its last norm: the target of EVA is CLIP's (Fang et al. 2023), whose released code also projects
    it into the space of the texts (``EVA-01/eva/clip/model.py``), which is not done here.
    """

    kind: Literal["timm"]
    #: Height and width that the image is resized to for the teacher, pixels; that of its own training if not given. The teacher's
    #: positions are resampled by timm where it is another.
    image_size: Side | tuple[Side, Side] | None = None


class AverageOptions(LayerOptions):
    """The running average of the encoder that is being trained (data2vec, Baevski et al. 2022, section 3.3)."""

    kind: Literal["average"]
    #: The mean of the last six blocks (section 4.1, 'Computer vision').
    layers: int | tuple[int, ...] = 6
    #: Outputs of the blocks as they are (released commands for images, ``--layer_results end``).
    final_norm: bool = False
    #: Of each block, without weights (section 3.3, 'Targets').
    layer_normalization: Normalization = "layer"
    #: Part of the average that a step keeps at first, tau_0: constant for images (section 4.1), 0.999 for speech and text (4.2, 4.3).
    decay_start: float = Field(0.9998, ge=0, le=1)
    #: Part that it keeps after ``decay_steps``, tau_e: 0.9998 for images, but 0.9999 in the second 800 epochs of ViT-L (section 4.1), and
    #: 0.9999 for speech and text.
    decay_end: float = Field(0.9998, ge=0, le=1)
    #: Steps over which the one becomes the other on a straight line, tau_n: 30,000 for speech, 100,000 for text.
    decay_steps: int = Field(0, ge=0)

    def decay(self, step: int) -> float:
        """Part of the average that the update after so many steps keeps (section 3.3, 'Teacher parameterization')."""
        if step >= self.decay_steps:
            return self.decay_end
        return self.decay_start + (self.decay_end - self.decay_start) * step / self.decay_steps


Options = Annotated[TimmOptions | RunOptions | HogOptions | AverageOptions | PixelOptions, Field(discriminator="kind")]


class Pixels(nn.Module):
    """Patches of ``(B, C, H, W)`` as ``patchify`` orders them, float32 ``(B, N, width)``."""

    def __init__(self, patch: int, channels: int) -> None:
        super().__init__()
        self.patch, self.width = patch, patch**2 * channels

    def forward(self, images: Tensor) -> Tensor:
        """The patches of normalised images."""
        return patchify(images.float(), self.patch)


class RunningAverage(nn.Module):
    """A copy of the encoder that follows it: part of the run's state, and not trained."""

    def __init__(self, encoder: Encoder, options: AverageOptions, width: int) -> None:
        super().__init__()
        self.options, self.width, self.name = options, width, encoder.model_name
        self.module = copy.deepcopy(encoder.module).requires_grad_(False)

    def forward(self, images: Tensor) -> Tensor:
        """Features of normalised images, float32 ``(B, N, width)``."""
        return combined(layer_maps(self.module, images, self.options, self.name), self.options)

    def train(self, mode: bool = True) -> "RunningAverage":
        """Stay in evaluation mode."""
        return super().train(False)

    @torch.no_grad()
    def follow(self, encoder: nn.Module, decay: float) -> None:
        """Keep so much of the average, and take the rest from the encoder: all of it with 0."""
        averages, weights = ([p.detach() for p in module.parameters()] for module in (self.module, encoder))
        torch._foreach_lerp_(averages, weights, 1 - decay)


class Frozen(nn.Module):
    """A network whose weights never change, kept from parameters and state: no optimiser and no checkpoint has them.

    Args:
        module: timm model.
        options: which of its layers.
        student: its images are normalised as they come in.
        network: what the module is.
        width: values for a patch.
    """

    student_mean: Tensor
    student_std: Tensor
    teacher_mean: Tensor
    teacher_std: Tensor

    def __init__(
        self, module: nn.Module, options: LayerOptions, student: Encoder, network: "Network", width: int
    ) -> None:
        super().__init__()
        self.options, self.network, self.width = options, network, width
        self._held = [module.requires_grad_(False).eval()]  # in a list torch does not see it
        for owner, mean, std in (("student", student.mean, student.std), ("teacher", network.mean, network.std)):
            for name, values in (("mean", mean), ("std", std)):
                statistic = torch.tensor(values).view(1, -1, 1, 1)
                self.register_buffer(f"{owner}_{name}", statistic, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Features of images that are normalised for the student, float32 ``(B, N, width)``."""
        pixels = images.float() * self.student_std + self.student_mean
        if pixels.shape[-2:] != torch.Size(self.network.image_size):
            pixels = functional.interpolate(pixels, self.network.image_size, mode="bicubic", antialias=True)
        maps = layer_maps(
            self._held[0], (pixels - self.teacher_mean) / self.teacher_std, self.options, self.network.name
        )
        return combined(maps, self.options)

    def _apply(self, fn: Any, recurse: bool = True) -> "Frozen":
        """Move with the objective."""
        self._held[0]._apply(fn, recurse)
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self


#: Each has the ``width`` of its targets, and maps normalised images ``(B, C, H, W)`` to float32 ``(B, N, width)``.
Teacher = Pixels | Hog | RunningAverage | Frozen


@dataclass(frozen=True)
class Network:
    """A network that is a teacher.

    Attributes:
        name: for messages.
        make: builds it with its weights, or on shapes alone where the argument says so.
        trained_at: height and width of the images that it was trained with, pixels.
        image_size: of those that it is given.
        mean: of each channel, for pixels in [0, 1].
        std: of each channel, for pixels in [0, 1].
    """

    name: str
    make: Any
    trained_at: tuple[int, int]
    image_size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]


def build(options: Any, student: Encoder, grid: tuple[int, int], given: Given) -> Teacher:
    """Build a teacher.

    Args:
        options: one of ``Options``.
        student: the encoder that is trained. Where it is of shapes alone, so is its teacher.
        grid: rows and columns of the patches that are predicted.
        given: where the teacher of another run lies, and relative paths start.

    Raises:
        UserError: the teacher cannot be had, or has other patches than the student.
    """
    patch = student.stride
    if isinstance(options, PixelOptions):
        return Pixels(patch, student.channels)
    if isinstance(options, HogOptions):
        if patch % options.cell:
            raise UserError(
                f"objectives.teacher.cell: {options.cell} does not divide the model's patches of {patch} pixels; choose a divisor."
            )
        return Hog(options, patch, student.channels)
    counted = next(student.module.parameters()).is_meta
    if isinstance(options, AverageOptions):
        network = _of_run(options, student)
        return RunningAverage(student, options, _width(network, options, student, grid))
    if isinstance(options, RunOptions):
        if given.teacher is None and given.teacher_model is None and not counted:
            raise UserError(
                "objectives.teacher: 'run' is the encoder of another run; name it under study.phases, as 'after' with 'use: teacher'."
            )
        if given.teacher is not None:
            network = _of_run(options, _loaded(given.teacher))
        elif given.teacher_model is not None:
            network = _of_run(options, encoders.build(resolve(encoders.Config, given.teacher_model, "models")))
        else:  # nothing is known of it: one like the student
            options = options.model_copy(update={"image_size": None})
            network = _of_run(options, student)
    else:
        network = _of_timm(options, given.root)
    width = _width(network, options, student, grid)
    with torch.random.fork_rng(devices=[]):  # the student's initial weights depend on no teacher
        module = network.make(counted)
    return Frozen(module, options, student, network, width)


def _loaded(folder: Path) -> Encoder:
    with torch.device("cpu"):
        return encoders.load(folder)


def _of_run(options: Any, source: Encoder) -> Network:
    trained_at = sides(source.image_size)
    stated = getattr(options, "image_size", None)
    image_size = trained_at if stated is None else sides(stated)

    def make(counted: bool) -> nn.Module:
        return pretrained.shaped(source, image_size) if counted else pretrained.resized(source, image_size)

    return Network(f"the run's {source.model_name}", make, trained_at, image_size, source.mean, source.std)


def _of_timm(options: TimmOptions, root: Path) -> Network:
    described = pretrained.description(options)
    trained_at = tuple(described.input_size[1:])
    image_size = trained_at if options.image_size is None else sides(options.image_size)

    def make(counted: bool) -> nn.Module:
        return pretrained.timm_model(options, image_size, root, shapes=counted)

    return Network(options.architecture, make, trained_at, image_size, tuple(described.mean), tuple(described.std))


def _width(network: Network, options: Any, student: Encoder, grid: tuple[int, int]) -> int:
    """Values for a patch, from a pass on shapes alone.

    Raises:
        UserError: the teacher's patches are not the student's.
    """
    channels, of_student = len(network.mean), student.channels
    if channels != of_student and of_student != 1:
        raise UserError(
            f"objectives.teacher: {network.name} takes images of {channels} channel, and the student's have {of_student}; choose another."
        )
    with torch.device("meta"), torch.no_grad():
        images = torch.empty(2, channels, *network.image_size)
        maps = layer_maps(network.make(True).eval(), images, options, network.name)
        target = combined(maps[:1], options)
    own = sides(student.image_size)
    stated = getattr(options, "image_size", None) is not None or network.trained_at == own
    for found in maps:
        rows, columns = found.shape[-2:]
        if (rows, columns) == grid and stated:
            continue
        height, width = network.image_size
        fits = [count * side / other for count, side, other in zip(grid, (height, width), (rows, columns), strict=True)]
        whole = all(side == int(side) for side in fits)
        size = "x".join(str(int(side)) for side in fits) if fits[0] != fits[1] else str(int(fits[0]))
        cure = f"set it to {size}, at which they are as many" if whole else "choose another teacher or patch_size"
        raise UserError(
            f"objectives.teacher.image_size: {network.name} makes {rows} x {columns} patches of {height} x {width} pixels, and "
            f"the student {grid[0]} x {grid[1]} of {own[0]} x {own[1]}; {cure}."
        )
    return target.shape[-1] * (len(maps) if options.combine == "concatenate" else 1)
