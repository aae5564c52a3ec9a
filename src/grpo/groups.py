"""Scored groups → the tensors that advantages are made of, and the figures that a step logs.

Groups may have different numbers of completions, since an environment may fail. Tensors [P, G] have one column for each
completion of the largest group; a missing completion is not valid, has no tokens and is in no count.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Literal, TypeAlias

import numpy
import torch
from torch import Tensor

from grpo.algorithm import Combine, Method, SumOverRanks, group_advantages, on_one_rank, weighted_advantages
from grpo.types import Rollout, ScoredGroup

__all__ = [
    "CompletionFigures",
    "Truncated",
    "completion_advantages",
    "counted_completions",
    "describe_groups",
    "find_zero_variance_groups",
    "reward_parts",
    "reward_tensors",
    "rollout_lengths",
    "sampled_tokens",
    "step_reward_tensor",
]

Truncated: TypeAlias = Literal["keep", "mask"]
"""Treatment of completions that ran out of tokens; `mask` leaves them out of the loss (arXiv:2503.14476 §3.4)."""


def reward_tensors(groups: Sequence[ScoredGroup]) -> tuple[Tensor, Tensor]:
    """Return total rewards [P, G] float32 (0 where there is none) and which of them are there, [P, G] bool."""
    totals = [[member.score.total for member in group.rollouts] for group in groups]
    valid = _table([[total is not None for total in row] for row in totals], torch.bool)
    rewards = _table([[0.0 if total is None else total for total in row] for row in totals], torch.float32)
    return rewards, valid


def reward_parts(groups: Sequence[ScoredGroup]) -> tuple[Tensor, Tensor, Tensor]:
    """Return each reward apart, [P, G, K] float32 (0 where there is none), which are there, [P, G, K], and weights [K].

    Rewards are those of whole completions, as gates let them count. A completion without total has none of them.
    """
    scores = [[member.score for member in group.rollouts] for group in groups]
    weights = {name: weight for row in scores for score in row for name, (weight, _) in score.counted.items()}
    rewards = torch.zeros(len(groups), _width(scores), len(weights))
    valid = torch.zeros_like(rewards, dtype=torch.bool)
    for p, row in enumerate(scores):
        for g, score in enumerate(row):
            for k, name in enumerate(weights):
                if score.total is not None and name in score.counted:
                    rewards[p, g, k], valid[p, g, k] = score.counted[name][1], True
    return rewards, valid, torch.tensor(list(weights.values()))


def completion_advantages(
    groups: Sequence[ScoredGroup], method: Method, *, sum_over_ranks: SumOverRanks = on_one_rank
) -> Tensor:
    """Return the advantage of each completion by the method's scale, baseline and way to combine, [P, G] float32."""
    if method.combine == "normalise":
        return method.combined_advantages(*reward_parts(groups), sum_over_ranks=sum_over_ranks)
    return method.group_advantages(*reward_tensors(groups), sum_over_ranks=sum_over_ranks)


def rollout_lengths(groups: Sequence[ScoredGroup]) -> Tensor:
    """Return the number of tokens after the prompt, sampled or not, [P, G] long; 0 for a missing completion."""
    return _table([[len(member.rollout.token_ids) for member in group.rollouts] for group in groups], torch.long)


def sampled_tokens(groups: Sequence[ScoredGroup]) -> Tensor:
    """Return which tokens the policy sampled, [P, G, T] bool; False for tokens of an environment and past the end."""
    lengths = rollout_lengths(groups)
    inside = torch.arange(int(lengths.max()) if lengths.numel() else 0) < lengths.unsqueeze(-1)
    flat = chain.from_iterable(rollout.sampled for rollout in _rollouts(groups))
    sampled = torch.zeros(inside.shape, dtype=torch.bool)
    sampled[inside] = torch.from_numpy(numpy.fromiter(flat, numpy.bool_, int(lengths.sum())))
    return sampled


def step_reward_tensor(groups: Sequence[ScoredGroup]) -> Tensor | None:
    """Return per-token rewards [P, G, T] with NaN where a token has none; None when no completion has any."""
    scores = [[member.score for member in group.rollouts] for group in groups]
    if all(score.token_rewards is None for row in scores for score in row):
        return None
    longest = max(len(rollout.token_ids) for rollout in _rollouts(groups))
    tensor = torch.full((len(groups), _width(scores), longest), float("nan"))
    for p, row in enumerate(scores):
        for g, score in enumerate(row):
            for t, reward in enumerate(score.token_rewards or ()):
                if reward is not None and score.total is not None:
                    tensor[p, g, t] = reward
    return tensor


def counted_completions(groups: Sequence[ScoredGroup], truncated: Truncated) -> Tensor:
    """Return whether the loss counts a completion, [P, G] bool."""
    return _table(
        [
            [truncated == "keep" or member.rollout.finish_reason != "length" for member in group.rollouts]
            for group in groups
        ],
        torch.bool,
    )


def find_zero_variance_groups(
    groups: Sequence[ScoredGroup], *, truncated: Truncated = "keep", combine: Combine = "sum"
) -> Tensor:
    """Return whether a group has no gradient but that of the KL term, [P] bool.

    A group has a gradient if a completion that the loss counts differs from the mean of its group in reward, as a
    whole or in its tokens; with `normalise`, if the weighted sum of its advantages by each reward is not 0. A
    masked-out completion counts in that mean, but has no gradient of its own.
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
    return ~(differs & counted_completions(groups, truncated)).any(dim=-1)


@dataclass(frozen=True, slots=True)
class CompletionFigures:
    """Figures of a step's completions as sums and counts: those of two processes add up (`+`).

    Attributes:
        rewards: of each completion that has one.
        num_completions: those without a reward included.
        num_tokens: tokens that the policy sampled.
        num_truncated: completions that ran out of tokens.
        num_groups: groups of the step.
        num_zero_variance: those without a gradient (`find_zero_variance_groups`).
    """

    rewards: tuple[float, ...]
    num_completions: int
    num_tokens: int
    num_truncated: int
    num_groups: int
    num_zero_variance: int

    def __add__(self, other: CompletionFigures) -> CompletionFigures:
        """Return the figures of both processes together."""
        return CompletionFigures(
            self.rewards + other.rewards,
            self.num_completions + other.num_completions,
            self.num_tokens + other.num_tokens,
            self.num_truncated + other.num_truncated,
            self.num_groups + other.num_groups,
            self.num_zero_variance + other.num_zero_variance,
        )

    def means(self) -> Mapping[str, float]:
        """Return the metrics to log.

        Mean and standard deviation (ddof 1) of the rewards, mean length, shares of completions that were cut off and
        of groups without a gradient.
        """
        metrics = {
            "completion_length": self.num_tokens / max(1, self.num_completions),
            "truncated_share": self.num_truncated / max(1, self.num_completions),
            "zero_variance_groups": self.num_zero_variance / max(1, self.num_groups),
        }
        if not self.rewards:
            return metrics
        rewards = torch.tensor(self.rewards)
        deviation = float(rewards.std()) if len(rewards) > 1 else 0.0
        return {"reward": float(rewards.mean()), "reward_std": deviation, **metrics}


def describe_groups(groups: Sequence[ScoredGroup], zero_variance: Tensor) -> CompletionFigures:
    """Return figures of a step's completions.

    Args:
        zero_variance: [P] bool, as `find_zero_variance_groups` returns it.
    """
    sums = [member.score.sum for group in groups for member in group.rollouts]
    rollouts = list(_rollouts(groups))
    return CompletionFigures(
        rewards=tuple(value for value in sums if value is not None),
        num_completions=len(rollouts),
        num_tokens=sum(sum(rollout.sampled) for rollout in rollouts),
        num_truncated=sum(rollout.finish_reason == "length" for rollout in rollouts),
        num_groups=len(groups),
        num_zero_variance=int(zero_variance.sum()),
    )


def _rollouts(groups: Sequence[ScoredGroup]) -> Iterable[Rollout]:
    return (member.rollout for group in groups for member in group.rollouts)


def _width(rows: Sequence[Sequence[object]]) -> int:
    """Return G: the number of completions in the largest group, at least 1."""
    return max(1, max(map(len, rows), default=0))


def _table(rows: Sequence[Sequence[float]], dtype: torch.dtype) -> Tensor:
    """Return rows of different lengths as a tensor [P, G], filled up with 0."""
    width = _width(rows)
    filled = [[*row, *[0] * (width - len(row))] for row in rows]
    return torch.tensor(filled, dtype=dtype).reshape(len(rows), width)
