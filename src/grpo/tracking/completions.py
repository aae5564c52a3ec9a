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
    `advantage`, `length` (tokens, the end token included), `finish_reason`; `failures` (by reward name,
    the exception) when there are any; `columns` (the row's other columns) when there are any;
    and the entries that reward functions logged for it, unless they have one of these names.

    Args:
        advantages: [P, G] float, one of each completion.
    """
    table = advantages.tolist() if hasattr(advantages, "tolist") else advantages
    return [
        _line(step, group.prompt, index, scored, advantage)
        for group, row in zip(scored_groups, table, strict=True)
        for index, (scored, advantage) in enumerate(zip(group.rollouts, row, strict=True))
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
        "length": len(scored.rollout.token_ids),
        "finish_reason": scored.rollout.finish_reason,
    }
    if scored.score.failures:
        line["failures"] = dict(scored.score.failures)
    if prompt.columns:
        line["columns"] = dict(prompt.columns)
    return line | {name: value for name, value in scored.logged.items() if name not in line}
