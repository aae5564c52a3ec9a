"""From the scores of all passes to the figures of a report."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence

from grpo.rewards.check.measure import Scores, change
from grpo.rewards.check.probes import REFERENCE, Probe
from grpo.rewards.check.report import Cell, ProbeResult, RewardResult, SampleResult
from grpo.rewards.check.trials import Trials, has_failed
from grpo.rewards.function import RewardFunction
from grpo.rewards.suite import RewardSuite
from grpo.types import Score, ScoredGroup

__all__ = ["probe_result", "reward_result", "sample_result"]

_SHOWN_CHARACTERS = 100
_Z95 = 1.959963984540054


def reward_result(
    function: RewardFunction, trials: Trials, sampled: Sequence[ScoredGroup], batch_size: int
) -> RewardResult:
    name = function.name
    numbers = [number for score in trials.scores.values() if (number := score.rewards[name]) is not None]
    failures: dict[str, str] = {}
    for scores in trials.all:
        for (_, probe), score in scores.items():
            if name in score.failures:
                failures.setdefault(probe, score.failures[name])
    for score in _members(sampled):
        if name in score.failures:
            failures.setdefault("sampled", score.failures[name])
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
        failures=failures,
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


def _largest(changes: Sequence[float], spread: float) -> float | None:
    """Return the largest change; one from a number to none counts as from one end of the range to the other."""
    return min(max(changes), spread or 1.0) if changes and math.isinf(max(changes)) else max(changes, default=None)


def _reacts(name: str, scores: Scores, sampled: Sequence[ScoredGroup]) -> bool:
    by_row: dict[int, set[float | None]] = {}
    for (row, _), score in scores.items():
        if name not in score.failures:
            by_row.setdefault(row, set()).add(score.rewards[name])
    groups = [{member.score.rewards[name] for member in group.rollouts} for group in sampled]
    return any(len(values) > 1 for values in [*by_row.values(), *groups])


def probe_result(probe: Probe, trials: Trials, count: int) -> ProbeResult:
    scores = [trials.scores[row, probe.name] for row in range(count)]
    references = [trials.scores.get((row, REFERENCE)) for row in range(count)]
    pairs = [
        (score.sum, reference.sum)
        for score, reference in zip(scores, references, strict=True)
        if reference is not None and score.sum is not None and reference.sum is not None
    ]
    return ProbeResult(
        name=probe.name,
        meaning=probe.meaning,
        example=_shortened(" ".join(probe.texts[0].split())),
        total=_total_cell(scores),
        rewards={function.name: _cell(scores, function.name) for function in trials.bench.suite.functions},
        rows_at_least=sum(own >= right for own, right in pairs) / len(pairs) if pairs else None,
    )


def _shortened(text: str) -> str:
    """Return a text with its middle left out; an answer stands at the end."""
    if len(text) <= _SHOWN_CHARACTERS:
        return text
    return f"{text[: _SHOWN_CHARACTERS // 2]}…{text[-_SHOWN_CHARACTERS // 2 :]}"


def sample_result(suite: RewardSuite, sampled: Sequence[ScoredGroup]) -> SampleResult:
    spread = tuple(_has_spread(group) for group in sampled)
    scores = list(_members(sampled))
    best = [max(sums) for group in sampled if (sums := _sums(member.score for member in group.rollouts))]
    return SampleResult(
        group_size=len(sampled[0].rollouts),
        spread=spread,
        share=sum(spread) / len(spread),
        interval=_interval(sum(spread), len(spread)),
        total=_total_cell(scores),
        rewards={function.name: _cell(scores, function.name) for function in suite.functions},
        best=statistics.fmean(best) if best else None,
    )


def _has_spread(group: ScoredGroup) -> bool:
    """Return whether two completions of the group that have a reward differ in it, as a whole or in their tokens."""
    scores = [member.score for member in group.rollouts if member.score.total is not None]
    given = {reward for score in scores for reward in score.token_rewards or () if reward is not None}
    return len({score.total for score in scores}) > 1 or len(given) > 1


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


def _interval(hits: int, count: int) -> tuple[float, float]:
    """Return Wilson's 95% interval of a share."""
    share, square = hits / count, _Z95**2
    centre = share + square / (2 * count)
    half = _Z95 * math.sqrt(share * (1 - share) / count + square / (4 * count**2))
    return max(0.0, (centre - half) / (1 + square / count)), min(1.0, (centre + half) / (1 + square / count))
