"""Passes over a suite of rewards: all probes together, alone, again, in another order and row by row.

All that the check knows of a suite beyond its public methods stands in this module.
"""

from __future__ import annotations

import contextlib
import copy
import random
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from grpo.reward_check.probes import OTHER_ANSWER, REFERENCE, Probe, ProbeText
from grpo.rewards import RewardSuite
from grpo.rewards.hooks import HasMemory, is_stateful, offers
from grpo.types import Group, Prompt, Rollout, Score, ScoredGroup

__all__ = [
    "Passes",
    "Scores",
    "SuiteRunner",
    "has_failed",
    "reading_columns",
    "run_passes",
    "sees_answers",
    "texts_by_row",
]

Layout: TypeAlias = Sequence[Sequence[ProbeText]]
"""Texts to score, in order. The texts of one row form a group, like the completions of a prompt."""

Scores: TypeAlias = dict[ProbeText, Score]

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

        If a function has a state, all functions score `layout` once beforehand, so that the state is not empty. The old
        state is restored at the end. Stored answers of functions with `without_memory()` are not used.
        """
        before = copy.deepcopy(self.suite.state_dict())
        rewards: list[object] = [function.function for function in self.suite.functions]
        try:
            with contextlib.ExitStack() as stack:
                for reward in rewards:
                    # An answer from memory has neither noise nor cost.
                    if isinstance(reward, HasMemory) and offers(reward, HasMemory):
                        stack.enter_context(reward.without_memory())
                if any(map(is_stateful, rewards)):
                    self.score(layout)
                    self._state = copy.deepcopy(self.suite.state_dict())
                    for calls in self.calls.values():
                        calls.clear()
                stack.enter_context(self.suite.evaluating())
                yield
        finally:
            self._state = {}
            self.suite.load_state_dict(before)

    def score(self, layout: Layout, *, rows_per_call: int | None = None) -> Scores:
        """Return the score of every text in `layout`; `rows_per_call` replaces the runner's own."""
        size = rows_per_call or self.rows_per_call
        scores: Scores = {}
        for part in (layout[start : start + size] for start in range(0, len(layout), size)):
            texts = [text for row in part for text in row]
            groups = [Group(self.rows[row[0].row], tuple(self._rollout(text.text) for text in row)) for row in part]
            scored = self._score(groups, [text.text for text in texts])
            scores |= zip(texts, (member.score for group in scored for member in group.rollouts), strict=True)
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
    """Scores of all probes in several passes. Only texts that never failed are scored again.

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
    """Return the scores of all probes by a runner whose suite is held steady.

    Args:
        repeats: number of identical passes, the first included.
        seed: of the other order.
    """
    layout = texts_by_row(probes)
    scores = runner.score(layout)
    if _failed_kinds(scores):
        # One text can fail a whole call; scoring the probes one by one shows which text it is.
        scores |= _score_alone(runner, probes)
        failed = _failed_kinds(scores)
        layout = texts_by_row(probes, without=failed)
        scores |= runner.score(layout) if failed else {}
    if not layout:
        return Passes(scores)
    rng, size = random.Random(seed), runner.rows_per_call
    parts = [layout[start : start + size] for start in range(0, len(layout), size)]
    reordered = [rng.sample(row, len(row)) for part in parts for row in rng.sample(part, len(part))]
    return Passes(
        scores,
        again=[runner.score(layout) for _ in range(repeats - 1)],
        reordered=runner.score(reordered),
        row_by_row=runner.score(layout[:_ROWS_BY_THEMSELVES], rows_per_call=1),
    )


def _score_alone(runner: SuiteRunner, probes: Sequence[Probe]) -> Scores:
    """Return the scores of each probe by itself; of the first three only, where a reward fails on all of these.

    Where a probe fails, each of its odd answers is scored by itself.
    """
    scores: Scores = {}
    rows_per_call = runner.rows_per_call * len(probes)
    for tried, probe in enumerate(probes, start=1):
        found = runner.score(texts_by_row([probe]), rows_per_call=rows_per_call)
        kinds = dict.fromkeys(text.kind for text in found)
        if _failed_kinds(found) and len(kinds) > 1:
            for kind in kinds:
                layout = texts_by_row([probe], without=kinds.keys() - {kind})
                found |= runner.score(layout, rows_per_call=rows_per_call)
        scores |= found
        if tried == _PROBES_BEFORE_GIVING_UP and any(
            all(function.name in score.failures for score in scores.values()) for function in runner.suite.functions
        ):
            break
    return scores


def texts_by_row(probes: Sequence[Probe], *, without: Collection[tuple[str, str]] = ()) -> list[list[ProbeText]]:
    """Return the texts of each row that has some.

    Args:
        without: kinds of text to leave out.
    """
    by_row: dict[int, list[ProbeText]] = {}
    for text in (text for probe in probes for text in probe.texts if text.kind not in without):
        by_row.setdefault(text.row, []).append(text)
    return [by_row[row] for row in sorted(by_row)]


def _failed_kinds(scores: Scores) -> set[tuple[str, str]]:
    return {text.kind for text, score in scores.items() if has_failed(score)}


def has_failed(score: Score) -> bool:
    """Return whether a function failed; a completion to which no function applies is not a failure of one."""
    return bool(set(score.failures) & set(score.rewards))


def reading_columns(suite: RewardSuite, rows: Sequence[Prompt]) -> tuple[str, ...]:
    """Return the names of the rewards that can read a column of the rows."""
    columns = {name for row in rows for name in row.columns}
    return tuple(each.name for each in suite.functions if each.takes_any or columns.intersection(each.named))


def sees_answers(suite: RewardSuite, column: str | None, scores: Scores) -> bool:
    """Return whether a reward of the suite reads the column of the right answers.

    A reward that names the column does. One that takes any column (`**columns`) does unless it gives each right answer
    the same value in its own row and in another.
    """
    if any(column in function.named for function in suite.functions):
        return True
    return any(function.takes_any and not _ignores_rows(function.name, scores) for function in suite.functions)


def _ignores_rows(reward: str, scores: Scores) -> bool:
    values: dict[str, list[float | None]] = {}
    for text, score in scores.items():
        if text.probe in (REFERENCE, OTHER_ANSWER) and reward not in score.failures:
            values.setdefault(text.text, []).append(score.rewards[reward])
    shared = [each for each in values.values() if len(each) > 1]
    return bool(shared) and all(len(set(each)) == 1 for each in shared)
