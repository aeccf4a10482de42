"""The additive law in model size and data."""

from mimcore.scaling.additive import FLOOR, AdditiveLaw, term_parameters
from mimcore.scaling.law import Variable


class Law(AdditiveLaw):
    """``floor + A * encoder_params ** -alpha + B * images_seen ** -beta``.

    Hoffmann et al. 2022, equation 2 (form) and appendix D.2 (fit: Huber's loss with threshold 1e-3 on the residuals of
    log loss, minimised by L-BFGS over a grid of starts). The residuals' losses are summed, as the errata of Besiroglu
    et al. 2024 ask: averaged, their optimiser stopped early. ``images_seen`` may count tokens.
    """

    name = "chinchilla"
    formula = "floor + A * encoder_params ** -alpha + B * images_seen ** -beta"
    source = "Hoffmann et al. 2022, equation 2 and appendix D.2; Besiroglu et al. 2024"
    variables = (Variable("encoder_params", "parameters"), Variable("images_seen", "images"))
    parameters = (FLOOR, *term_parameters("A", "alpha", "parameters"), *term_parameters("B", "beta", "images"))
    exponents = (0.1, 0.2, 0.35, 0.5, 0.8, 1.2, 2.0)
    huber = 1e-3
