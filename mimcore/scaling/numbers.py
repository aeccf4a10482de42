"""How numbers are written for people: as many digits as their error allows."""

import math

MINUS = "−"


def number(value: float, digits: int = 3) -> str:
    """Write ``value`` with ``digits`` significant digits, without an exponent where a person would not use one."""
    if value == 0:
        return "0"
    if not 1e-4 <= abs(value) < 1e7:
        return f"{value:.{digits - 1}e}".replace("-", MINUS)
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    return f"{value:,.{decimals}f}".replace("-", MINUS)


def measured(value: float, error: float | None) -> str:
    """Write ``value ± error`` to the second digit of the error, or to the fourth of the value if that comes first."""
    if not error:
        return number(value, 4)
    enough = 3 - math.floor(math.log10(abs(value))) if value else 6
    decimals = max(min(1 - math.floor(math.log10(error)), enough), 0)
    return f"{value:.{decimals}f} ± {error:.{decimals}f}".replace("-", MINUS)


def interval(value: float, low: float | None, high: float | None, digits: int = 3) -> str:
    """Write ``value [low, high]``, all to the decimal that the width of the interval calls for."""
    if low is None or high is None:
        return number(value, digits)
    width = high - low
    decimals = 3 if width <= 0 else min(max(1 - math.floor(math.log10(width)), 0), 6)
    return f"{value:.{decimals}f} [{low:.{decimals}f}, {high:.{decimals}f}]".replace("-", MINUS)


def signed(value: float, digits: int = 3) -> str:
    """Write ``value`` with its sign."""
    return ("+" if value > 0 else "") + number(value, digits)


def count(value: float) -> str:
    """Write a count of images with separators: ``32,768``."""
    return f"{round(value):,}"


def short(value: float) -> str:
    """Write a count of images briefly: ``33k``, ``1.3M``."""
    for limit, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if value >= limit:
            scaled = value / limit
            return f"{scaled:.1f}".removesuffix(".0") + unit if scaled < 10 else f"{scaled:.0f}{unit}"
    return f"{value:.0f}"


def duration(seconds: float) -> str:
    """Write a time in its natural unit: ``42 s``, ``12 min``, ``3.4 h``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
