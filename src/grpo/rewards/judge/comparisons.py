"""Comparisons within a group: the pairs that are shown to a judge, and each completion's share of wins.

Both depend on the completions' texts only, and not on their order or on other completions in the call.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from grpo.rewards.judge.rubric import are_messages, message_text
from grpo.rewards.texts import completion_texts

__all__ = ["TIE", "Comparison", "GroupComparisons", "Pair", "Row", "group_comparisons", "neighbour_pairs", "shares_won"]

Pair: TypeAlias = tuple[int, int]
"""Positions of two texts among the distinct texts of a group; the first text is shown first."""

TIE = 0.5
"""Points of each of two texts in a tie."""


@dataclass(frozen=True, slots=True)
class Row:
    """A completion's text, its prompt, and the data set's columns that a judge needs."""

    prompt: Any
    text: str
    columns: Mapping[str, Any]

    @property
    def applies(self) -> bool:
        """True if every column has a value."""
        return all(value is not None and str(message_text(value)).strip() for value in self.columns.values())

    def reference(self, column: str) -> str:
        """Return the text of a reference, which the column gives as text or, like a completion, as messages."""
        value = self.columns[column]
        return completion_texts([value])[0] if are_messages(value) else str(value)


Comparison: TypeAlias = tuple[Row, str, str]
"""Two texts that answer the prompt of a row; the first is shown first."""


@dataclass(frozen=True, slots=True)
class GroupComparisons:
    """The completions of one group, and the pairs of their texts that are compared.

    Attributes:
        row: one of the group's rows: their prompts and columns are equal.
        places: positions in the call of the completions with each text; texts are in the order of neighbours.
        pairs: the texts that are compared.
    """

    row: Row
    places: Mapping[str, Sequence[int]]
    pairs: Sequence[Pair]

    @property
    def comparisons(self) -> list[Comparison]:
        """One comparison for each pair."""
        texts = list(self.places)
        return [(self.row, texts[first], texts[second]) for first, second in self.pairs]

    def outcomes(self, points: Sequence[float | Exception]) -> Iterator[tuple[int, float | Exception | None, int]]:
        """Yield for each completion its position in the call, its reward and the number of its decided comparisons.

        The reward is that of `shares_won`. Where all comparisons failed it is the error of the last one.

        Args:
            points: points of the first text of each pair, or the reason why there are none.
        """
        known = [None if isinstance(point, Exception) else point for point in points]
        shares = shares_won([len(places) for places in self.places.values()], self.pairs, known)
        for text, (places, share) in enumerate(zip(self.places.values(), shares, strict=True)):
            own = [point for pair, point in zip(self.pairs, points, strict=True) if text in pair]
            errors = [point for point in own if isinstance(point, Exception)]
            reward = errors[-1] if share is None and errors else share
            for place in places:
                yield place, reward, len(own) - len(errors)


def group_comparisons(rows: Mapping[int, Row], max_comparisons: int) -> list[GroupComparisons]:
    """Return the groups among the rows: rows with equal prompts and columns.

    Args:
        rows: rows by their positions in the call.
        max_comparisons: comparisons that a text takes part in at most.
    """
    groups: dict[str, dict[str, list[int]]] = {}
    for place, row in rows.items():
        groups.setdefault(repr((row.prompt, row.columns)), {}).setdefault(row.text, []).append(place)
    return [_group(rows, places, max_comparisons) for places in groups.values()]


def _group(rows: Mapping[int, Row], places: Mapping[str, Sequence[int]], max_comparisons: int) -> GroupComparisons:
    row = rows[next(iter(places.values()))[0]]

    # A hash gives an order that is as good as random, and the same whenever these texts meet.
    def digest(text: str) -> bytes:
        return hashlib.sha256(f"{row.prompt!r}\0{text}".encode("utf-8", "surrogatepass")).digest()

    ordered = {text: places[text] for text in sorted(places, key=digest)}
    return GroupComparisons(row, ordered, neighbour_pairs(len(ordered), max_comparisons))


def neighbour_pairs(num_texts: int, max_comparisons: int) -> list[Pair]:
    """Return pairs in which each of `num_texts` texts takes part in at most `max_comparisons`.

    Few texts are all paired with each other. Otherwise the texts form a ring, and each is paired with its next
    `max_comparisons // 2` neighbours (at least one), so that all take part equally often. The first places are
    spread evenly.

    Example:
        >>> neighbour_pairs(3, 4), neighbour_pairs(4, 2)
        ([(0, 1), (1, 2), (2, 0)], [(0, 1), (1, 2), (2, 3), (3, 0)])
    """
    everyone = num_texts - 1 <= max_comparisons
    farthest = num_texts // 2 if everyone else min(max(1, max_comparisons // 2), (num_texts - 1) // 2)
    pairs: list[Pair] = []
    for distance in range(1, farthest + 1):
        # Halfway round the ring, the neighbours on both sides are the same text.
        starts = num_texts // 2 if 2 * distance == num_texts else num_texts
        pairs += [(start, (start + distance) % num_texts) for start in range(starts)]
    return pairs


def shares_won(counts: Sequence[int], pairs: Sequence[Pair], points: Sequence[float | None]) -> list[float | None]:
    """Return for each text its share of wins against the group's other completions; None: unknown.

    Equal completions tie. Completions that a text was not compared with count like those it was compared with.

    Args:
        counts: number of completions with each text.
        pairs: the texts that were compared.
        points: points of the first text of each pair, from 0 to 1; the second gets the rest; None: undecided.

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
    return [_share(sum(counts) - count, count - 1, won[text], met[text]) for text, count in enumerate(counts)]


def _share(different: int, equal: int, won: float, met: int) -> float | None:
    """Return the share of wins against so many other completions; None: there are none, or none was met."""
    if different + equal == 0 or (different and not met):
        return None
    against_different = different * won / met if different else 0.0
    return (against_different + equal * TIE) / (different + equal)
