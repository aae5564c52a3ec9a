"""Scored groups as lines of `completions.jsonl`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from grpo.types import Prompt, ScoredGroup, ScoredRollout

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["completion_lines"]


def completion_lines(
    step: int, scored_groups: Sequence[ScoredGroup], advantages: Tensor | Sequence[Sequence[float]]
) -> list[dict[str, Any]]:
    """Return one object a completion, group by group.

    Each has `step`, `row` (of the prompt in the data), `index` (in its group), `prompt` (as the row had it),
    `completion` (text), `rewards` (by name, before weighting; null when not applicable or failed), `total`,
    `advantage`, `length` (tokens that the policy sampled, end tokens included), `finish_reason`; `messages` (the turns
    after the prompt) and `environment` (its info) of an episode with several turns; `failures` (by reward name,
    the exception) when there are any; `columns` (the row's other columns) when there are any;
    and the entries that reward functions logged for it, unless they have one of these names.

    Args:
        advantages: [P, G] float, of each completion; G is the size of the largest group.
    """
    table = advantages.tolist() if hasattr(advantages, "tolist") else advantages
    width = max((1, *(len(group.rollouts) for group in scored_groups)))
    return [
        _line(step, group.prompt, index, group.rollouts[index], advantage)
        for group, row in zip(scored_groups, table, strict=True)
        for index, advantage in zip(range(width), row, strict=True)
        if index < len(group.rollouts)
    ]


def _line(step: int, prompt: Prompt, index: int, scored: ScoredRollout, advantage: float) -> dict[str, Any]:
    raw = prompt.raw
    line: dict[str, Any] = {
        "step": step,
        "row": prompt.row,
        "index": index,
        "prompt": raw if isinstance(raw, str) else [dict(message) for message in raw],
        "completion": scored.text,
        "rewards": dict(scored.score.rewards),
        "total": scored.score.sum,
        "advantage": advantage,
        "length": sum(scored.rollout.sampled),
        "finish_reason": scored.rollout.finish_reason,
    }
    if scored.rollout.messages:
        line["messages"] = [dict(message) for message in scored.rollout.messages]
    if scored.rollout.info:
        line["environment"] = dict(scored.rollout.info)
    if scored.score.failures:
        line["failures"] = dict(scored.score.failures)
    if prompt.columns:
        line["columns"] = dict(prompt.columns)
    return line | {name: value for name, value in scored.logged.items() if name not in line}
