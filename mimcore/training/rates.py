"""How a learning rate falls from its peak, as functions of the images seen."""

import math
from collections.abc import Sequence


def cosine(seen: int, peak: float, end: float, start: int, stop: int) -> float:
    """Half a cosine from ``peak`` at ``start`` to ``end`` at ``stop`` images (Loshchilov & Hutter 2017; MAE's released code)."""
    progress = (seen - start) / (stop - start)
    return end + (peak - end) * 0.5 * (1 + math.cos(math.pi * progress))


def multistep(seen: int, peak: float, end: float, milestones: Sequence[int], gamma: float) -> float:
    """``peak`` times ``gamma`` for each milestone reached, but no less than ``end`` (SimMIM's released code, 800 epochs)."""
    return max(end, peak * gamma ** sum(seen >= milestone for milestone in milestones))


def one_minus_sqrt(seen: int, peak: float, end: float, start: int, stop: int) -> float:
    """``peak`` up to ``start`` images, then down to ``end`` at ``stop`` as 1 - sqrt(progress).

    Warmup, stable, decay: Hu et al. 2024, 'MiniCPM', section 4. The shape is the best of those that Hägele et al. 2024,
    'Scaling laws and compute-optimal training beyond fixed training durations', section 3, compare.
    """
    if seen <= start:
        return peak
    return end + (peak - end) * (1 - math.sqrt((seen - start) / (stop - start)))
