"""Which completions of a group are compared with which, and what the comparisons come to. Pure functions.

All of it follows from what the completions say: neither their order nor what else is in the call changes anything.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

__all__ = ["Pair", "ring", "ring_pairs", "shares_won"]

Pair = tuple[int, int]
"""Places on a ring of two texts; the one named first is shown first."""

_TIE = 0.5


def ring(texts: Iterable[str], prompt: str) -> list[str]:
    """Return the different texts in an order that is as good as random, and the same whenever they meet again."""
    return sorted(
        set(texts), key=lambda text: hashlib.sha256(f"{prompt}\0{text}".encode("utf-8", "surrogatepass")).digest()
    )


def ring_pairs(size: int, comparisons: int) -> list[Pair]:
    """Return the pairs of a ring in which each of `size` texts takes part in at most `comparisons`.

    With few texts that is everyone against everyone; else the next `comparisons // 2` neighbours
    (at least one), so that all take part equally often. Who is named first is spread evenly.

    Example:
        >>> ring_pairs(3, 4), ring_pairs(4, 2)
        ([(0, 1), (1, 2), (2, 0)], [(0, 1), (1, 2), (2, 3), (3, 0)])
    """
    reach = size // 2 if size - 1 <= comparisons else min(max(1, comparisons // 2), (size - 1) // 2)
    pairs: list[Pair] = []
    for distance in range(1, reach + 1):
        # At half the ring both neighbours are the same text.
        starts = size // 2 if 2 * distance == size else size
        pairs += [(start, (start + distance) % size) for start in range(starts)]
    return pairs


def shares_won(counts: Sequence[int], pairs: Sequence[Pair], points: Sequence[float | None]) -> list[float | None]:
    """Return for each text the share of the group's other completions that it wins against; None: nobody knows.

    Equal completions tie. Those that a text was not compared with count like those it was compared with.

    Args:
        counts: how many completions of the group have each text.
        points: of the first of each pair, from 0 to 1; the second gets the rest; None: not decided.

    Example:
        >>> shares_won([1, 1, 1], [(0, 1), (1, 2), (2, 0)], [1.0, 0.5, None])
        [1.0, 0.25, 0.5]
        >>> shares_won([2, 1], [(0, 1)], [1.0])
        [0.75, 0.0]
    """
    won, met = [0.0] * len(counts), [0] * len(counts)
    for (first, second), point in zip(pairs, points, strict=True):
        if point is not None:
            for one, other, share in ((first, second, point), (second, first, 1.0 - point)):
                won[one] += counts[other] * share
                met[one] += counts[other]
    return [_share(sum(counts) - count, count - 1, won[place], met[place]) for place, count in enumerate(counts)]


def _share(different: int, equal: int, won: float, met: int) -> float | None:
    """Return the share that is won against so many other completions; None: there are none, or none was met."""
    if different + equal == 0 or (different and not met):
        return None
    against_different = different * won / met if different else 0.0
    return (against_different + equal * _TIE) / (different + equal)
