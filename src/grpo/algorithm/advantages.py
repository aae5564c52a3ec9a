"""Advantages: a completion's reward relative to its group, and its distribution over the completion's tokens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypeAlias

import torch
from torch import Tensor

__all__ = [
    "Baseline",
    "Combine",
    "Scale",
    "SumOverRanks",
    "combined_advantages",
    "group_advantages",
    "has_variance",
    "on_one_rank",
    "token_advantages",
    "weighted_advantages",
]

Scale: TypeAlias = Literal["group", "batch", "whiten", "none"]
"""Divisor of a centred reward.

- `group`: the standard deviation of its group's rewards (GRPO, arXiv:2402.03300);
- `batch`: the standard deviation of all rewards of the step (arXiv:2508.08221);
- `whiten`: the standard deviation of all *advantages* of the step, so that they have unit variance;
- `none`: 1 (Dr. GRPO, arXiv:2503.20783).
"""

Baseline: TypeAlias = Literal["mean", "leave_one_out"]
"""The baseline that is subtracted from a reward.

- `mean`: the mean of its group;
- `leave_one_out`: the mean of the others in its group (RLOO, arXiv:2402.14740).
"""

Combine: TypeAlias = Literal["sum", "normalise"]
"""Way to make one advantage of several rewards.

- `sum`: `group_advantages` of their weighted sum;
- `normalise`: each becomes an advantage by itself, and these are added up (GDPO, arXiv:2601.05242).
"""

SumOverRanks: TypeAlias = Callable[[Tensor], Tensor]
"""Adds up a tensor of sums or counts over the ranks that share a step; all ranks call it equally often."""


def on_one_rank(total: Tensor) -> Tensor:
    """Return the total as it is: this rank has the whole step."""
    return total


def group_advantages(
    rewards: Tensor,
    valid: Tensor,
    *,
    scale: Scale = "group",
    baseline: Baseline = "mean",
    epsilon: float = 1e-4,
    sum_over_ranks: SumOverRanks = on_one_rank,
) -> Tensor:
    """Return the advantage of each completion, [P, G] float32.

    Standard deviations have ddof = 1. A completion that is not valid has advantage 0 and enters no mean and
    no deviation. The only valid completion of a group has advantage 0. A group whose rewards are all equal has
    advantages of exactly 0; without that rule, the rounding of its mean divided by `epsilon` would remain.

    Args:
        rewards: [P, G] float; anything, NaN included, where `valid` is False.
        valid: [P, G] bool; False where the reward failed or is missing.
        epsilon: added to the standard deviation.
        sum_over_ranks: for deviations over the step, `batch` and `whiten`.

    Example:
        >>> rewards = torch.tensor([[1.0, 3.0, float("nan")], [5.0, 5.0, 5.0]])
        >>> group_advantages(rewards, ~rewards.isnan(), scale="none").tolist()
        [[-1.0, 1.0, 0.0], [0.0, 0.0, 0.0]]
        >>> group_advantages(rewards, ~rewards.isnan(), scale="none", baseline="leave_one_out").tolist()
        [[-2.0, 2.0, 0.0], [0.0, 0.0, 0.0]]
    """
    rewards = torch.where(valid, rewards, 0.0).float()
    compared = valid & has_variance(rewards, valid).unsqueeze(1)
    count = valid.sum(dim=1, keepdim=True)
    mean = rewards.sum(dim=1, keepdim=True) / count.clamp(min=1)
    advantages = torch.where(compared, rewards - mean, 0.0)
    if baseline == "leave_one_out":
        advantages = advantages * count / (count - 1).clamp(min=1)
    if scale == "group":
        return advantages / (_deviation_in_group(rewards, valid) + epsilon)
    if scale == "batch":
        return advantages / (_deviation_in_step(rewards, valid, sum_over_ranks) + epsilon)
    if scale == "whiten":
        return advantages / (_deviation_in_step(advantages, valid & (count > 1), sum_over_ranks) + epsilon)
    return advantages


def combined_advantages(
    rewards: Tensor,
    valid: Tensor,
    weights: Tensor,
    *,
    baseline: Baseline = "mean",
    epsilon: float = 1e-4,
    sum_over_ranks: SumOverRanks = on_one_rank,
) -> Tensor:
    """Return the advantage of each completion from several rewards of it, [P, G] float32.

    That is `weighted_advantages` divided by their standard deviation over the batch (ddof = 1, over completions with
    any reward). GDPO (arXiv:2601.05242) subtracts their mean over the batch first. It is 0, since each reward's
    advantages add up to 0 in each group, and to leave it out keeps a zero-variance group at exactly 0.

    Args:
        rewards: [P, G, K] float; anything, NaN included, where `valid` is False.
        valid: [P, G, K] bool; False where a reward is missing, and for all K of a completion that failed.
        weights: [K] float.
        baseline: the baseline subtracted from each reward.
        epsilon: added to standard deviations.
        sum_over_ranks: for the deviation over the step.

    Example:
        >>> rewards = torch.tensor([[[1.0, 0.0], [0.0, 0.0]], [[0.0, 9.0], [0.0, 0.0]]])
        >>> advantages = combined_advantages(rewards, ~rewards.isnan(), torch.ones(2))
        >>> [[round(advantage, 2) for advantage in group] for group in advantages.tolist()]
        [[0.87, -0.87], [0.87, -0.87]]
    """
    advantages = weighted_advantages(rewards, valid, weights, baseline=baseline, epsilon=epsilon)
    return advantages / (_deviation_in_step(advantages, valid.any(dim=-1), sum_over_ranks) + epsilon)


def weighted_advantages(
    rewards: Tensor, valid: Tensor, weights: Tensor, *, baseline: Baseline = "mean", epsilon: float = 1e-4
) -> Tensor:
    """Return Σ_k w_k · A_k, [P, G] float32, where A_k are the advantages by the k-th reward alone.

    Each is divided by the standard deviation of its own group. Arguments as in `combined_advantages`.
    """
    total = torch.zeros(rewards.shape[:2], device=rewards.device)
    for k, weight in enumerate(weights.tolist()):
        total = total + weight * group_advantages(rewards[..., k], valid[..., k], baseline=baseline, epsilon=epsilon)
    return total


def has_variance(rewards: Tensor, valid: Tensor) -> Tensor:
    """Return for each group whether two of its valid completions differ in reward, [P] bool.

    A zero-variance group has no gradient but that of the KL term. Arguments as in `group_advantages`.
    """
    highest = rewards.masked_fill(~valid, -torch.inf).amax(dim=1)
    lowest = rewards.masked_fill(~valid, torch.inf).amin(dim=1)
    return highest > lowest


def token_advantages(
    advantages: Tensor,
    lengths: Tensor,
    *,
    sampled: Tensor | None = None,
    gamma: float = 1.0,
    step_rewards: Tensor | None = None,
    valid: Tensor | None = None,
    scale: Scale = "group",
    epsilon: float = 1e-4,
    sum_over_ranks: SumOverRanks = on_one_rank,
) -> Tensor:
    """Return the advantage of each token, [P, G, T] float32, 0 past a completion's end and where it was not sampled.

    The completion's advantage A is a reward on its last token: token t of n gets γ^(n-1-t) · A. Step
    rewards are normalised over all step rewards of the group, and token t gets the discounted sum
    Σ_{k≥t} γ^(k-t) · r̃_k of those at and after it besides (process supervision, arXiv:2402.03300 §4.1.3,
    which has no γ and no outcome reward beside the steps'). With γ = 1 and no step rewards every
    token has A. Only sampled tokens count in the exponents of γ; a step reward on a token of an
    environment goes to the sampled tokens before it.

    Args:
        advantages: [P, G] float32, as `group_advantages` returns them.
        lengths: [P, G] long; tokens in each completion.
        sampled: [P, G, T] bool; False where an environment wrote the token. None: all tokens were sampled.
        gamma: γ in [0, 1].
        step_rewards: [P, G, T] float; NaN where no reward was given to the token. Without them T is
            the greatest of `lengths`.
        valid: [P, G] bool; step rewards of a completion that is not valid are left out.
        scale: as in `group_advantages`, over step rewards instead of totals; so is `sum_over_ranks`.

    Example:
        >>> token_advantages(torch.tensor([[1.0, -2.0]]), torch.tensor([[3, 1]]), gamma=0.5).tolist()
        [[[0.25, 0.5, 1.0], [-2.0, 0.0, 0.0]]]
    """
    num_tokens = max(lengths.flatten().tolist(), default=0) if step_rewards is None else step_rewards.shape[2]
    inside = torch.arange(num_tokens, device=lengths.device) < lengths.unsqueeze(-1)
    sampled = inside if sampled is None else sampled & inside
    tokens_after = sampled.sum(dim=-1, keepdim=True) - sampled.cumsum(dim=-1)
    credit = advantages.unsqueeze(-1) * torch.full_like(tokens_after, gamma, dtype=torch.float32).pow(
        tokens_after.clamp(min=0)
    )
    if step_rewards is not None:
        rewarded = inside & ~step_rewards.isnan()
        if valid is not None:
            rewarded &= valid.unsqueeze(-1)
        normalised = group_advantages(
            step_rewards.flatten(1), rewarded.flatten(1), scale=scale, epsilon=epsilon, sum_over_ranks=sum_over_ranks
        )
        credit = credit + _discounted_sum_to_come(normalised.view_as(step_rewards), sampled, gamma)
    return torch.where(sampled, credit, 0.0)


def _deviation_in_group(values: Tensor, counted: Tensor) -> Tensor:
    """Return the standard deviation (ddof = 1) of each row's counted values, [P, 1]; 0 for fewer than two."""
    return _standard_deviation(values, counted, on_one_rank)


def _deviation_in_step(values: Tensor, counted: Tensor, sum_over_ranks: SumOverRanks) -> Tensor:
    """Return the standard deviation (ddof = 1) of the counted values of all rows and ranks, [1, 1]; 0 for fewer than
    two."""
    return _standard_deviation(values.reshape(1, -1), counted.reshape(1, -1), sum_over_ranks)


def _standard_deviation(values: Tensor, counted: Tensor, sum_over_ranks: SumOverRanks) -> Tensor:
    count = sum_over_ranks(counted.sum(dim=1, keepdim=True))
    mean = sum_over_ranks(torch.where(counted, values, 0.0).sum(dim=1, keepdim=True)) / count.clamp(min=1)
    squares = sum_over_ranks(torch.where(counted, (values - mean).square(), 0.0).sum(dim=1, keepdim=True))
    return (squares / (count - 1).clamp(min=1)).sqrt()


def _discounted_sum_to_come(rewards: Tensor, sampled: Tensor, gamma: float) -> Tensor:
    """Return Σ_{k≥t} γ^n · rewards_k for each t of the last axis, where n sampled tokens lie in t+1 … k."""
    if gamma == 1.0:
        return rewards.flip(-1).cumsum(-1).flip(-1)
    sums = torch.empty_like(rewards)
    running = torch.zeros_like(rewards[..., 0])
    for position in reversed(range(rewards.shape[-1])):
        running = rewards[..., position] + running
        sums[..., position] = running
        running = torch.where(sampled[..., position], gamma * running, running)
    return sums
