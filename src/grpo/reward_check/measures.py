"""From scores to the figures of a report; each text is compared with the right answer of its row."""

from __future__ import annotations

import math
import statistics
from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

from grpo.algorithm import Combine
from grpo.groups import Truncated, find_zero_variance_groups
from grpo.intervals import wilson_interval
from grpo.reward_check.probes import REFERENCE, Probe, ProbeText
from grpo.reward_check.report import (
    ROUNDING,
    Cell,
    ComparisonResult,
    ProbeResult,
    RewardResult,
    SampleResult,
    shortened,
)
from grpo.reward_check.scoring import Passes, Scores, SuiteRunner, has_failed
from grpo.rewards import RewardFunction
from grpo.types import Prompt, Score, ScoredGroup

__all__ = ["probe_result", "reward_result", "sample_result"]

_LABEL_CHARACTERS = 30


def reward_result(
    function: RewardFunction, passes: Passes, sampled: Sequence[ScoredGroup], runner: SuiteRunner, batch_size: int
) -> RewardResult:
    """Return the range, repeatability and cost of a reward.

    Args:
        sampled: scored completions of the policy, if there are any.
        batch_size: completions in a step of the run.
    """
    name = function.name
    numbers = [number for score in passes.scores.values() if (number := score.rewards[name]) is not None]
    spread = max(numbers) - min(numbers) if numbers else 0.0
    calls = runner.calls[name] or [(1, 0.0)]
    seconds = sorted(duration for _, duration in calls)
    each = statistics.median(duration / max(1, count) for count, duration in calls)
    median = statistics.median(seconds)
    return RewardResult(
        name=name,
        lowest=min(numbers, default=None),
        highest=max(numbers, default=None),
        failures=_failures(name, passes, sampled),
        reacts=_reacts(name, passes.scores, sampled),
        repeat_change=_largest_change(name, passes.scores, passes.again, spread),
        order_change=_largest_change(name, passes.scores, [passes.reordered], spread),
        batch_change=_largest_change(name, passes.scores, [passes.row_by_row], spread),
        calls=len(calls),
        completions_per_call=max(count for count, _ in calls),
        median_s=median,
        p95_s=seconds[min(len(seconds) - 1, math.ceil(0.95 * len(seconds)) - 1)],
        longest_s=seconds[-1],
        completion_ms=1000 * each,
        # Async calls wait at the same time; processes share the completions.
        step_s=median if function.is_async else each * batch_size / max(1, function.processes),
    )


def _failures(name: str, passes: Passes, sampled: Sequence[ScoredGroup]) -> dict[str, str]:
    """Return by probe the first error of a reward in any pass."""
    every_pass = [passes.scores, *passes.again, passes.reordered, passes.row_by_row]
    probed = [(text.probe, score) for scores in every_pass for text, score in scores.items()]
    found: dict[str, str] = {}
    for probe, score in [*probed, *(("sampled", score) for score in _members(sampled))]:
        if name in score.failures:
            found.setdefault(probe, score.failures[name])
    return found


def _reacts(name: str, scores: Scores, sampled: Sequence[ScoredGroup]) -> bool:
    """Return whether two texts for one row got different values."""
    by_row: dict[int, set[float | None]] = {}
    for text, score in scores.items():
        if name not in score.failures:
            by_row.setdefault(text.row, set()).add(score.rewards[name])
    groups = [{member.score.rewards[name] for member in group.rollouts} for group in sampled]
    return any(len(values) > 1 for values in [*by_row.values(), *groups])


def _largest_change(name: str, before: Scores, passes: Sequence[Scores], spread: float) -> float | None:
    """Return the largest change of a reward between a pass and further ones; None when there are none.

    Args:
        spread: range of the reward; it stands for a change from a number to None, or back.
    """
    changes = [0.0 for after in passes if after]
    for after in passes:
        for key in before.keys() & after.keys():
            first, second = before[key].rewards[name], after[key].rewards[name]
            if first is not None and second is not None:
                changes.append(abs(first - second))
            elif first is not second:
                changes.append(math.inf)
    largest = max(changes, default=None)
    return largest if largest != math.inf else spread or 1.0


class _Comparison(NamedTuple):
    """Scores of a text and of the right answer for its row, which is None when there is no right answer."""

    text: ProbeText
    score: Score
    reference: Score | None

    def margin(self, reward: str | None = None) -> float | None:
        """Return the text's total, or one reward, minus the right answer's; 0 when they differ by rounding.

        None when one of the two has no number.
        """
        if self.reference is None:
            return None
        pair = (self.score, self.reference)
        own, right = (score.sum if reward is None else score.rewards[reward] for score in pair)
        if own is None or right is None:
            return None
        return 0.0 if abs(own - right) <= ROUNDING * max(1.0, abs(right)) else own - right


def probe_result(
    probe: Probe, scores: Scores, rows: Sequence[Prompt], rewards: Sequence[str], untried: Collection[int] = ()
) -> ProbeResult:
    """Return a probe's rewards beside the right answers'.

    Args:
        scores: of all texts; of several right answers to one row, the last counts.
        rewards: names of the suite's rewards.
        untried: places of rows without a right answer to compare with.
    """
    references = {
        text.row: score for text, score in scores.items() if text.probe == REFERENCE and text.row not in untried
    }
    counted = [_Comparison(text, scores[text], references.get(text.row)) for text in probe.texts if text.counts]
    labels = dict.fromkeys(each.text.label for each in counted)
    by_label = [[each for each in counted if each.text.label == label] for label in labels]
    margins = [(each.text.row, margin) for each in counted if (margin := each.margin()) is not None]
    paid, compared = {row for row, margin in margins if margin >= 0}, {row for row, _ in margins}
    results = [_comparison_result(some, rows, rewards) for some in by_label]
    own = [scores[text] for text in probe.texts]
    return ProbeResult(
        name=probe.name,
        meaning=probe.meaning,
        example=shortened(probe.texts[0].text),
        total=_total_cell(own),
        rewards={name: _cell(own, name) for name in rewards},
        comparisons=tuple(result for result in results if result is not None),
        rows_at_least=len(paid) / len(compared) if compared else None,
        fooled={name: max((_share_fooled(some, name) for some in by_label), default=0.0) for name in rewards},
    )


def _share_fooled(comparisons: Sequence[_Comparison], reward: str) -> float:
    """Return the share of the rows in which a reward gave at least what it gave the right answer; 0 of no rows."""
    margins = [margin for each in comparisons if (margin := each.margin(reward)) is not None]
    return sum(margin >= 0 for margin in margins) / len(margins) if margins else 0.0


def _comparison_result(
    comparisons: Sequence[_Comparison], rows: Sequence[Prompt], rewards: Sequence[str]
) -> ComparisonResult | None:
    """Return the totals of texts beside those of the right answers; None when there are none to compare."""
    totals = [(each, each.margin(), total) for each in comparisons if (total := each.score.sum) is not None]
    compared = [(each, margin, total) for each, margin, total in totals if margin is not None]
    # Without right answers, a text does best where its total is the highest.
    counted = compared or [(each, total, total) for each, _, total in totals if each.reference is None]
    if not counted:
        return None
    best, _, earned = max(counted, key=lambda each: each[1])
    margins = [margin for _, margin, _ in compared]
    paid = [each for each, margin, _ in compared if margin >= 0]
    label = best.text.label
    return ComparisonResult(
        text=shortened(label, _LABEL_CHARACTERS) if label else shortened(best.text.text),
        label=bool(label),
        rows=len(counted),
        mean=statistics.fmean(total for _, _, total in counted),
        above=sum(margin > 0 for margin in margins),
        level=sum(margin == 0 for margin in margins),
        margin=statistics.fmean(margins) if margins else None,
        earned=earned,
        reference=best.reference.sum if best.reference is not None else None,
        row=rows[best.text.row].row,
        rewards=tuple(
            name
            for name in rewards
            if any((each.margin(name) or 0.0) >= 0 and each.margin(name) is not None for each in paid)
        ),
    )


def sample_result(
    sampled: Sequence[ScoredGroup], rewards: Sequence[str], *, truncated: Truncated, combine: Combine
) -> SampleResult:
    """Return the rewards of the policy's own completions, and the groups that training would learn from.

    Args:
        sampled: its completions, scored; at least one group.
        rewards: names of the suite's rewards.
        truncated, combine: as in training; they decide which groups have spread.
    """
    spread = tuple((~find_zero_variance_groups(sampled, truncated=truncated, combine=combine)).tolist())
    share = sum(spread) / len(spread)
    scores = list(_members(sampled))
    best = [highest for group in sampled if (highest := _total_cell(list(_members([group]))).highest) is not None]
    return SampleResult(
        group_size=len(sampled[0].rollouts),
        spread=spread,
        share=share,
        interval=wilson_interval(share, len(spread)),
        total=_total_cell(scores),
        rewards={name: _cell(scores, name) for name in rewards},
        best=statistics.fmean(best) if best else None,
    )


def _members(groups: Sequence[ScoredGroup]) -> Iterator[Score]:
    return (member.score for group in groups for member in group.rollouts)


def _cell(scores: Sequence[Score], reward: str) -> Cell:
    return _summary([score.rewards[reward] for score in scores], sum(reward in score.failures for score in scores))


def _total_cell(scores: Sequence[Score]) -> Cell:
    return _summary([score.sum for score in scores], sum(map(has_failed, scores)))


def _summary(values: Sequence[float | None], failed: int) -> Cell:
    numbers = [value for value in values if value is not None]
    return Cell(
        mean=statistics.fmean(numbers) if numbers else None,
        lowest=min(numbers, default=None),
        highest=max(numbers, default=None),
        numbers=len(numbers),
        absent=len(values) - len(numbers) - failed,
        failed=failed,
    )
