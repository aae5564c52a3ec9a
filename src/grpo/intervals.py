"""Confidence interval of a share."""

from __future__ import annotations

import math

__all__ = ["wilson_interval"]

_Z95 = 1.959963984540054


def wilson_interval(share: float, count: float) -> tuple[float, float]:
    """Return Wilson's 95% interval of a share observed in `count` independent trials; `count` may be a fraction.

    Example:
        >>> low, high = wilson_interval(0.75, 4)
        >>> round(low, 2), round(high, 2)
        (0.3, 0.95)
    """
    centre = share + _Z95**2 / (2 * count)
    half = _Z95 * math.sqrt(share * (1 - share) / count + _Z95**2 / (4 * count**2))
    scale = 1 + _Z95**2 / count
    return max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale)
