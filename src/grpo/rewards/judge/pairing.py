"""Which completions of a group are compared with which, and what the comparisons come to. Pure functions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

__all__ = ["Pair", "group_bounds", "group_pairs", "mean_points"]

Pair = tuple[int, int]
"""Places of two completions; the one named first is shown first."""


def group_bounds(prompts: Sequence[Any]) -> list[tuple[int, int]]:
    """Return start and end of each run of equal prompts.

    Example:
        >>> group_bounds(["p", "p", "q"])
        [(0, 2), (2, 3)]
    """
    starts = [place for place in range(len(prompts)) if place == 0 or prompts[place] != prompts[place - 1]]
    return list(zip(starts, [*starts[1:], len(prompts)], strict=True))


def group_pairs(size: int, comparisons: int) -> list[Pair]:
    """Return the pairs of a group in which each of `size` completions takes part in at most `comparisons`.

    With few completions that is everyone against everyone; else the next `comparisons // 2` neighbours on a
    ring (at least one), so that all take part equally often. Who is named first is spread evenly.

    Example:
        >>> group_pairs(3, 4), group_pairs(4, 2)
        ([(0, 1), (1, 2), (2, 0)], [(0, 1), (1, 2), (2, 3), (3, 0)])
    """
    reach = size // 2 if size - 1 <= comparisons else min(max(1, comparisons // 2), (size - 1) // 2)
    pairs: list[Pair] = []
    for distance in range(1, reach + 1):
        # At half the ring both neighbours are the same completion.
        starts = size // 2 if 2 * distance == size else size
        pairs += [(start, (start + distance) % size) for start in range(starts)]
    return pairs


def mean_points(size: int, pairs: Sequence[Pair], points: Sequence[float | None]) -> list[float | None]:
    """Return each completion's mean points over its comparisons that were decided; None: none was.

    Args:
        points: of the first of each pair, from 0 to 1; the second gets the rest; None: not decided.

    Example:
        >>> mean_points(3, [(0, 1), (1, 2), (2, 0)], [1.0, 0.5, None])
        [1.0, 0.25, 0.5]
    """
    earned: list[list[float]] = [[] for _ in range(size)]
    for (first, second), share in zip(pairs, points, strict=True):
        if share is not None:
            earned[first].append(share)
            earned[second].append(1.0 - share)
    return [sum(shares) / len(shares) if shares else None for shares in earned]
