"""Passes over a suite of rewards: all probes together, alone, again, in another order and row by row."""

from __future__ import annotations

import contextlib
import copy
import random
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from grpo.reward_check.probes import Probe, ProbeText
from grpo.rewards.hooks import HasMemory
from grpo.rewards.state import remembers
from grpo.rewards.suite import RewardSuite
from grpo.types import Group, Prompt, Rollout, Score, ScoredGroup

__all__ = ["Layout", "Passes", "Scores", "SuiteRunner", "has_failed", "layout_of", "run_passes"]

Layout: TypeAlias = Sequence[tuple[int, Sequence[ProbeText]]]
"""Texts to score for each row, in order. The texts of one row form a group, like the completions of a prompt."""

Scores: TypeAlias = dict[tuple[int, ProbeText], Score]
"""Scores by row and text."""

_Kind: TypeAlias = tuple[str, str]
"""Probe and label of a text."""

_ROWS_BY_THEMSELVES = 3
_PROBES_BEFORE_GIVING_UP = 3


class SuiteRunner:
    """Scores texts with a suite, as at the end of a run, and times the calls.

    Attributes:
        suite: the rewards under test.
        rows: the rows that texts are written for.
        rows_per_call: rows whose texts are scored in one call.
        calls: by reward, the number of completions and the seconds of each call.
    """

    def __init__(
        self,
        suite: RewardSuite,
        rows: Sequence[Prompt],
        *,
        encode: Callable[[str], Sequence[int]],
        max_steps: int,
        rows_per_call: int,
    ) -> None:
        """Store the arguments; no reward is called.

        Args:
            encode: returns the token ids of a text.
            max_steps: length of the run in steps.
        """
        self.suite = suite
        self.rows = rows
        self.rows_per_call = rows_per_call
        self.calls: dict[str, list[tuple[int, float]]] = {function.name: [] for function in suite.functions}
        self._encode, self._max_steps = encode, max_steps
        self._token_ids: dict[str, tuple[int, ...]] = {}
        self._state: Mapping[str, Any] = {}

    @contextlib.contextmanager
    def steady(self, layout: Layout) -> Iterator[None]:
        """Hold the suite's rewards in one state: final weights, no running normalisation, no growing memory.

        Functions with a state score `layout` first, so that the state is not empty, and have their old state again
        at the end. Functions that keep earlier answers (`without_memory()`) answer without them.
        """
        before = copy.deepcopy(self.suite.state_dict())
        rewards: list[object] = [function.function for function in self.suite.functions]
        try:
            with contextlib.ExitStack() as stack:
                for reward in rewards:
                    # An answer from memory has neither noise nor cost.
                    if isinstance(reward, HasMemory):
                        stack.enter_context(reward.without_memory())
                if any(map(remembers, rewards)):
                    self.score_layout(layout)
                    self._state = copy.deepcopy(self.suite.state_dict())
                    for calls in self.calls.values():
                        calls.clear()
                stack.enter_context(self.suite.evaluating())
                yield
        finally:
            self._state = {}
            self.suite.load_state_dict(before)

    def score_layout(self, layout: Layout, *, rows_per_call: int | None = None) -> Scores:
        """Return the score of every text in `layout`.

        Args:
            rows_per_call: replaces the runner's own.
        """
        size = rows_per_call or self.rows_per_call
        scores: Scores = {}
        for part in (layout[start : start + size] for start in range(0, len(layout), size)):
            groups = [Group(self.rows[row], tuple(self._rollout(each.text) for each in texts)) for row, texts in part]
            scored = self._score(groups, [each.text for _, texts in part for each in texts])
            for (row, texts), group in zip(part, scored, strict=True):
                scores |= {(row, each): got.score for each, got in zip(texts, group.rollouts, strict=True)}
        return scores

    def score_samples(self, groups: Sequence[Group], texts: Sequence[str]) -> tuple[ScoredGroup, ...]:
        """Return sampled groups scored together, or one by one where a completion fails, as it may fail the others.

        Args:
            texts: decoded completions in order of groups.
        """
        together = self._score(groups, texts)
        if not any(has_failed(member.score) for group in together for member in group.rollouts):
            return together
        left = iter(texts)
        return tuple(self._score([group], [next(left) for _ in group.rollouts])[0] for group in groups)

    def _score(self, groups: Sequence[Group], texts: Sequence[str]) -> tuple[ScoredGroup, ...]:
        """Return the groups scored in one call, however many completions fail."""
        self.suite.load_state_dict(copy.deepcopy(self._state))
        steps = self._max_steps
        result = self.suite.score(groups, texts, step=steps, max_steps=steps, max_failed_share=1.0)
        largest = max(len(group.rollouts) for group in groups)
        for function in self.suite.functions:
            seconds = result.metrics[f"rewards/{function.name}/seconds"]
            self.calls[function.name].append((largest if function.by_group else len(texts), seconds))
        return result.groups

    def _rollout(self, text: str) -> Rollout:
        if text not in self._token_ids:
            self._token_ids[text] = tuple(self._encode(text))
        ids = self._token_ids[text]
        return Rollout(ids, (True,) * len(ids), (0.0,) * len(ids), finish_reason="stop", policy_version=0)


@dataclass(frozen=True, slots=True)
class Passes:
    """Scores of all probes in several passes. Only probes that never failed are scored again.

    Attributes:
        scores: of every text; where one failed, each probe was scored by itself.
        again: further passes like the first one.
        reordered: a pass with the texts of each call in another order.
        row_by_row: a pass over the first rows, each in a call of its own.
    """

    scores: Scores
    again: Sequence[Scores] = ()
    reordered: Scores = field(default_factory=dict)
    row_by_row: Scores = field(default_factory=dict)


def run_passes(runner: SuiteRunner, probes: Sequence[Probe], *, repeats: int, seed: int) -> Passes:
    """Return the scores of all probes.

    Args:
        runner: whose suite is held steady.
        repeats: number of identical passes, the first included.
        seed: of the other order.
    """
    layout = layout_of(len(runner.rows), probes)
    scores = runner.score_layout(layout)
    broken = _failed_kinds(scores)
    if broken:
        # One text can fail a whole call; scoring the probes one by one shows which text it is.
        scores |= _alone(runner, probes)
        broken = _failed_kinds(scores)
        layout = _only(layout, {_kind(each) for _, texts in layout for each in texts} - broken)
        scores |= runner.score_layout(layout) if broken else {}
    if not layout:
        return Passes(scores)
    return Passes(
        scores,
        again=[runner.score_layout(layout) for _ in range(repeats - 1)],
        reordered=runner.score_layout(_shuffled(layout, runner.rows_per_call, seed)),
        row_by_row=runner.score_layout(layout[:_ROWS_BY_THEMSELVES], rows_per_call=1),
    )


def _alone(runner: SuiteRunner, probes: Sequence[Probe]) -> Scores:
    """Return the scores of each probe by itself; of the first three only, where a reward fails on all of these.

    Where a probe fails, each of its odd answers is scored by itself.
    """
    scores: Scores = {}
    rows_per_call = runner.rows_per_call * len(probes)
    for tried, probe in enumerate(probes, start=1):
        layout = layout_of(len(runner.rows), [probe])
        found = runner.score_layout(layout, rows_per_call=rows_per_call)
        kinds = dict.fromkeys(_kind(each) for _, texts in layout for each in texts)
        if _failed_kinds(found) and len(kinds) > 1:
            for kind in kinds:
                found |= runner.score_layout(_only(layout, {kind}), rows_per_call=rows_per_call)
        scores |= found
        if tried == _PROBES_BEFORE_GIVING_UP and any(
            all(function.name in score.failures for score in scores.values()) for function in runner.suite.functions
        ):
            break
    return scores


def layout_of(num_rows: int, probes: Sequence[Probe]) -> Layout:
    """Return the texts of these probes for each row, without rows that have none."""
    rows = [(row, [each for probe in probes for each in probe.texts_by_row[row]]) for row in range(num_rows)]
    return [(row, texts) for row, texts in rows if texts]


def _only(layout: Layout, kinds: Collection[_Kind]) -> Layout:
    """Return the layout with texts of these kinds alone."""
    rows = [(row, [each for each in texts if _kind(each) in kinds]) for row, texts in layout]
    return [(row, texts) for row, texts in rows if texts]


def _shuffled(layout: Layout, rows_per_call: int, seed: int) -> Layout:
    """Return another order within each call; texts that are scored together stay together."""
    rng = random.Random(seed)
    parts = [layout[start : start + rows_per_call] for start in range(0, len(layout), rows_per_call)]
    return [(row, rng.sample(texts, len(texts))) for part in parts for row, texts in rng.sample(part, len(part))]


def _kind(each: ProbeText) -> _Kind:
    return each.probe, each.label


def _failed_kinds(scores: Scores) -> set[_Kind]:
    """Return the kinds of text on which a reward failed."""
    return {_kind(each) for (_, each), score in scores.items() if has_failed(score)}


def has_failed(score: Score) -> bool:
    """Return whether a function failed; a completion to which no function applies is not a failure of one."""
    return bool(set(score.failures) & set(score.rewards))
