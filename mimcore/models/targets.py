"""What is predicted of the hidden pixels, and how far off a prediction is."""

from typing import Literal

from pydantic import Field, model_validator
from torch import Tensor

from mimcore.definition import Definition
from mimcore.models.patches import window_statistics


class TargetOptions(Definition):
    """Options of an objective that predicts pixels."""

    #: Absolute or squared error.
    loss: Literal["l1", "l2"] = "l2"
    #: Standardise each target pixel by the square of this side around it, pixels; without it the target is the pixels.
    #: SimMIM's released configuration of SwinV2 has 47 (``NORM_TARGET.PATCH_SIZE``).
    target_window: int | None = Field(None, ge=3)

    @model_validator(mode="after")
    def _centred(self) -> "TargetOptions":
        if self.target_window is not None and self.target_window % 2 == 0:
            raise ValueError(f"target_window {self.target_window} must be odd, so that a pixel is its window's centre")
        return self

    def error(self, prediction: Tensor, target: Tensor) -> Tensor:
        """The error of each value, float32."""
        difference = prediction.float() - target
        return difference.abs() if self.loss == "l1" else difference.square()

    def pixels(self, images: Tensor) -> Tensor:
        """The target of each pixel, float32 ``(B, C, H, W)``."""
        if self.target_window is None:
            return images.float()
        mean, deviation = window_statistics(images.float(), self.target_window)
        return (images.float() - mean) / deviation

    def undo(self, prediction: Tensor, images: Tensor) -> Tensor:
        """Pixels of a prediction: with ``target_window`` it is given the true windows' mean and deviation."""
        if self.target_window is None:
            return prediction
        mean, deviation = window_statistics(images.float(), self.target_window)
        return prediction * deviation + mean
