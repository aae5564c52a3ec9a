"""Groups of completions with made-up token ids."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest

from grpo.types import Group, Prompt, Rollout


def make_group(
    raw: str | Sequence[Mapping[str, str]],
    lengths: Sequence[int],
    columns: Mapping[str, Any] | None = None,
) -> Group:
    """Return a group whose completions have these lengths in tokens."""
    rollouts = tuple(
        Rollout(
            token_ids=tuple(range(10, 10 + length)),
            sampled=(True,) * length,
            logprobs=(0.0,) * length,
            finish_reason="stop",
            policy_version=0,
        )
        for length in lengths
    )
    return Group(Prompt(row=0, raw=raw, text=str(raw), token_ids=(1, 2), columns=columns or {}), rollouts)


@pytest.fixture
def group() -> Callable[..., Group]:
    return make_group
