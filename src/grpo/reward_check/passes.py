"""The passes over a suite that a check makes, scored as a step would: together, alone, again and in another order."""

from __future__ import annotations

import contextlib
import copy
import math
import random
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from grpo.reward_check.probes import Probe, ProbeText
from grpo.rewards.hooks import HasMemory, is_stateful
from grpo.rewards.suite import RewardSuite
from grpo.types import Group, Prompt, Rollout, Score, ScoredGroup

__all__ = ["Layout", "Passes", "Scores", "SuiteRunner", "has_failed", "largest_change", "layout_of", "score_samples"]

Layout: TypeAlias = Sequence[tuple[int, Sequence[ProbeText]]]
"""What to try on which row, in order; the texts of one row make a group, as completions of one prompt do."""

Scores: TypeAlias = dict[tuple[int, ProbeText], Score]
"""By row and text."""

_Kind: TypeAlias = tuple[str, str]
"""Probe and label of a text."""

_ROWS_BY_THEMSELVES = 3
_PROBES_BEFORE_GIVING_UP = 3


class SuiteRunner:
    """Runs a suite on texts.

    Attributes:
        suite: whose rewards are tried.
        rows: that they are tried on.
        seconds: by reward, completions and seconds of each call.
    """

    def __init__(
        self,
        suite: RewardSuite,
        rows: Sequence[Prompt],
        encode: Callable[[str], Sequence[int]],
        *,
        step: int,
        max_steps: int,
    ) -> None:
        """Call nothing yet.

        Args:
            suite: whose rewards are to be tried.
            rows: to try them on.
            encode: makes token ids of a text.
            step: optimizer steps that the rewards are told are done.
            max_steps: and those of the run.
        """
        self.suite = suite
        self.rows = rows
        self.seconds: dict[str, list[tuple[int, float]]] = {function.name: [] for function in suite.functions}
        self._encode = encode
        self._step, self._max_steps = step, max_steps
        self._token_ids: dict[str, tuple[int, ...]] = {}
        self._state: Mapping[str, Any] = {}

    @contextlib.contextmanager
    def ready(self, layout: Layout, *, rows_per_call: int) -> Iterator[None]:
        """Let the suite's rewards stand still meanwhile: final weights, no running figures, memories that do not grow.

        Functions that remember something are first shown `layout`, so that it is not nothing; in the end they
        remember what they did before. What keeps answers from earlier (`without_memory()`) does without them.

        Args:
            layout: what will be tried.
            rows_per_call: rows whose texts are scored in one call.
        """
        before = copy.deepcopy(self.suite.state_dict())
        try:
            with contextlib.ExitStack() as stack:
                for function in self.suite.functions:
                    # What is only looked up has neither noise nor a price.
                    reward: object = function.function
                    if isinstance(reward, HasMemory):
                        stack.enter_context(reward.without_memory())
                if any(is_stateful(function.function) for function in self.suite.functions):
                    self.score_layout(layout, rows_per_call=rows_per_call)
                    self._state = copy.deepcopy(self.suite.state_dict())
                    for calls in self.seconds.values():
                        calls.clear()
                stack.enter_context(self.suite.evaluating())
                yield
        finally:
            self._state = {}
            self.suite.load_state_dict(before)

    def score_layout(self, layout: Layout, *, rows_per_call: int) -> Scores:
        """Return the scores of every text in `layout`.

        Args:
            rows_per_call: rows whose texts are scored in one call.
        """
        scores: Scores = {}
        for start in range(0, len(layout), rows_per_call):
            part = layout[start : start + rows_per_call]
            groups = [Group(self.rows[row], tuple(self._rollout(each.text) for each in texts)) for row, texts in part]
            completions = [each.text for _, texts in part for each in texts]
            for (row, texts), group in zip(part, self.score(groups, completions), strict=True):
                for each, member in zip(texts, group.rollouts, strict=True):
                    scores[row, each] = member.score
        return scores

    def score(self, groups: Sequence[Group], texts: Sequence[str]) -> tuple[ScoredGroup, ...]:
        """Return the groups scored in one call, however many completions fail.

        Args:
            texts: decoded completions in order of groups.
        """
        self.suite.load_state_dict(copy.deepcopy(self._state))
        result = self.suite.score(groups, texts, step=self._step, max_steps=self._max_steps, max_failed_share=1.0)
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


class Passes:
    """The scores of all probes: once together, and where nothing failed again, in another order and row by row.

    Attributes:
        runner: that made them.
        probes: what was tried.
        scores: of every text, from the pass that tells most: where something failed, by itself.
        again: further passes like the first one.
        reordered: a pass with the texts of each call in another order.
        row_by_row: a pass over the first rows, each in a call of its own.
    """

    def __init__(self, runner: SuiteRunner, probes: Sequence[Probe], *, rows_per_call: int, repeats: int, seed: int):
        """Make the passes.

        Args:
            runner: to make them with, which is ready.
            probes: what to try.
            rows_per_call: rows whose texts are scored in one call.
            repeats: how many passes are alike, the first included.
            seed: of the other order.
        """
        self.runner = runner
        self.probes = probes
        everything = layout_of(len(runner.rows), probes)
        self.scores = runner.score_layout(everything, rows_per_call=rows_per_call)
        failed: set[_Kind] = set()
        if _failed(self.scores):
            # One text can fail a whole call; by themselves the probes show which one did.
            self.scores |= self._alone(probes, rows_per_call * len(probes))
            failed = _failed(self.scores)
        self.again: list[Scores] = []
        self.reordered: Scores = {}
        self.row_by_row: Scores = {}
        layout = _only(everything, {_kind(each) for _, texts in everything for each in texts} - failed)
        if layout:
            if failed:
                self.scores |= runner.score_layout(layout, rows_per_call=rows_per_call)
            self.again = [runner.score_layout(layout, rows_per_call=rows_per_call) for _ in range(repeats - 1)]
            self.reordered = runner.score_layout(_shuffled(layout, rows_per_call, seed), rows_per_call=rows_per_call)
            self.row_by_row = runner.score_layout(layout[:_ROWS_BY_THEMSELVES], rows_per_call=1)

    def _alone(self, probes: Sequence[Probe], rows_per_call: int) -> Scores:
        """Return the scores of each probe by itself; of the first ones only, where a reward fails on all of these.

        Of a probe that fails, each of its odd texts is tried by itself in turn.
        """
        scores: Scores = {}
        for tried, probe in enumerate(probes, start=1):
            layout = layout_of(len(self.runner.rows), [probe])
            found = self.runner.score_layout(layout, rows_per_call=rows_per_call)
            labels = dict.fromkeys(each.label for _, texts in layout for each in texts)
            if _failed(found) and len(labels) > 1:
                for label in labels:
                    one = _only(layout, {(probe.name, label)})
                    found |= self.runner.score_layout(one, rows_per_call=rows_per_call)
            scores |= found
            if tried == _PROBES_BEFORE_GIVING_UP and any(
                all(function.name in score.failures for score in scores.values())
                for function in self.runner.suite.functions
            ):
                break
        return scores

    @property
    def all(self) -> list[Scores]:
        """Every pass."""
        return [self.scores, *self.again, self.reordered, self.row_by_row]


def layout_of(num_rows: int, probes: Sequence[Probe]) -> Layout:
    """Return the texts of these probes for each of the rows; a row that none has a text for is left out."""
    rows = [(row, [each for probe in probes for each in probe.texts_by_row[row]]) for row in range(num_rows)]
    return [(row, texts) for row, texts in rows if texts]


def _only(layout: Layout, kinds: Collection[_Kind]) -> Layout:
    """Return the layout with texts of these kinds alone."""
    left = [(row, [each for each in texts if _kind(each) in kinds]) for row, texts in layout]
    return [(row, texts) for row, texts in left if texts]


def _shuffled(layout: Layout, rows_per_call: int, seed: int) -> Layout:
    """Return another order within each call; what is scored together stays the same."""
    rng = random.Random(seed)
    parts = [layout[start : start + rows_per_call] for start in range(0, len(layout), rows_per_call)]
    return [(row, rng.sample(texts, len(texts))) for part in parts for row, texts in rng.sample(part, len(part))]


def _failed(scores: Scores) -> set[_Kind]:
    """Return on which kinds of text a reward failed."""
    return {_kind(each) for (_, each), score in scores.items() if has_failed(score)}


def _kind(each: ProbeText) -> _Kind:
    return each.probe, each.label


def has_failed(score: Score) -> bool:
    """Return whether a function failed; that none applies to a completion is no failure of a function."""
    return bool(set(score.failures) & set(score.rewards))


def largest_change(before: Scores, after: Scores, name: str) -> float:
    """Return the largest change of reward `name` among texts that are in both; infinite where it failed in one only."""
    largest = 0.0
    for key in before.keys() & after.keys():
        first, second = before[key].rewards[name], after[key].rewards[name]
        if first is None or second is None:
            largest = max(largest, 0.0 if first is second else math.inf)
        else:
            largest = max(largest, abs(first - second))
    return largest


def score_samples(runner: SuiteRunner, groups: Sequence[Group], texts: Sequence[str]) -> tuple[ScoredGroup, ...]:
    """Return the groups scored, one by one where a completion would otherwise fail all of them.

    Args:
        texts: decoded completions in order of groups.
    """
    together = runner.score(groups, texts)
    if not any(has_failed(member.score) for group in together for member in group.rollouts):
        return together
    left = iter(texts)
    return tuple(runner.score([group], [next(left) for _ in group.rollouts])[0] for group in groups)
