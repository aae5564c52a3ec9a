"""The text that `grpo reward check` prints."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from grpo.cli.printing import aligned
from grpo.plurals import counted
from grpo.reward_check import Cell, CheckReport, Finding, RewardResult, SampleResult

__all__ = ["report_text"]

_WIDTH = 100
_JUNK_PAYS = ("not-told-apart", "pays-in-some-rows")


def report_text(report: CheckReport) -> str:
    """Return the report for a terminal: rewards of each probe, repeatability and speed, findings, and the verdict."""
    parts = [_scores(report), _behaviour(report.rewards, report.repeats)]
    if report.samples is not None:
        parts.append(_forecast(report.samples))
    parts += [_finding(finding) for finding in report.findings]
    return "\n\n".join([*parts, _verdict(report)])


def _scores(report: CheckReport) -> str:
    names = [reward.name for reward in report.rewards]
    lines = [["", "total", *names]]
    lines += [
        [probe.name, _cell(probe.total), *(_cell(probe.rewards[name]) for name in names)] for probe in report.probes
    ]
    if report.samples is not None:
        sampled = report.samples
        lines.append(["sampled now", _cell(sampled.total), *(_cell(sampled.rewards[name]) for name in names)])
    compared = (
        f"right answers from the column {report.reference_column!r}"
        if report.reference_column is not None
        else "the rows have no right answers"
    )
    head = f"Rewards of the probes: mean (lowest … highest) over {counted(report.rows, 'row')}; {compared}"
    marks = "✗: number of texts on which it failed; –: does not apply; total: weighted, as at the end of the run"
    return "\n".join([head, *_table(lines), f"  {marks}"])


def _behaviour(rewards: Sequence[RewardResult], repeats: int) -> str:
    costs = ("ms each", "s a call: median, p95, longest", "s a step")
    lines = [["", f"called {counted(repeats, 'time')}", "other order", "by itself", *costs]]
    for reward in rewards:
        calls = f"{reward.median_s:.2g}, {reward.p95_s:.2g}, {reward.longest_s:.2g}"
        changes = (reward.repeat_change, reward.order_change, reward.batch_change)
        size = max(1.0, abs(reward.highest or 0.0), abs(reward.lowest or 0.0))
        changed = [_change(change, size) for change in changes]
        lines.append([reward.name, *changed, f"{reward.completion_ms:.2g}", calls, f"{reward.step_s:.2g}"])
    return "\n".join(["Repeatability and speed of the rewards", *_table(lines)])


def _forecast(samples: SampleResult) -> str:
    low, high = samples.interval
    return (
        f"Forecast: rewards differ in {sum(samples.spread)} of {counted(len(samples.spread), 'sampled group')} of "
        f"{samples.group_size}, so training can learn from about {samples.share:.0%} of the groups of a step "
        f"(95% interval {low:.0%} to {high:.0%})"
    )


def _finding(finding: Finding) -> str:
    head = f"{finding.severity.upper()} {finding.code}: {finding.message}"
    lines = [("", head, "  ")]
    for label, text in (("  What it means: ", finding.meaning), ("  What to do:    ", finding.advice)):
        lines.append((label, text, " " * len(label)))
    return "\n".join(
        textwrap.fill(
            text, _WIDTH, initial_indent=first, subsequent_indent=rest, break_long_words=False, break_on_hyphens=False
        )
        for first, text, rest in lines
    )


def _verdict(report: CheckReport) -> str:
    problems, warnings = len(report.problems), len(report.findings) - len(report.problems)
    and_warnings = f", {counted(warnings, 'warning')}" if warnings else ""
    if report.passed:
        compared = ", but no right answer was tried"
        if report.has_right_answers:
            pays = any(finding.code in _JUNK_PAYS for finding in report.findings)
            compared = "" if pays else ", no junk earns as much as the right answer"
        return f"passed: no reward is broken{compared}{and_warnings}"
    return f"FAILED: {counted(problems, 'problem')}{and_warnings}"


def _cell(cell: Cell) -> str:
    failed = f"✗{cell.failed}" if cell.failed else ""
    if cell.mean is None:
        return failed or "–"
    text = f"{cell.mean:.3g}"
    if cell.lowest != cell.highest:
        text += f" ({cell.lowest:.3g} … {cell.highest:.3g})"
    return f"{text} {failed}".strip()


def _change(change: float | None, size: float) -> str:
    """Return a change of a reward whose values have this size; a change within float32 rounding is "same"."""
    if change is None:
        return "–"
    return "same" if change <= 1e-6 * size else f"±{change:.2g}"


def _table(lines: Sequence[Sequence[str]]) -> list[str]:
    return [f"  {line}" for line in aligned(lines)]
