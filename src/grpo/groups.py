"""Scored groups → the tensors that advantages are made of, and the figures that a step logs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from grpo.algorithm import Combine, Method, group_advantages, weighted_advantages
from grpo.types import ScoredGroup

__all__ = [
    "Description",
    "Truncated",
    "completion_advantages",
    "counted_completions",
    "describe_groups",
    "groups_with_spread",
    "reward_parts",
    "reward_tensors",
    "step_reward_tensor",
]

Truncated: TypeAlias = Literal["keep", "mask"]
"""What becomes of completions that ran out of tokens; `mask` leaves them out of the loss (arXiv:2503.14476 §3.4)."""


def reward_tensors(groups: Sequence[ScoredGroup]) -> tuple[Tensor, Tensor]:
    """Return total rewards [P, G] float32 (0 where there is none) and which of them are there, [P, G] bool."""
    totals = [[rollout.score.total for rollout in group.rollouts] for group in groups]
    valid = torch.tensor([[total is not None for total in row] for row in totals])
    rewards = torch.tensor([[0.0 if total is None else total for total in row] for row in totals])
    return rewards, valid


def reward_parts(groups: Sequence[ScoredGroup]) -> tuple[Tensor, Tensor, Tensor]:
    """Return each reward apart, [P, G, K] float32 (0 where there is none), which are there, [P, G, K], and weights [K].

    Rewards are those of whole completions, as gates let them count. A completion without total has none of them.
    """
    scores = [[member.score for member in group.rollouts] for group in groups]
    weights = {name: weight for row in scores for score in row for name, (weight, _) in score.counted.items()}
    rewards = torch.zeros(len(groups), len(groups[0].rollouts), len(weights))
    valid = torch.zeros_like(rewards, dtype=torch.bool)
    for p, row in enumerate(scores):
        for g, score in enumerate(row):
            for k, name in enumerate(weights):
                if score.total is not None and name in score.counted:
                    rewards[p, g, k], valid[p, g, k] = score.counted[name][1], True
    return rewards, valid, torch.tensor(list(weights.values()))


def completion_advantages(groups: Sequence[ScoredGroup], method: Method) -> Tensor:
    """Return the advantage of each completion by the method's scale, baseline and way to combine, [P, G] float32."""
    if method.combine == "normalise":
        return method.combined_advantages(*reward_parts(groups))
    return method.group_advantages(*reward_tensors(groups))


def step_reward_tensor(groups: Sequence[ScoredGroup]) -> Tensor | None:
    """Return per-token rewards [P, G, T] with NaN where a token has none; None when no completion has any."""
    scores = [[rollout.score for rollout in group.rollouts] for group in groups]
    if all(score.token_rewards is None for row in scores for score in row):
        return None
    longest = max(len(rollout.rollout.token_ids) for group in groups for rollout in group.rollouts)
    tensor = torch.full((len(groups), len(groups[0].rollouts), longest), float("nan"))
    for p, row in enumerate(scores):
        for g, score in enumerate(row):
            for t, reward in enumerate(score.token_rewards or ()):
                if reward is not None and score.total is not None:
                    tensor[p, g, t] = reward
    return tensor


def counted_completions(groups: Sequence[ScoredGroup], truncated: Truncated) -> Tensor:
    """Return whether the loss counts a completion, [P, G] bool."""
    return torch.tensor(
        [
            [truncated == "keep" or member.rollout.finish_reason != "length" for member in group.rollouts]
            for group in groups
        ]
    )


def groups_with_spread(
    groups: Sequence[ScoredGroup], *, truncated: Truncated = "keep", combine: Combine = "sum"
) -> Tensor:
    """Return whether a group has a gradient, [P] bool.

    That is whether a completion that the loss counts differs from the mean of its group in reward, as a whole
    or in its tokens; with `normalise`, in the weighted sum of its advantages by each reward. What is masked out
    counts in that mean, but has no gradient of its own.
    """
    if combine == "normalise":
        differs = weighted_advantages(*reward_parts(groups)) != 0
    else:
        differs = group_advantages(*reward_tensors(groups), scale="none") != 0
    step_rewards = step_reward_tensor(groups)
    if step_rewards is not None:
        given = ~step_rewards.isnan()
        of_tokens = group_advantages(step_rewards.flatten(1), given.flatten(1), scale="none")
        differs |= (of_tokens != 0).view_as(given).any(dim=-1)
    return (differs & counted_completions(groups, truncated)).any(dim=-1)


@dataclass(frozen=True, slots=True)
class Description:
    """Figures of a step's completions: how many tokens they have, and means to log."""

    num_tokens: int
    metrics: Mapping[str, float]


def describe_groups(groups: Sequence[ScoredGroup]) -> Description:
    """Return mean and deviation of the rewards, mean length and the share that ran out of tokens."""
    sums = [scored.score.sum for group in groups for scored in group.rollouts]
    numbers = torch.tensor([value for value in sums if value is not None])
    rollouts = [scored.rollout for group in groups for scored in group.rollouts]
    num_tokens = sum(len(rollout.token_ids) for rollout in rollouts)
    metrics = {
        "completion_length": num_tokens / len(rollouts),
        "truncated_share": sum(rollout.finish_reason == "length" for rollout in rollouts) / len(rollouts),
    }
    if len(numbers) > 0:
        metrics = {"reward": float(numbers.mean()), "reward_std": float(numbers.std(correction=0)), **metrics}
    return Description(num_tokens, metrics)
