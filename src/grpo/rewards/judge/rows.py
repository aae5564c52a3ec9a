"""What a judge is to judge: completions with their rows, alone, in pairs and in groups."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from grpo.rewards.judge.pairing import Pair, ring, ring_pairs, shares_won
from grpo.rewards.judge.rubric import are_messages, shown
from grpo.rewards.texts import Completion, completion_texts

__all__ = ["Comparison", "Contest", "Row", "contests"]


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
        """Return in which orders the texts are to be shown; equal ones need not be."""
        if self.first == self.second:
            return []
        return [(self.first, self.second), (self.second, self.first)] if both else [(self.first, self.second)]


@dataclass(frozen=True, slots=True)
class Contest:
    """The completions of one group, whose different texts meet on a ring.

    Attributes:
        places: of the completions in the call.
        seats: where on the ring their texts are.
        ring: the texts.
        pairs: those that meet.
        row: of any of the completions: their prompts and columns are equal.
    """

    places: Sequence[int]
    seats: Sequence[int]
    ring: Sequence[str]
    pairs: Sequence[Pair]
    row: Row

    @property
    def comparisons(self) -> list[Comparison]:
        """One a pair."""
        return [Comparison(self.row, self.ring[first], self.ring[second]) for first, second in self.pairs]

    def outcomes(self, points: Sequence[float | Exception]) -> Iterator[tuple[int, float | Exception | None, int]]:
        """Yield for each completion its place, its reward, and how many of its comparisons were decided.

        The reward is that of `shares_won`. Where all comparisons failed it is the error of the last one.

        Args:
            points: of the first of each pair, or why there are none.
        """
        counts = Counter(self.seats)
        known = [None if isinstance(point, Exception) else point for point in points]
        shares = shares_won([counts[seat] for seat in range(len(self.ring))], self.pairs, known)
        for place, seat in zip(self.places, self.seats, strict=True):
            own = [point for pair, point in zip(self.pairs, points, strict=True) if seat in pair]
            errors = [point for point in own if isinstance(point, Exception)]
            share = shares[seat]
            yield place, errors[-1] if share is None and errors else share, len(own) - len(errors)


def contests(rows: Mapping[int, Row], num_comparisons: int) -> list[Contest]:
    """Return the groups that rows make, given by their places in the call: those with equal prompts and columns.

    Args:
        num_comparisons: that a text takes part in at most.
    """
    groups: dict[str, list[int]] = {}
    for place, row in rows.items():
        groups.setdefault(repr((row.prompt, row.columns)), []).append(place)
    found: list[Contest] = []
    for places in groups.values():
        any_row = rows[places[0]]
        on_ring = ring((rows[place].text for place in places), repr(any_row.prompt))
        seats = [on_ring.index(rows[place].text) for place in places]
        found.append(Contest(places, seats, on_ring, ring_pairs(len(on_ring), num_comparisons), any_row))
    return found
