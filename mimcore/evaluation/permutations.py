"""What dealing at random gives: a mean of N entries of a matrix, one of each row and column, over all permutations.

Hoeffding 1951, 'A combinatorial central limit theorem': with d(i, j), the entries centred by rows and by columns, the sum of the
entries c(i, p(i)) over a random permutation p has the variance of all d(i, j)^2 summed, over N - 1, and is normal where N is large.
"""

import math

import numpy as np
import numpy.typing as npt

F64 = npt.NDArray[np.float64]


def dealt(squares: float, rows: F64, columns: F64) -> tuple[float, float]:
    """Mean and standard deviation of the mean of c(i, p(i)) over all permutations p.

    Args:
        squares: sum of all c(i, j)^2.
        rows: sum of each row of c, ``(N,)``.
        columns: sum of each column of c, ``(N,)``.
    """
    count, total = len(rows), float(rows.sum())
    # The squares of d, from sums that can be had without ever holding all of c.
    spread = squares - float(rows @ rows + columns @ columns) / count + total**2 / count**2
    return total / count**2, math.sqrt(max(0.0, spread) / max(1, count - 1)) / count
