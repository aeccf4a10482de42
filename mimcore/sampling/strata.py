"""Strata that take turns."""

import numpy as np
import numpy.typing as npt

I64 = npt.NDArray[np.int64]


def in_turns(order: I64, strata: I64, turns: I64) -> I64:
    """An order that takes an image of each stratum in turn, as long as it has any.

    Each beginning of it is as balanced as can be: where a stratum has fewer images than an equal share, the others
    share what is left.

    Args:
        order: rows, the first of each stratum to be taken first, int64 ``(N,)``.
        strata: number of each row's stratum, from 0 to S - 1, int64 ``(rows,)``.
        turns: place of each stratum within a round, int64 ``(S,)``.

    Returns:
        the same rows, int64 ``(N,)``.
    """
    found = strata[order]
    return order[np.lexsort((turns[found], ranks(found)))]


def ranks(strata: I64) -> I64:
    """How many earlier rows are of the same stratum as each row; int64 ``(N,)`` in and out."""
    grouped = np.argsort(strata, kind="stable")
    ordered = strata[grouped]
    starts = np.flatnonzero(np.diff(ordered, prepend=-1))
    lengths = np.diff(starts, append=len(ordered))
    found = np.empty(len(strata), np.int64)
    found[grouped] = np.arange(len(strata)) - np.repeat(starts, lengths)
    return found
