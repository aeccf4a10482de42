"""Laws of a number of images as laws of another number: a power law in model size is the same law."""

from collections.abc import Mapping, Sequence

import numpy as np

from mimcore.scaling.law import Numbers, ScalingLaw, Variable, Variables
from mimcore.scaling.observations import Observations
from mimcore.scaling.pools import PREFIX
from mimcore.scaling.table import Array

IMAGES = "unique_images"
#: What variables that laws have are counted in; any other is its own unit.
UNITS = {"encoder_params": "parameters", "images_seen": "images"}


class OfAnother(ScalingLaw):
    """A law of ``unique_images`` alone, of another variable instead."""

    def __init__(self, law: ScalingLaw, name: str) -> None:
        self.law = law
        unit = UNITS.get(name, name)
        # As in ``Shifted``: names of an instance hide those of the class.
        for key, value in {
            "name": law.name,
            "formula": law.formula.replace(IMAGES, name),
            "source": law.source,
            "variables": (Variable(name, unit),),
            "parameters": tuple(one._replace(unit=one.unit.replace("images", unit)) for one in law.parameters),
            "huber": law.huber,
        }.items():
            setattr(self, key, value)

    def predict(self, parameters: Numbers, variables: Variables) -> Numbers:
        """See ``ScalingLaw``."""
        return self.law.predict(parameters, self._named(variables))

    def slopes(self, parameters: Array, variables: Variables) -> tuple[Array, Array]:
        """See ``ScalingLaw``."""
        return self.law.slopes(parameters, self._named(variables))

    def starts(self, variables: Variables, y: Array) -> Array:
        """See ``ScalingLaw``."""
        return self.law.starts(self._named(variables), y)

    def rescaled(self, parameters: Array, factors: Mapping[str, float]) -> Array:
        """See ``ScalingLaw``."""
        return self.law.rescaled(parameters, {IMAGES: factors[self.variables[0].name]})

    def _named(self, variables: Variables) -> Variables:
        return {IMAGES: np.asarray(variables[self.variables[0].name])}


def of_table(law: ScalingLaw, rows: Observations, covariates: Sequence[str]) -> ScalingLaw:
    """Return the law; one of ``unique_images`` alone in the only variable that a table without them has.

    Args:
        law: without shifts.
        rows: of the table.
        covariates: variables of 0 and 1.
    """
    if [one.name for one in law.variables] != [IMAGES] or IMAGES in rows.variables:
        return law
    scaling = [name for name in rows.variables if name not in covariates and not name.startswith(PREFIX)]
    return OfAnother(law, scaling[0]) if len(scaling) == 1 else law
