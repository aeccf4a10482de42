"""The additive law in model size, unique images and training length."""

from mimcore.scaling.additive import FLOOR, AdditiveLaw, term_parameters
from mimcore.scaling.law import Variable


class Law(AdditiveLaw):
    """``floor + A * encoder_params ** -alpha + B * unique_images ** -beta + C * images_seen ** -gamma``.

    The separable form of Hoffmann et al. 2022 (equation 2) with a term for each axis, as Rosenfeld et al. 2020
    (equation 5) build theirs for model and data. It falls in every variable: it cannot follow a run that over-fits.
    """

    name = "joint"
    formula = "floor + A * encoder_params ** -alpha + B * unique_images ** -beta + C * images_seen ** -gamma"
    source = "Hoffmann et al. 2022, equation 2; Rosenfeld et al. 2020, equation 5"
    variables = (
        Variable("encoder_params", "parameters"),
        Variable("unique_images", "images"),
        Variable("images_seen", "images"),
    )
    parameters = (
        FLOOR,
        *term_parameters("A", "alpha", "parameters"),
        *term_parameters("B", "beta", "images"),
        *term_parameters("C", "gamma", "images"),
    )
    exponents = (0.15, 0.4, 0.9)
