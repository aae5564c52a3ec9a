"""Scored groups → the advantages of a step's completions and of their tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from grpo.algorithm import Method, token_advantages
from grpo.distributed import Processes
from grpo.groups import (
    Truncated,
    completion_advantages,
    find_zero_variance_groups,
    reward_tensors,
    rollout_lengths,
    sampled_tokens,
    step_reward_tensor,
)
from grpo.types import ScoredGroup

__all__ = ["StepAdvantages", "step_advantages"]


@dataclass(frozen=True, slots=True)
class StepAdvantages:
    """Advantages of a step's completions.

    Attributes:
        per_completion: [P, G] float32; 0 for a missing completion.
        per_token: [P, G, T] float32; 0 where the policy did not sample the token.
        has_gradient: [P] bool, False for a zero-variance group.
    """

    per_completion: Tensor
    per_token: Tensor
    has_gradient: Tensor


def step_advantages(
    groups: Sequence[ScoredGroup], method: Method, *, gamma: float, truncated: Truncated, processes: Processes
) -> StepAdvantages:
    """Return the advantages of this rank's groups; a deviation over the step is one over the groups of all ranks."""
    _, valid = reward_tensors(groups)
    lengths = rollout_lengths(groups)
    per_completion = completion_advantages(groups, method, sum_over_ranks=processes.sum)
    step_rewards = step_reward_tensor(groups)
    # Ranks without such rewards take part in the deviation over all of them.
    if processes.any(step_rewards is not None) and step_rewards is None:
        step_rewards = torch.full((*lengths.shape, int(lengths.max())), torch.nan)
    per_token = token_advantages(
        per_completion,
        lengths,
        sampled=sampled_tokens(groups),
        gamma=gamma,
        step_rewards=step_rewards,
        valid=valid,
        scale=method.scale,
        sum_over_ranks=processes.sum,
    )
    zero_variance = find_zero_variance_groups(groups, truncated=truncated, combine=method.combine)
    return StepAdvantages(per_completion, per_token, ~zero_variance)
