"""What a judge compares: which completions of a group meet which, and what the outcomes come to.

All of it follows from what the completions say: neither their order nor what else is in the call changes anything.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from grpo.rewards.judge.rubric import are_messages, shown
from grpo.rewards.texts import Completion, completion_texts

__all__ = ["Comparison", "GroupComparisons", "Pair", "Row", "group_comparisons", "neighbour_pairs", "shares_won"]

Pair: TypeAlias = tuple[int, int]
"""Places of two texts among the different ones of a group; the one named first is shown first."""

_TIE = 0.5


@dataclass(frozen=True, slots=True)
class Row:
    """A completion, its prompt, and those of the data set's columns that a judge needs."""

    prompt: Any
    completion: Completion
    columns: Mapping[str, Any]

    @property
    def applies(self) -> bool:
        """Whether there is something in every column."""
        return all(value is not None and str(shown(value)).strip() for value in self.columns.values())

    @property
    def text(self) -> str:
        """What the completion says."""
        return completion_texts([self.completion])[0]

    def reference(self, column: str) -> str:
        """Return what a column of references says, given as text or, like completions, as messages."""
        value = self.columns[column]
        return completion_texts([value])[0] if are_messages(value) else str(value)


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two texts that answer the prompt of a row; the first is shown first."""

    row: Row
    first: str
    second: str

    def orders(self, *, both: bool) -> list[tuple[str, str]]:
        """Return in which orders the texts are to be shown; equal ones need not be.

        Args:
            both: whether different ones are shown in both orders.
        """
        if self.first == self.second:
            return []
        return [(self.first, self.second), (self.second, self.first)] if both else [(self.first, self.second)]

    def points(self, answers: Sequence[float]) -> float:
        """Return the points of the first text, from 0 to 1.

        Args:
            answers: for each of the `orders`, the points of the text that was shown first.
        """
        if not answers:
            return _TIE
        return answers[0] if len(answers) == 1 else (answers[0] + 1.0 - answers[1]) / 2


@dataclass(frozen=True, slots=True)
class GroupComparisons:
    """The completions of one group, and which of their texts are compared.

    Attributes:
        places: of the completions in the call.
        texts: the different ones, in the order in which neighbours are compared.
        text_places: of each completion's text among them.
        pairs: those that are compared.
        row: of any of the completions: their prompts and columns are equal.
    """

    places: Sequence[int]
    texts: Sequence[str]
    text_places: Sequence[int]
    pairs: Sequence[Pair]
    row: Row

    @property
    def comparisons(self) -> list[Comparison]:
        """One a pair."""
        return [Comparison(self.row, self.texts[first], self.texts[second]) for first, second in self.pairs]

    def outcomes(self, points: Sequence[float | Exception]) -> Iterator[tuple[int, float | Exception | None, int]]:
        """Yield for each completion its place, its reward, and how many of its comparisons were decided.

        The reward is that of `shares_won`. Where all comparisons failed it is the error of the last one.

        Args:
            points: of the first of each pair, or why there are none.
        """
        counts = Counter(self.text_places)
        known = [None if isinstance(point, Exception) else point for point in points]
        shares = shares_won([counts[text] for text in range(len(self.texts))], self.pairs, known)
        for place, text in zip(self.places, self.text_places, strict=True):
            own = [point for pair, point in zip(self.pairs, points, strict=True) if text in pair]
            errors = [point for point in own if isinstance(point, Exception)]
            share = shares[text]
            yield place, errors[-1] if share is None and errors else share, len(own) - len(errors)


def group_comparisons(rows: Mapping[int, Row], num_comparisons: int) -> list[GroupComparisons]:
    """Return the groups that rows make: those with equal prompts and columns.

    Args:
        rows: by their places in the call.
        num_comparisons: that a text takes part in at most.
    """
    groups: dict[str, list[int]] = {}
    for place, row in rows.items():
        groups.setdefault(repr((row.prompt, row.columns)), []).append(place)
    found: list[GroupComparisons] = []
    for places in groups.values():
        any_row = rows[places[0]]
        texts = _different((rows[place].text for place in places), repr(any_row.prompt))
        text_places = [texts.index(rows[place].text) for place in places]
        found.append(
            GroupComparisons(places, texts, text_places, neighbour_pairs(len(texts), num_comparisons), any_row)
        )
    return found


def _different(texts: Iterable[str], prompt: str) -> list[str]:
    """Return the different texts in an order that is as good as random, and the same whenever they meet again."""
    return sorted(
        set(texts), key=lambda text: hashlib.sha256(f"{prompt}\0{text}".encode("utf-8", "surrogatepass")).digest()
    )


def neighbour_pairs(num_texts: int, num_comparisons: int) -> list[Pair]:
    """Return pairs in which each of `num_texts` texts takes part in at most `num_comparisons`.

    With few texts that is everyone against everyone; else the next `num_comparisons // 2` neighbours (at least one),
    the first text following the last, so that all take part equally often. Who is named first is spread evenly.

    Example:
        >>> neighbour_pairs(3, 4), neighbour_pairs(4, 2)
        ([(0, 1), (1, 2), (2, 0)], [(0, 1), (1, 2), (2, 3), (3, 0)])
    """
    everyone = num_texts - 1 <= num_comparisons
    farthest = num_texts // 2 if everyone else min(max(1, num_comparisons // 2), (num_texts - 1) // 2)
    pairs: list[Pair] = []
    for distance in range(1, farthest + 1):
        # Half the way round, the neighbours on both sides are the same text.
        starts = num_texts // 2 if 2 * distance == num_texts else num_texts
        pairs += [(start, (start + distance) % num_texts) for start in range(starts)]
    return pairs


def shares_won(counts: Sequence[int], pairs: Sequence[Pair], points: Sequence[float | None]) -> list[float | None]:
    """Return for each text the share of the group's other completions that it wins against; None: nobody knows.

    Equal completions tie. Those that a text was not compared with count like those it was compared with.

    Args:
        counts: how many completions of the group have each text.
        pairs: the texts that were compared.
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
