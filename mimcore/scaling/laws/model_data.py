"""The additive law in model size and unique images: for runs of one length."""

from mimcore.scaling.additive import FLOOR, AdditiveLaw, term_parameters
from mimcore.scaling.law import Variable


class Law(AdditiveLaw):
    """``floor + A * encoder_params ** -alpha + B * unique_images ** -beta``.

    Rosenfeld et al. 2020, equation 5, without the envelope that takes it to the error of a guess. It says nothing of
    training length: runs of several lengths need a law that does, such as ``joint``.
    """

    name = "model_data"
    formula = "floor + A * encoder_params ** -alpha + B * unique_images ** -beta"
    source = "Rosenfeld et al. 2020, equation 5"
    variables = (Variable("encoder_params", "parameters"), Variable("unique_images", "images"))
    parameters = (FLOOR, *term_parameters("A", "alpha", "parameters"), *term_parameters("B", "beta", "images"))
    exponents = (0.1, 0.2, 0.35, 0.5, 0.8, 1.2, 2.0)
