from __future__ import annotations

from collections.abc import Mapping

import torch

from grpo.algorithm import METHODS, combined_advantages, group_advantages
from grpo.groups import (
    completion_advantages,
    groups_with_spread,
    reward_parts,
    reward_tensors,
)
from grpo.types import FinishReason, Prompt, Rollout, Score, ScoredGroup, ScoredRollout


def scored_group(*completions: tuple[float | None, FinishReason]) -> ScoredGroup:
    """A group of one-token completions with these rewards and ends."""
    return ScoredGroup(
        Prompt(0, "", "", (5,), {}),
        tuple(
            ScoredRollout(Rollout((7,), (True,), (-1.0,), reason, 0), "", Score({}, {}, reward))
            for reward, reason in completions
        ),
    )


def test_a_group_has_spread_if_a_completion_that_the_loss_counts_has_an_advantage() -> None:
    groups = [
        scored_group((0.0, "length"), (1.0, "stop"), (1.0, "stop")),
        scored_group((0.0, "length"), (1.0, "stop"), (2.0, "length")),
        scored_group((0.0, "length"), (2.0, "length"), (2.0, "length")),
        scored_group((0.0, "stop"), (1.0, "stop"), (None, "stop")),
        scored_group((1.0, "stop"), (1.0, "stop"), (1.0, "length")),
    ]
    assert groups_with_spread(groups).tolist() == [True, True, True, True, False]
    # The first keeps two completions above the group's mean, the second one that equals it, the third none.
    assert groups_with_spread(groups, truncated="mask").tolist() == [True, False, False, True, False]


def parts_group(*completions: Mapping[str, tuple[float, float]] | None) -> ScoredGroup:
    """A group of one-token completions with these weights and rewards by name; None: it failed."""
    return ScoredGroup(
        Prompt(0, "", "", (5,), {}),
        tuple(
            ScoredRollout(
                Rollout((7,), (True,), (-1.0,), "stop", 0),
                "",
                Score({}, {}, None if parts is None else sum(w * r for w, r in parts.values()), None, parts or {}),
            )
            for parts in completions
        ),
    )


def test_rewards_apart_have_their_weights_and_leave_out_what_failed_or_does_not_apply() -> None:
    groups = [
        parts_group({"a": (2.0, 1.0), "b": (0.5, 4.0)}, None),
        parts_group({"b": (0.5, 3.0)}, {"c": (0.0, 7.0), "a": (2.0, 5.0)}),
    ]
    rewards, valid, weights = reward_parts(groups)
    assert weights.tolist() == [2.0, 0.5, 0.0]
    assert valid.tolist() == [[[True, True, False], [False] * 3], [[False, True, False], [True, False, True]]]
    assert rewards.tolist() == [[[1.0, 4.0, 0.0], [0.0] * 3], [[0.0, 3.0, 0.0], [5.0, 0.0, 7.0]]]


def test_the_two_ways_to_combine_rewards_disagree_about_spread() -> None:
    groups = [
        # The totals are equal, but each reward by itself differs, and one weighs more.
        parts_group({"a": (1.0, 1.0), "b": (0.5, 0.0)}, {"a": (1.0, 0.0), "b": (0.5, 2.0)}),
        parts_group({"a": (1.0, 1.0)}, {"a": (1.0, 2.0)}),
        parts_group({"a": (1.0, 1.0)}, {"a": (1.0, 1.0)}),
        parts_group({"a": (1.0, 1.0)}, None),
    ]
    assert groups_with_spread(groups).tolist() == [False, True, False, False]
    assert groups_with_spread(groups, combine="normalise").tolist() == [True, True, False, False]


def test_advantages_follow_the_method_s_way_to_combine_rewards() -> None:
    groups = [
        parts_group({"a": (1.0, 1.0), "b": (0.5, 0.0)}, {"a": (1.0, 0.0), "b": (0.5, 9.0)}, None),
        parts_group({"a": (1.0, 4.0), "b": (0.5, 1.0)}, {"a": (1.0, 0.0)}, {"a": (1.0, 2.0), "b": (0.5, 1.0)}),
    ]
    parts, there, weights = reward_parts(groups)
    by_sum = completion_advantages(groups, METHODS["grpo"])
    by_part = completion_advantages(groups, METHODS["grpo"].override(combine="normalise"))
    assert torch.equal(by_sum, group_advantages(*reward_tensors(groups)))
    assert torch.equal(by_part, combined_advantages(parts, there, weights))
    assert (by_sum[0, 0] < 0) and (by_part[0, 0] > 0)
    assert by_sum[0, 2] == by_part[0, 2] == 0
