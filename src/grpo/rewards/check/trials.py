"""The passes over a suite that a check makes: everything together, what fails by itself, and what does not again."""

from __future__ import annotations

import random
from collections.abc import Sequence

from grpo.rewards.check.measure import Bench, Layout, Scores
from grpo.rewards.check.probes import Probe
from grpo.types import Group, Score, ScoredGroup

__all__ = ["Trials", "has_failed", "layout_of", "score_samples"]

_ROWS_BY_THEMSELVES = 3
_PROBES_BEFORE_GIVING_UP = 3


class Trials:
    """The scores of all probes: once together, and where nothing failed again, in another order and row by row."""

    def __init__(self, bench: Bench, probes: Sequence[Probe], *, rows_per_call: int, repeats: int, seed: int) -> None:
        self.bench = bench
        count = len(bench.rows)
        self.scores = bench.try_out(layout_of(count, probes), rows_per_call=rows_per_call)
        sound = list(probes)
        if _failed(self.scores):
            # One text can fail a whole call; by themselves the probes show which one did.
            self.scores |= self._alone(probes, rows_per_call * len(probes))
            failed = {name for _, name in _failed(self.scores)}
            sound = [probe for probe in probes if probe.name not in failed]
        self.again: list[Scores] = []
        self.reordered: Scores = {}
        self.row_by_row: Scores = {}
        if sound:
            layout = layout_of(count, sound)
            if len(sound) < len(probes):
                self.scores |= bench.try_out(layout, rows_per_call=rows_per_call)
            self.again = [bench.try_out(layout, rows_per_call=rows_per_call) for _ in range(repeats - 1)]
            self.reordered = bench.try_out(_shuffled(layout, rows_per_call, seed), rows_per_call=rows_per_call)
            self.row_by_row = bench.try_out(layout[:_ROWS_BY_THEMSELVES], rows_per_call=1)

    def _alone(self, probes: Sequence[Probe], rows_per_call: int) -> Scores:
        """Return the scores of each probe by itself; of the first ones only, where a reward fails on all of these."""
        scores: Scores = {}
        for tried, probe in enumerate(probes, start=1):
            scores |= self.bench.try_out(layout_of(len(self.bench.rows), [probe]), rows_per_call=rows_per_call)
            if tried == _PROBES_BEFORE_GIVING_UP and any(
                all(function.name in score.failures for score in scores.values())
                for function in self.bench.suite.functions
            ):
                break
        return scores

    @property
    def all(self) -> list[Scores]:
        """Every pass over the probes."""
        return [self.scores, *self.again, self.reordered, self.row_by_row]


def layout_of(count: int, probes: Sequence[Probe]) -> Layout:
    return [(row, probes) for row in range(count)]


def _shuffled(layout: Layout, rows_per_call: int, seed: int) -> Layout:
    """Return another order within each call; what is scored together stays the same."""
    rng = random.Random(seed)
    parts = [layout[start : start + rows_per_call] for start in range(0, len(layout), rows_per_call)]
    return [(row, rng.sample(probes, len(probes))) for part in parts for row, probes in rng.sample(part, len(part))]


def _failed(scores: Scores) -> list[tuple[int, str]]:
    """Return where a reward failed."""
    return [place for place, score in scores.items() if has_failed(score)]


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
