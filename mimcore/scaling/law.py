"""What a law is: a positive quantity that falls as its variables grow, and the parameters that say how.

A law is one file in ``mimcore/scaling/laws`` with ``class Law(ScalingLaw)``. The interface of everything that fits or
asks a law:

* ``mimcore.scaling.observations.Observations``: the rows, as ``variables`` (name to ``(N,)``) and ``y`` ``(N,)``.
* ``mimcore.scaling.estimate.fit_law(law, observations, options) -> Fit``: ``parameters`` ``(P,)``, ``ensemble`` ``(R, P)``,
  ``r2``, ``rmse``, and ``predict(variables) -> Prediction`` with ``mean``, ``low``, ``high`` ``(N,)`` and ``ensemble``
  ``(R, N)``, all in the metric's own terms.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mimcore.scaling.table import Array

#: Name of a variable to its values, float64 ``(N,)``.
Variables = Mapping[str, Array]
#: Real, or complex while a derivative is taken.
Numbers = NDArray[Any]
#: Step of the complex-step derivative (Squire & Trapp 1998): nothing is subtracted, so that it may be this small.
STEP = 1e-100


class Variable(NamedTuple):
    """What a law depends on.

    ``scales`` says that it is a positive quantity in a unit, so that another unit only changes the parameters;
    otherwise it is an indicator, 0 or 1.
    """

    name: str
    unit: str
    scales: bool = True


class Parameter(NamedTuple):
    """A constant of a law.

    ``low`` and ``high`` bound the search, in the units in which every variable that scales, and the quantity, have a
    geometric mean of 1. ``log`` says that it is positive and searched by its logarithm; ``of_value`` that it is
    measured in the quantity's unit, so that doubling every value doubles it.
    """

    name: str
    unit: str
    low: float
    high: float
    log: bool = True
    of_value: bool = False


#: Exponents below this are straight lines in the logarithm over any range that can be measured, and not to be told apart.
LEAST_EXPONENT = 5e-2


class ScalingLaw(ABC):
    """A law: its formula, its variables and parameters, its values and slopes, and where to start looking for it."""

    name: ClassVar[str]
    formula: ClassVar[str]
    source: ClassVar[str]
    variables: ClassVar[tuple[Variable, ...]]
    parameters: ClassVar[tuple[Parameter, ...]]
    #: Huber's threshold on log residuals, where the source of the law fixes one; None follows the residuals' spread.
    huber: ClassVar[float | None] = None
    #: Variables whose ratio the law takes, so that they can only change their unit together.
    together: ClassVar[frozenset[str]] = frozenset()

    @abstractmethod
    def predict(self, parameters: Numbers, variables: Variables) -> Numbers:
        """Evaluate the law for many sets of parameters at once.

        Args:
            parameters: float64 ``(R, P)``, in the order of ``parameters``; complex for the complex-step derivative.
            variables: each float64 ``(N,)``.

        Returns:
            ``(R, N)``, positive.
        """

    @abstractmethod
    def starts(self, variables: Variables, y: Array) -> Array:
        """Return ``(S, P)`` parameters to start the search from, for data whose geometric means are 1."""

    @abstractmethod
    def rescaled(self, parameters: Array, factors: Mapping[str, float]) -> Array:
        """Return the ``(R, P)`` parameters of the same curve when each variable is ``factors[name]`` times as large."""

    def slopes(self, parameters: Array, variables: Variables) -> tuple[Array, Array]:
        """Return the law's values ``(R, N)`` and the slopes of log law ``(P, R, N)`` along the searched coordinates.

        A searched coordinate is log parameter where ``log`` is set, else the parameter. By the complex step, to the
        last digit; a law may offer a faster way, and a test compares the two.
        """
        steps = np.where([p.log for p in self.parameters], parameters, 1.0) * STEP
        moved = np.repeat(parameters[None].astype(np.complex128), len(self.parameters), axis=0)
        index = np.arange(len(self.parameters))
        moved[index, :, index] += 1j * steps.T
        values = self.predict(moved.reshape(-1, len(self.parameters)), variables)
        values = values.reshape(len(self.parameters), len(parameters), -1)
        return values[0].real, values.imag / (STEP * values.real)


def project(basis: Array, y: Array, floor: float = 1e-6) -> Array:
    """Solve ``y = basis @ coefficients`` for many bases at once, for starts of laws that are linear in some parameters.

    Variable projection (Golub & Pereyra 1973) reduced to what a start needs: least squares, each coefficient raised to
    at least ``floor``.

    Args:
        basis: float64 ``(S, N, L)``.
        y: float64 ``(N,)``.
        floor: the least coefficient.

    Returns:
        float64 ``(S, L)``.
    """
    gram = np.einsum("snl,snm->slm", basis, basis)
    ridge = 1e-9 * np.trace(gram, axis1=1, axis2=2)[:, None, None] * np.eye(basis.shape[2])
    right = np.einsum("snl,n->sl", basis, y)
    return np.maximum(np.linalg.solve(gram + ridge, right[..., None])[..., 0], floor)


def softplus(x: Numbers) -> Numbers:
    """``log(1 + exp(x))``, without overflow, for complex x too."""
    above = x.real > 0
    return np.asarray(np.where(above, x, 0) + np.log(1 + np.exp(np.where(above, -x, x))))
