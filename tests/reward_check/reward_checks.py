"""Rows, rewards and shortcuts that the tests of the reward check share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from grpo.reward_check import CheckReport, Finding, check_rewards
from grpo.rewards import resolve_rewards
from grpo.tasks import arithmetic_task, find_format
from grpo.types import FinishReason, Group, Prompt, Rollout

TAGS = find_format("answer_tags")
PLAIN = find_format("plain")


def sums(count: int = 16, **columns: Any) -> list[Prompt]:
    """Return the prompts of real rows."""
    task = arithmetic_task(train_size=count, eval_size=0, max_operand=12, operators="+-", answer_format=TAGS, seed=0)
    return [Prompt(row.number, row.prompt, str(row.prompt), (1, 2), {**row.columns, **columns}) for row in task.train]


def checked(*rewards: Any, rows: Sequence[Prompt] | None = None, **options: Any) -> CheckReport:
    settings = {"answer_format": TAGS, **options}
    return check_rewards(resolve_rewards(list(rewards)), sums() if rows is None else rows, **settings)


def found(report: CheckReport, code: str) -> Finding:
    matching = [finding for finding in report.findings if finding.code == code]
    assert matching, [finding.code for finding in report.findings]
    return matching[0]


def marked(text: str) -> str:
    return text.rpartition("<answer>")[2].partition("</answer>")[0].strip()


def rightness(completions, answer):
    return [1.0 * (marked(text) == right) for text, right in zip(completions, answer, strict=True)]


def sampled(rewards: Sequence[Sequence[float]], finish_reason: FinishReason = "stop") -> tuple[list[Group], list[str]]:
    """Return groups whose completions contain the reward that they should get."""
    rollout = Rollout((1,), (True,), (0.0,), finish_reason, 0)
    groups = [Group(row, (rollout,) * len(group)) for row, group in zip(sums(len(rewards)), rewards, strict=True)]
    return groups, [str(reward) for group in rewards for reward in group]


def cannot_read_everything(completions, answer):
    return [1.0 * (int(marked(text)) == int(right)) for text, right in zip(completions, answer, strict=True)]


def pays_for_length(completions):
    return [len(text) / 100 for text in completions]
