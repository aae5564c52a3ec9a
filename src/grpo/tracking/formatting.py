"""Numbers as people read them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard

__all__ = [
    "count",
    "decimal",
    "duration",
    "interval",
    "is_finite",
    "learning_rate",
    "mean_of",
    "memory",
    "millions",
    "percent",
    "sparkline",
    "trend",
]

_BARS = "▁▂▃▄▅▆▇█"
_MISSING = "–"


def is_finite(value: object) -> TypeGuard[float]:
    """Return whether `value` is a number one can draw."""
    return isinstance(value, (int, float)) and math.isfinite(value)


def decimal(value: Any, digits: int = 3) -> str:
    """Return `value` with `digits` decimals; a dash when there is none.

    Example:
        >>> decimal(0.12345), decimal(float("nan")), decimal(0.00004, 4)
        ('0.123', '–', '4e-05')
    """
    if not is_finite(value):
        return _MISSING
    if 0 < abs(value) < 10**-digits:
        return f"{value:.0e}"
    return f"{value:.{digits}f}"


def percent(value: Any) -> str:
    """Return a share as a percentage."""
    return f"{value:.0%}" if is_finite(value) else _MISSING


def count(value: Any) -> str:
    """Return a whole number with commas."""
    return f"{value:,.0f}" if is_finite(value) else _MISSING


def learning_rate(value: Any) -> str:
    """Return a learning rate in powers of ten.

    Example:
        >>> learning_rate(0.0003)
        '3.0e-4'
    """
    if not is_finite(value):
        return _MISSING
    mantissa, exponent = f"{value:.1e}".split("e")
    return f"{mantissa}e{int(exponent)}" if value else "0"


def memory(megabytes: Any) -> str:
    """Return a peak of memory, given in MiB."""
    if not is_finite(megabytes):
        return _MISSING
    return f"{megabytes / 1024:.1f} GiB" if megabytes >= 1024 else f"{megabytes:.0f} MiB"


def millions(parameters: int) -> str:
    """Return a number of parameters.

    Example:
        >>> millions(1_140_000), millions(7_600_000_000), millions(722_000)
        ('1.1 M', '7.6 B', '722 k')
    """
    for size, unit in ((10**9, "B"), (10**6, "M"), (10**3, "k")):
        if parameters >= size:
            return f"{parameters / size:.{1 if parameters < 100 * size else 0}f} {unit}"
    return str(parameters)


def duration(seconds: Any) -> str:
    """Return a length of time.

    Example:
        >>> duration(7), duration(83), duration(5025)
        ('0:07', '1:23', '1:23:45')
    """
    if not is_finite(seconds):
        return _MISSING
    minutes, rest = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def interval(metrics: Mapping[str, Any], name: str) -> str:
    """Return a metric with its 95% interval where there is one.

    Example:
        >>> interval({"accuracy": 0.5, "accuracy_ci95": [0.43, 0.57]}, "accuracy")
        '0.50 [0.43, 0.57]'
    """
    bounds = metrics.get(f"{name}_ci95")
    value = metrics.get(name)
    if not is_finite(value) or not bounds or not all(is_finite(bound) for bound in bounds):
        return decimal(value, 2)
    return f"{value:.2f} [{bounds[0]:.2f}, {bounds[1]:.2f}]"


def mean_of(values: Sequence[float]) -> float:
    """Return the mean; NaN of nothing."""
    return sum(values) / len(values) if values else math.nan


def sparkline(values: Sequence[float], width: int) -> str:
    """Return the course of `values` in at most `width` characters, from its lowest to its highest.

    Example:
        >>> sparkline([0, 1, 2, 3], 4), sparkline([5, 5], 4), sparkline(range(100), 5)
        ('▁▃▆█', '▄▄', '▁▃▅▆█')
    """
    size = min(width, len(values))
    edges = [place * len(values) // size for place in range(size + 1)] if size else [0]
    means = [mean_of(values[start:end]) for start, end in itertools.pairwise(edges)]
    if not means:
        return ""
    low, high = min(means), max(means)
    if high - low <= 1e-6 * max(abs(high), abs(low)):
        return _BARS[3] * len(means)
    return "".join(_BARS[round((mean - low) / (high - low) * (len(_BARS) - 1))] for mean in means)


def trend(values: Sequence[float]) -> int:
    """Return 1 where the last fifth of `values` (3 to 20 of them) lies above as many before it, -1 below, 0 alike."""
    size = min(20, max(3, len(values) // 5))
    if len(values) < 2 * size:
        return 0
    late, early = values[-size:], values[-2 * size : -size]
    change = mean_of(late) - mean_of(early)
    spread = max(values) - min(values)
    if abs(change) <= 0.03 * spread:
        return 0
    return 1 if change > 0 else -1
