"""Confidence intervals of a share and of a mean."""

from __future__ import annotations

import math
from collections.abc import Sequence

__all__ = ["mean_interval", "wilson_interval"]

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


def mean_interval(rows: Sequence[Sequence[float]]) -> tuple[float, float] | None:
    """Return the 95% interval of the mean of all values, where those of one row resemble each other.

    It is Student's interval with the cluster-robust variance Σ (nᵢ (mᵢ - m))² · R / (R - 1) / N² over R rows of nᵢ
    values with mean mᵢ, N in all; with one value a row, it is the ordinary one of a mean.

    Args:
        rows: one a prompt, with one value a completion; empty rows do not count.

    Returns:
        None for fewer than two rows with values.

    Example:
        >>> low, high = mean_interval([[0.0], [1.0], [2.0]])
        >>> round(low, 2), round(high, 2)
        (-1.48, 3.48)
    """
    from scipy.special import stdtrit  # type: ignore[import-untyped]

    rows = [row for row in rows if row]
    if len(rows) < 2:
        return None
    total = sum(map(len, rows))
    mean = sum(map(sum, rows)) / total
    squares = sum((sum(row) - len(row) * mean) ** 2 for row in rows)
    error = math.sqrt(squares * len(rows) / (len(rows) - 1)) / total
    half = float(stdtrit(len(rows) - 1, 0.975)) * error
    return mean - half, mean + half
