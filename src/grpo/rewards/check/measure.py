"""Runs a reward suite on texts, as a step would, and keeps what every text earned and how long the calls took."""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from grpo.rewards.check.probes import Try
from grpo.rewards.state import remembers
from grpo.rewards.suite import RewardSuite
from grpo.types import Group, Prompt, Rollout, Score, ScoredGroup

__all__ = ["Bench", "Layout", "Scores", "change"]

Layout: TypeAlias = Sequence[tuple[int, Sequence[Try]]]
"""What to try on which row, in order; the texts of one row make a group, as completions of one prompt do."""

Scores: TypeAlias = dict[tuple[int, Try], Score]
"""By row and text."""


class Bench:
    """A suite, the rows to try it on, and the times its calls took."""

    def __init__(
        self,
        suite: RewardSuite,
        rows: Sequence[Prompt],
        encode: Callable[[str], Sequence[int]],
        *,
        step: int,
        max_steps: int,
    ) -> None:
        self.suite = suite
        self.rows = rows
        self._encode = encode
        self._step, self._max_steps = step, max_steps
        self._token_ids: dict[str, tuple[int, ...]] = {}
        self._state: Mapping[str, Any] = {}
        self.seconds: dict[str, list[tuple[int, float]]] = {function.name: [] for function in suite.functions}
        """By reward: completions and seconds of each call."""

    @contextlib.contextmanager
    def ready(self, layout: Layout, *, rows_per_call: int) -> Iterator[None]:
        """Let the suite's rewards stand still meanwhile: final weights, no running figures, memories that do not grow.

        Functions that remember something are first shown `layout`, so that it is not nothing; in the end they
        remember what they did before. What keeps answers from earlier (`without_memory()`) does without them.
        """
        before = copy.deepcopy(self.suite.state_dict())
        try:
            with contextlib.ExitStack() as stack:
                for function in self.suite.functions:
                    # What is only looked up has neither noise nor a price.
                    if hasattr(function.function, "without_memory"):
                        stack.enter_context(function.function.without_memory())
                if any(remembers(function.function) for function in self.suite.functions):
                    self.try_out(layout, rows_per_call=rows_per_call)
                    self._state = copy.deepcopy(self.suite.state_dict())
                    for calls in self.seconds.values():
                        calls.clear()
                stack.enter_context(self.suite.evaluating())
                yield
        finally:
            self._state = {}
            self.suite.load_state_dict(before)

    def try_out(self, layout: Layout, *, rows_per_call: int) -> Scores:
        """Return the scores of every text in `layout`."""
        scores: Scores = {}
        for start in range(0, len(layout), rows_per_call):
            part = layout[start : start + rows_per_call]
            groups = [Group(self.rows[row], tuple(self._rollout(each.text) for each in tries)) for row, tries in part]
            texts = [each.text for _, tries in part for each in tries]
            for (row, tries), group in zip(part, self.score(groups, texts), strict=True):
                for each, member in zip(tries, group.rollouts, strict=True):
                    scores[row, each] = member.score
        return scores

    def score(self, groups: Sequence[Group], texts: Sequence[str]) -> tuple[ScoredGroup, ...]:
        """Return the groups scored in one call, however many completions fail."""
        self.suite.load_state_dict(copy.deepcopy(self._state))
        with _every_failure_allowed(self.suite):
            result = self.suite.score(groups, texts, step=self._step, max_steps=self._max_steps)
        largest = max(len(group.rollouts) for group in groups)
        for function in self.suite.functions:
            seconds = result.metrics[f"rewards/{function.name}/seconds"]
            self.seconds[function.name].append((largest if function.by_group else len(texts), seconds))
        return result.groups

    def _rollout(self, text: str) -> Rollout:
        if text not in self._token_ids:
            self._token_ids[text] = tuple(self._encode(text))
        token_ids = self._token_ids[text]
        return Rollout(
            token_ids=token_ids,
            sampled=(True,) * len(token_ids),
            logprobs=(0.0,) * len(token_ids),
            finish_reason="stop",
            policy_version=0,
        )


def change(before: Scores, after: Scores, name: str) -> float:
    """Return the largest change of reward `name` among texts that are in both; infinite where it failed in one only."""
    largest = 0.0
    for key in before.keys() & after.keys():
        first, second = before[key].rewards[name], after[key].rewards[name]
        if first is None or second is None:
            largest = max(largest, 0.0 if first is second else math.inf)
        else:
            largest = max(largest, abs(first - second))
    return largest


@contextlib.contextmanager
def _every_failure_allowed(suite: RewardSuite) -> Iterator[None]:
    allowed = suite.max_failed_share
    suite.max_failed_share = 1.0
    try:
        yield
    finally:
        suite.max_failed_share = allowed
