"""A reward function of your own, in the signature that TRL users know.

    grpo train arithmetic rewards='[accuracy, {name: "examples/custom_reward.py:answer_first", weight: 0.5}]'

A function is called with keyword arguments, each a list with one entry a completion: `prompts`, `completions`,
`completion_ids` and every column of the data set. It gets only the arguments that it names (TRL passes all of them, so
its functions end with `**_`). It returns one number a completion, or None where it does not apply. A function that
raises, hangs or returns NaN has failed; its reward never counts as 0.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any


def answer_first(
    completions: Sequence[Any],
    completion_ids: Sequence[Sequence[int]],
    *,
    opening: str = "<answer>",
    log_metric: Callable[[str, float], None] | None = None,
    **_: Any,
) -> list[float | None]:
    """Reward completions that begin with `opening`: 1, else 0; None for an empty completion."""
    if log_metric is not None:
        log_metric("longest_completion", max(map(len, completion_ids)))
    texts = [completion if isinstance(completion, str) else completion[-1]["content"] for completion in completions]
    return [float(text.startswith(opening)) if text.strip() else None for text in texts]


async def polite(completions: Sequence[Any], **_: Any) -> list[float]:
    """Reward completions with a polite word. The function is `async`, as one that calls a server would be."""
    texts = [completion if isinstance(completion, str) else completion[-1]["content"] for completion in completions]
    return [float(any(word in text.casefold() for word in ("please", "thank"))) for text in texts]
