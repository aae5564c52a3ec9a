"""From the scores of all passes to the figures of a report; texts are compared with the right answer row by row."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from grpo.algorithm import Combine
from grpo.groups import Truncated, find_zero_variance_groups
from grpo.intervals import wilson_interval
from grpo.reward_check.passes import Passes, Scores, has_failed, largest_change
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
from grpo.rewards.function import RewardFunction
from grpo.rewards.suite import RewardSuite
from grpo.types import Prompt, Score, ScoredGroup

__all__ = ["probe_result", "reward_result", "sample_result"]

_LABEL_CHARACTERS = 30
_Value: TypeAlias = Callable[[Score], "float | None"]


def reward_result(
    function: RewardFunction, passes: Passes, sampled: Sequence[ScoredGroup], batch_size: int
) -> RewardResult:
    """Return how a reward behaved in all passes, and how long its calls took.

    Args:
        sampled: completions of the policy, scored; none: there are no such ones.
        batch_size: completions in a step of the run.
    """
    name = function.name
    numbers = [number for score in passes.scores.values() if (number := score.rewards[name]) is not None]
    spread = max(numbers) - min(numbers) if numbers else 0.0
    changes = [
        _largest([largest_change(passes.scores, scores, name) for scores in others if scores], spread)
        for others in (passes.again, [passes.reordered], [passes.row_by_row])
    ]
    calls = passes.runner.seconds[name] or [(1, 0.0)]
    seconds = sorted(duration for _, duration in calls)
    each = statistics.median(duration / max(1, count) for count, duration in calls)
    median = statistics.median(seconds)
    return RewardResult(
        name=name,
        lowest=min(numbers, default=None),
        highest=max(numbers, default=None),
        failures=_failures(name, passes, sampled),
        reacts=_reacts(name, passes.scores, sampled),
        repeat_change=changes[0],
        order_change=changes[1],
        batch_change=changes[2],
        calls=len(calls),
        completions_per_call=max(count for count, _ in calls),
        median_s=median,
        p95_s=seconds[min(len(seconds) - 1, math.ceil(0.95 * len(seconds)) - 1)],
        longest_s=seconds[-1],
        completion_ms=1000 * each,
        # Async calls wait at the same time, those in processes are shared out.
        step_s=median if function.is_async else each * batch_size / max(1, function.processes),
    )


def _failures(name: str, passes: Passes, sampled: Sequence[ScoredGroup]) -> dict[str, str]:
    """Return by probe the first error of a reward in any pass."""
    found: dict[str, str] = {}
    for scores in passes.all:
        for (_, text), score in scores.items():
            if name in score.failures:
                found.setdefault(text.probe, score.failures[name])
    for score in _members(sampled):
        if name in score.failures:
            found.setdefault("sampled", score.failures[name])
    return found


def _largest(changes: Sequence[float], spread: float) -> float | None:
    """Return the largest change; one from a number to none counts as from one end of the range to the other."""
    return min(max(changes), spread or 1.0) if changes and math.isinf(max(changes)) else max(changes, default=None)


def _reacts(name: str, scores: Scores, sampled: Sequence[ScoredGroup]) -> bool:
    """Return whether two texts for one row got different values."""
    by_row: dict[int, set[float | None]] = {}
    for (row, _), score in scores.items():
        if name not in score.failures:
            by_row.setdefault(row, set()).add(score.rewards[name])
    groups = [{member.score.rewards[name] for member in group.rollouts} for group in sampled]
    return any(len(values) > 1 for values in [*by_row.values(), *groups])


def probe_result(probe: Probe, passes: Passes) -> ProbeResult:
    """Return what a probe earned, and how it compares with the right answers."""
    runner, names = passes.runner, [function.name for function in passes.runner.suite.functions]
    scores = [passes.scores[row, text] for row, texts in enumerate(probe.texts_by_row) for text in texts]
    by_text = _comparisons(probe, passes.scores)
    results = [_comparison_result(some, runner.rows, names) for some in by_text]
    return ProbeResult(
        name=probe.name,
        meaning=probe.meaning,
        example=shortened(probe.texts[0]),
        total=_total_cell(scores),
        rewards={name: _cell(scores, name) for name in names},
        comparisons=tuple(result for result in results if result is not None),
        rows_at_least=_rows_at_least([comparison for some in by_text for comparison in some]),
        fooled={name: max((_share_at_least(some, name) for some in by_text), default=0.0) for name in names},
    )


@dataclass(frozen=True, slots=True)
class _Comparison:
    """A text and the right answer of one row.

    Attributes:
        row: its place among those tried.
        score: of the text.
        reference: of the right answer; None when there is none.
    """

    row: int
    text: ProbeText
    score: Score
    reference: Score | None

    def margin(self, value: _Value) -> float | None:
        """Return by how much the text earned more, 0 when that is rounding; None when one of the two has no number.

        Args:
            value: reads what was earned from a score.
        """
        own, right = value(self.score), None if self.reference is None else value(self.reference)
        if own is None or right is None:
            return None
        return 0.0 if abs(own - right) <= ROUNDING * max(1.0, abs(right)) else own - right

    @property
    def total(self) -> float:
        """What the text earned in total; there has to be one."""
        assert self.score.sum is not None, "only comparisons with a total are counted"
        return self.score.sum

    def pays(self, name: str) -> bool:
        """Return whether a reward gave the text at least what it gave the right answer."""
        margin = self.margin(lambda score: score.rewards[name])
        return margin is not None and margin >= 0


def _comparisons(probe: Probe, scores: Scores) -> list[list[_Comparison]]:
    """Return the comparisons of each odd answer, or of all texts together where each row has its own.

    What happens to be right where it stands is left out.
    """
    references = {row: score for (row, text), score in scores.items() if text.probe == REFERENCE}
    by_label: dict[str, list[_Comparison]] = {}
    for row, texts in enumerate(probe.texts_by_row):
        for text in texts:
            if text.counts:
                comparison = _Comparison(row, text, scores[row, text], references.get(row))
                by_label.setdefault(text.label, []).append(comparison)
    return list(by_label.values())


def _comparison_result(
    comparisons: Sequence[_Comparison], rows: Sequence[Prompt], rewards: Sequence[str]
) -> ComparisonResult | None:
    """Return how the text or texts of these comparisons did in total; None when no total is there to compare."""
    margins = [(margin, each) for each in comparisons if (margin := each.margin(_total)) is not None]
    if margins:
        _, best = max(margins, key=lambda pair: pair[0])
    else:
        alone = [each for each in comparisons if each.reference is None and each.score.sum is not None]
        if not alone:
            return None
        best = max(alone, key=lambda each: each.total)
    counted = [each for _, each in margins] or alone
    return ComparisonResult(
        text=shortened(best.text.label, _LABEL_CHARACTERS) if best.text.label else shortened(best.text.text),
        label=bool(best.text.label),
        rows=len(counted),
        mean=statistics.fmean(each.total for each in counted),
        above=sum(margin > 0 for margin, _ in margins),
        level=sum(margin == 0 for margin, _ in margins),
        margin=statistics.fmean(margin for margin, _ in margins) if margins else None,
        earned=best.total,
        reference=best.reference.sum if best.reference is not None else None,
        row=rows[best.row].row,
        rewards=tuple(name for name in rewards if any(each.pays(name) for margin, each in margins if margin >= 0)),
    )


def _share_at_least(comparisons: Sequence[_Comparison], name: str) -> float:
    """Return the share of the rows in which a reward gave at least what it gave the right answer; 0 of no rows."""
    values = [each.margin(lambda score: score.rewards[name]) for each in comparisons]
    margins = [margin for margin in values if margin is not None]
    return sum(margin >= 0 for margin in margins) / len(margins) if margins else 0.0


def _rows_at_least(comparisons: Sequence[_Comparison]) -> float | None:
    """Return the share of the rows in which a text earned at least as much as the right answer; None of no rows."""
    by_row: dict[int, bool] = {}
    for each in comparisons:
        margin = each.margin(_total)
        if margin is not None:
            by_row[each.row] = by_row.get(each.row, False) or margin >= 0
    return sum(by_row.values()) / len(by_row) if by_row else None


def _total(score: Score) -> float | None:
    return score.sum


def sample_result(
    suite: RewardSuite, sampled: Sequence[ScoredGroup], *, truncated: Truncated, combine: Combine
) -> SampleResult:
    """Return what the policy's own completions earned, and which groups training would learn from.

    Args:
        sampled: its completions, scored; at least one group.
        truncated: as in training, as is `combine`: they decide what spread is.
    """
    spread = tuple((~find_zero_variance_groups(sampled, truncated=truncated, combine=combine)).tolist())
    scores = list(_members(sampled))
    best = [max(sums) for group in sampled if (sums := _sums(member.score for member in group.rollouts))]
    share = sum(spread) / len(spread)
    return SampleResult(
        group_size=len(sampled[0].rollouts),
        spread=spread,
        share=share,
        interval=wilson_interval(share, len(spread)),
        total=_total_cell(scores),
        rewards={function.name: _cell(scores, function.name) for function in suite.functions},
        best=statistics.fmean(best) if best else None,
    )


def _members(groups: Iterable[ScoredGroup]) -> Iterable[Score]:
    return (member.score for group in groups for member in group.rollouts)


def _sums(scores: Iterable[Score]) -> list[float]:
    return [total for score in scores if (total := score.sum) is not None]


def _cell(scores: Sequence[Score], name: str) -> Cell:
    return _cell_of(
        [number for score in scores if (number := score.rewards[name]) is not None],
        failed=sum(name in score.failures for score in scores),
        count=len(scores),
    )


def _total_cell(scores: Sequence[Score]) -> Cell:
    return _cell_of(_sums(scores), failed=sum(map(has_failed, scores)), count=len(scores))


def _cell_of(numbers: Sequence[float], *, failed: int, count: int) -> Cell:
    return Cell(
        mean=statistics.fmean(numbers) if numbers else None,
        lowest=min(numbers, default=None),
        highest=max(numbers, default=None),
        numbers=len(numbers),
        absent=count - len(numbers) - failed,
        failed=failed,
    )
