"""A law with covariates: what is measured under another condition differs by a constant."""

from collections.abc import Mapping, Sequence

import numpy as np

from mimcore.scaling.law import Numbers, Parameter, ScalingLaw, Variable, Variables
from mimcore.scaling.table import Array


class Shifted(ScalingLaw):
    """``law + shift * indicator``, for each of some indicators of 0 and 1.

    Such as models whose training images are of another distribution than the validation images: Xie et al. 2023's
    ImageNet-22K runs, which end with a higher loss on ImageNet-1K's validation images than as many images of 1K would give.
    """

    def __init__(self, law: ScalingLaw, indicators: Sequence[str]) -> None:
        self.law = law
        self.indicators = tuple(indicators)
        # What a formula's names stand for comes after its first comma.
        value, comma, where = law.formula.partition(", ")
        # The class variables of a law, here of one that is made: names of instances hide those of the class.
        extra = tuple(Parameter(f"shift_{name}", "value", -5, 5, log=False, of_value=True) for name in indicators)
        for name, own in {
            "name": law.name,
            "formula": " + ".join([value, *(f"shift_{name} * {name}" for name in indicators)]) + comma + where,
            "source": law.source,
            "variables": (*law.variables, *(Variable(name, "0 or 1", scales=False) for name in indicators)),
            "parameters": (*law.parameters, *extra),
            "huber": law.huber,
            "together": law.together,
        }.items():
            setattr(self, name, own)

    def predict(self, parameters: Numbers, variables: Variables) -> Numbers:
        """See ``ScalingLaw``."""
        own = len(self.law.parameters)
        return np.asarray(
            self.law.predict(parameters[:, :own], variables) + parameters[:, own:] @ self._stacked(variables)
        )

    def slopes(self, parameters: Array, variables: Variables) -> tuple[Array, Array]:
        """See ``ScalingLaw``."""
        own = len(self.law.parameters)
        value, slopes = self.law.slopes(parameters[:, :own], variables)
        indicators = self._stacked(variables)
        total = value + parameters[:, own:] @ indicators
        shifts = np.broadcast_to(indicators[:, None, :], (len(indicators), *value.shape))
        return total, np.concatenate([slopes * (value / total), shifts / total])

    def starts(self, variables: Variables, y: Array) -> Array:
        """See ``ScalingLaw``."""
        found = self.law.starts(variables, y)
        return np.hstack([found, np.zeros((len(found), len(self.indicators)))])

    def rescaled(self, parameters: Array, factors: Mapping[str, float]) -> Array:
        """See ``ScalingLaw``."""
        own = len(self.law.parameters)
        return np.hstack([self.law.rescaled(parameters[:, :own], factors), parameters[:, own:]])

    def _stacked(self, variables: Variables) -> Array:
        return np.stack([variables[name] for name in self.indicators])


def with_covariates(law: ScalingLaw, indicators: Sequence[str]) -> ScalingLaw:
    """Return the law, with a shift for each of ``indicators`` if there are any."""
    return Shifted(law, indicators) if indicators else law
