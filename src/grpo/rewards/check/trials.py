"""The passes over a suite that a check makes: everything together, what fails by itself, and what does not again."""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence
from typing import TypeAlias

from grpo.rewards.check.measure import Bench, Layout, Scores
from grpo.rewards.check.probes import Probe, Try
from grpo.types import Group, Score, ScoredGroup

__all__ = ["Trials", "has_failed", "layout_of", "score_samples"]

_Kind: TypeAlias = tuple[str, str]
"""Probe and label of a text."""

_ROWS_BY_THEMSELVES = 3
_PROBES_BEFORE_GIVING_UP = 3


class Trials:
    """The scores of all probes: once together, and where nothing failed again, in another order and row by row.

    Attributes:
        probes: what was tried.
        scores: of every text, from the pass that tells most: where something failed, by itself.
        again: further passes like the first one.
        reordered: a pass with the texts of each call in another order.
        row_by_row: a pass over the first rows, each in a call of its own.
    """

    def __init__(self, bench: Bench, probes: Sequence[Probe], *, rows_per_call: int, repeats: int, seed: int) -> None:
        """Make the passes.

        Args:
            repeats: how many passes are alike, the first included.
            seed: of the other order.
        """
        self.bench = bench
        self.probes = probes
        everything = layout_of(len(bench.rows), probes)
        self.scores = bench.try_out(everything, rows_per_call=rows_per_call)
        failed: set[_Kind] = set()
        if _failed(self.scores):
            # One text can fail a whole call; by themselves the probes show which one did.
            self.scores |= self._alone(probes, rows_per_call * len(probes))
            failed = _failed(self.scores)
        self.again: list[Scores] = []
        self.reordered: Scores = {}
        self.row_by_row: Scores = {}
        layout = _only(everything, {_kind(each) for _, tries in everything for each in tries} - failed)
        if layout:
            if failed:
                self.scores |= bench.try_out(layout, rows_per_call=rows_per_call)
            self.again = [bench.try_out(layout, rows_per_call=rows_per_call) for _ in range(repeats - 1)]
            self.reordered = bench.try_out(_shuffled(layout, rows_per_call, seed), rows_per_call=rows_per_call)
            self.row_by_row = bench.try_out(layout[:_ROWS_BY_THEMSELVES], rows_per_call=1)

    def _alone(self, probes: Sequence[Probe], rows_per_call: int) -> Scores:
        """Return the scores of each probe by itself; of the first ones only, where a reward fails on all of these.

        Of a probe that fails, each of its odd texts is tried by itself in turn.
        """
        scores: Scores = {}
        for tried, probe in enumerate(probes, start=1):
            layout = layout_of(len(self.bench.rows), [probe])
            found = self.bench.try_out(layout, rows_per_call=rows_per_call)
            labels = dict.fromkeys(each.label for _, tries in layout for each in tries)
            if _failed(found) and len(labels) > 1:
                for label in labels:
                    found |= self.bench.try_out(_only(layout, {(probe.name, label)}), rows_per_call=rows_per_call)
            scores |= found
            if tried == _PROBES_BEFORE_GIVING_UP and any(
                all(function.name in score.failures for score in scores.values())
                for function in self.bench.suite.functions
            ):
                break
        return scores

    @property
    def all(self) -> list[Scores]:
        """Every pass."""
        return [self.scores, *self.again, self.reordered, self.row_by_row]


def layout_of(count: int, probes: Sequence[Probe]) -> Layout:
    """Return the texts of these probes for each of `count` rows; a row that none has a text for is left out."""
    rows = [(row, [each for probe in probes for each in probe.tries[row]]) for row in range(count)]
    return [(row, tries) for row, tries in rows if tries]


def _only(layout: Layout, kinds: Collection[_Kind]) -> Layout:
    """Return the layout with texts of these kinds alone."""
    left = [(row, [each for each in tries if _kind(each) in kinds]) for row, tries in layout]
    return [(row, tries) for row, tries in left if tries]


def _shuffled(layout: Layout, rows_per_call: int, seed: int) -> Layout:
    """Return another order within each call; what is scored together stays the same."""
    rng = random.Random(seed)
    parts = [layout[start : start + rows_per_call] for start in range(0, len(layout), rows_per_call)]
    return [(row, rng.sample(tries, len(tries))) for part in parts for row, tries in rng.sample(part, len(part))]


def _failed(scores: Scores) -> set[_Kind]:
    """Return on which kinds of text a reward failed."""
    return {_kind(each) for (_, each), score in scores.items() if has_failed(score)}


def _kind(each: Try) -> _Kind:
    return each.probe, each.label


def has_failed(score: Score) -> bool:
    """Return whether a function failed; that none applies to a completion is no failure of a function."""
    return bool(set(score.failures) & set(score.rewards))


def score_samples(bench: Bench, groups: Sequence[Group], texts: Sequence[str]) -> tuple[ScoredGroup, ...]:
    """Return the groups scored, one by one where a completion would otherwise fail all of them."""
    together = bench.score(groups, texts)
    if not any(has_failed(member.score) for group in together for member in group.rollouts):
        return together
    left = iter(texts)
    return tuple(bench.score([group], [next(left) for _ in group.rollouts])[0] for group in groups)
