"""A reward function of your own, in the signature that TRL users know.

    grpo train arithmetic rewards='[accuracy, {name: "examples/custom_reward.py:brevity", weight: 0.2}]'

A function is called with keyword arguments, each a list with one entry a completion: `prompts`, `completions`,
`completion_ids` and every column of the data set. It gets only the arguments that it names (TRL passes all of them, so
its functions end with `**_`). It returns one number a completion, or None where it does not apply. A function that
raises, hangs or returns NaN has failed; its reward never counts as 0.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any


def brevity(
    completions: Sequence[Any],
    completion_ids: Sequence[Sequence[int]],
    *,
    free_tokens: int = 32,
    longest: int = 128,
    log_metric: Callable[[str, float], None] | None = None,
    **_: Any,
) -> list[float | None]:
    """Reward short completions: 1 up to `free_tokens` tokens, falling to 0 at `longest`; None for an empty one."""
    lengths = [len(token_ids) for token_ids in completion_ids]
    if log_metric is not None:
        log_metric("longest_completion", max(lengths))
    rewards: list[float | None] = []
    for completion, length in zip(completions, lengths, strict=True):
        text = completion if isinstance(completion, str) else completion[-1]["content"]
        share = (longest - length) / (longest - free_tokens)
        rewards.append(min(1.0, max(0.0, share)) if text.strip() else None)
    return rewards


async def polite(completions: Sequence[Any], **_: Any) -> list[float]:
    """Reward completions with a polite word. The function is `async`, as one that calls a server would be."""
    texts = [completion if isinstance(completion, str) else completion[-1]["content"] for completion in completions]
    return [float(any(word in text.casefold() for word in ("please", "thank"))) for text in texts]
