"""From the scores of all passes to the figures of a report."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence

from grpo.algorithm import Combine
from grpo.groups import Truncated, groups_with_spread
from grpo.intervals import wilson_interval
from grpo.rewards.check.measure import Scores, change
from grpo.rewards.check.probes import Probe
from grpo.rewards.check.report import Cell, ProbeResult, RewardResult, SampleResult
from grpo.rewards.check.standing import Duel, duels_of, share_at_least, shortened, standing
from grpo.rewards.check.trials import Trials, has_failed
from grpo.rewards.function import RewardFunction
from grpo.rewards.suite import RewardSuite
from grpo.types import Score, ScoredGroup

__all__ = ["probe_result", "reward_result", "sample_result"]


def reward_result(
    function: RewardFunction, trials: Trials, sampled: Sequence[ScoredGroup], batch_size: int
) -> RewardResult:
    """Return how a reward behaved in all passes, and how long its calls took."""
    name = function.name
    numbers = [number for score in trials.scores.values() if (number := score.rewards[name]) is not None]
    spread = max(numbers) - min(numbers) if numbers else 0.0
    changes = [
        _largest([change(trials.scores, scores, name) for scores in passes if scores], spread)
        for passes in (trials.again, [trials.reordered], [trials.row_by_row])
    ]
    calls = trials.bench.seconds[name] or [(1, 0.0)]
    seconds = sorted(duration for _, duration in calls)
    each = statistics.median(duration / max(1, count) for count, duration in calls)
    median = statistics.median(seconds)
    return RewardResult(
        name=name,
        lowest=min(numbers, default=None),
        highest=max(numbers, default=None),
        failures=_failures(name, trials, sampled),
        reacts=_reacts(name, trials.scores, sampled),
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


def _failures(name: str, trials: Trials, sampled: Sequence[ScoredGroup]) -> dict[str, str]:
    """Return by probe the first error of a reward in any pass."""
    found: dict[str, str] = {}
    for scores in trials.all:
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


def probe_result(probe: Probe, trials: Trials) -> ProbeResult:
    """Return what a probe earned, and how it stands against the right answers."""
    bench, names = trials.bench, [function.name for function in trials.bench.suite.functions]
    scores = [trials.scores[row, text] for row, tries in enumerate(probe.tries) for text in tries]
    duels = duels_of(probe, trials.scores)
    standings = [standing(some, bench.rows, names) for some in duels]
    return ProbeResult(
        name=probe.name,
        meaning=probe.meaning,
        example=shortened(probe.texts[0]),
        total=_total_cell(scores),
        rewards={name: _cell(scores, name) for name in names},
        standings=tuple(found for found in standings if found is not None),
        rows_at_least=_rows_at_least([duel for some in duels for duel in some]),
        fooled={name: max((share_at_least(some, name) for some in duels), default=0.0) for name in names},
    )


def _rows_at_least(duels: Sequence[Duel]) -> float | None:
    """Return the share of the rows in which a text earned at least as much as the right answer; None of no rows."""
    by_row: dict[int, bool] = {}
    for duel in duels:
        lead = duel.lead(lambda score: score.sum)
        if lead is not None:
            by_row[duel.row] = by_row.get(duel.row, False) or lead >= 0
    return sum(by_row.values()) / len(by_row) if by_row else None


def sample_result(
    suite: RewardSuite, sampled: Sequence[ScoredGroup], *, truncated: Truncated, combine: Combine
) -> SampleResult:
    """Return what the policy's own completions earned, and which groups training would learn from."""
    spread = tuple(groups_with_spread(sampled, truncated=truncated, combine=combine).tolist())
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
