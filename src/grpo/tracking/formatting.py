"""Numbers as people read them; a dash stands for a number that is missing or not finite."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from statistics import fmean, pstdev
from typing import Any

from rich.filesize import pick_unit_and_suffix

from grpo.tracking.metrics import is_finite

__all__ = [
    "EVALUATION_MEASURES",
    "duration",
    "evaluation_measures",
    "in_units",
    "interval",
    "memory",
    "number",
    "sparkline",
    "trend",
]

EVALUATION_MEASURES = (
    ("strict", "accuracy", "right and in the format asked for"),
    ("lenient", "accuracy_lenient", "right in any format"),
    ("greedy", "accuracy_greedy", "strict, at temperature 0"),
    ("format", "format_rate", "in the format, right or not"),
    ("reward", "reward", "mean"),
)
"""Label, name among the metrics and meaning of each measure of an evaluation."""

_WITHOUT_FORMAT = {
    "accuracy": ("accuracy", "right"),
    "accuracy_lenient": ("lenient", "right at the end of other text"),
    "accuracy_greedy": ("greedy", "accuracy at temperature 0"),
}


def evaluation_measures(*evaluations: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Return those of `EVALUATION_MEASURES` that evaluations of one run have, with the labels for its answer format.

    Without an answer format there is no strict accuracy, and the lenient one is left out where it is equal.
    """
    present = {name for metrics in evaluations for name, value in metrics.items() if value is not None}
    measures = [measure for measure in EVALUATION_MEASURES if measure[1] in present]
    if "format_rate" in present:
        return measures
    if all(metrics.get("accuracy_lenient") == metrics.get("accuracy") for metrics in evaluations):
        measures = [measure for measure in measures if measure[1] != "accuracy_lenient"]
    relabelled = [(name, *_WITHOUT_FORMAT.get(name, (label, meaning))) for label, name, meaning in measures]
    return [(label, name, meaning) for name, label, meaning in relabelled]


_BARS = "▁▂▃▄▅▆▇█"


def number(value: Any, spec: str = ".3f") -> str:
    """Return `value` by a format specification; in powers of ten where that would round it to zero.

    Example:
        >>> number(0.12345), number(float("nan")), number(0.00004, ".4f"), number(3e-4, ".1e"), number(0.621, ".0%")
        ('0.123', '–', '4e-5', '3.0e-4', '62%')
    """
    if not is_finite(value):
        return "–"
    text = format(value, spec if value else spec.replace("e", "f"))
    if value and not set(text) & set("123456789"):
        text = f"{value:.0e}"
    return text.replace("e-0", "e-")


def memory(mebibytes: Any) -> str:
    """Return an amount of memory, given in MiB."""
    return in_units(mebibytes, ["MiB", "GiB", "TiB"], 1024) if is_finite(mebibytes) else number(mebibytes)


def in_units(amount: float, units: list[str], base: int) -> str:
    """Return `amount` in the largest of `units`, each `base` times the one before, that leaves at least 1.

    Example:
        >>> [in_units(amount, ["", "k", "M", "B"], 1000) for amount in (1_140_000, 7_600_000_000, 722_000)]
        ['1.1 M', '7.6 B', '722 k']
    """
    size, unit = pick_unit_and_suffix(int(amount), units, base)
    return f"{amount / size:.{1 if size > 1 and amount < 100 * size else 0}f} {unit}".rstrip()


def duration(seconds: Any) -> str:
    """Return a length of time.

    Example:
        >>> duration(7), duration(83), duration(5025)
        ('0:07', '1:23', '1:23:45')
    """
    if not is_finite(seconds):
        return number(seconds)
    minutes, rest = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def interval(metrics: Mapping[str, Any], name: str) -> str:
    """Return a metric with its 95% interval where there is one, to two decimals or as many as the interval needs.

    Example:
        >>> interval({"accuracy": 0.5, "accuracy_ci95": [0.43, 0.57]}, "accuracy")
        '0.50 [0.43, 0.57]'
        >>> interval({"reward": 0.0052, "reward_ci95": [0.0048, 0.0056]}, "reward")
        '0.0052 [0.0048, 0.0056]'
    """
    value, bounds = metrics.get(name), metrics.get(f"{name}_ci95")
    if not is_finite(value) or not bounds or not all(map(is_finite, bounds)):
        return number(value, ".2f")
    width = bounds[1] - bounds[0]
    decimals = max(2, -math.floor(math.log10(width))) if width > 0 else 2
    shown, low, high = (f"{x:.{decimals}f}" for x in (value, *bounds))
    return f"{shown} [{low}, {high}]"


def sparkline(values: Sequence[float], width: int) -> str:
    """Return the course of `values` in at most `width` characters, from its lowest to its highest.

    What may be the noise of single values takes at most about half of the height.

    Example:
        >>> sparkline([0, 1, 2, 3], 4), sparkline([5, 5], 4), sparkline(range(100), 5)
        ('▁▃▆█', '▄▄', '▁▃▅▆█')
    """
    if not values:
        return ""
    size = min(width, len(values))
    edges = [place * len(values) // size for place in range(size + 1)]
    means = [fmean(values[start:end]) for start, end in itertools.pairwise(edges)]
    low, high = min(means), max(means)
    if high - low <= 1e-6 * max(abs(high), abs(low)):
        return _BARS[3] * len(means)
    # Means of independent values differ by four of their standard deviations at most, as a rule.
    height = max(high - low, 8 * _noise(values) / math.sqrt(len(values) / size))
    base = (low + high - height) / 2
    return "".join(_BARS[round((mean - base) / height * (len(_BARS) - 1))] for mean in means)


def _noise(values: Sequence[float]) -> float:
    """Return the standard deviation of single values around their course, by the differences of neighbours."""
    differences = [second - first for first, second in itertools.pairwise(values)]
    return pstdev(differences) / math.sqrt(2) if len(differences) > 1 else 0.0


def trend(values: Sequence[float]) -> int:
    """Return the sign of the change from the second-last to the last fifth of `values` (3 to 20 of them each).

    A change of at most 3% of the range of `values` is 0.
    """
    size = min(20, max(3, len(values) // 5))
    if len(values) < 2 * size:
        return 0
    change = fmean(values[-size:]) - fmean(values[-2 * size : -size])
    if abs(change) <= 0.03 * (max(values) - min(values)):
        return 0
    return 1 if change > 0 else -1
