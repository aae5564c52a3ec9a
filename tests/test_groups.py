from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch

from grpo.algorithm import METHODS, combined_advantages, group_advantages
from grpo.groups import (
    CompletionFigures,
    completion_advantages,
    counted_completions,
    describe_groups,
    find_zero_variance_groups,
    reward_parts,
    reward_tensors,
    rollout_lengths,
    sampled_tokens,
    step_reward_tensor,
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


def test_a_group_has_a_gradient_if_a_completion_that_the_loss_counts_has_an_advantage() -> None:
    groups = [
        scored_group((0.0, "length"), (1.0, "stop"), (1.0, "stop")),
        scored_group((0.0, "length"), (1.0, "stop"), (2.0, "length")),
        scored_group((0.0, "length"), (2.0, "length"), (2.0, "length")),
        scored_group((0.0, "stop"), (1.0, "stop"), (None, "stop")),
        scored_group((1.0, "stop"), (1.0, "stop"), (1.0, "length")),
    ]
    assert find_zero_variance_groups(groups).tolist() == [False, False, False, False, True]
    # The first keeps two completions above the group's mean, the second one that equals it, the third none.
    assert find_zero_variance_groups(groups, truncated="mask").tolist() == [False, True, True, False, True]


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


def test_the_two_ways_to_combine_rewards_disagree_about_zero_variance() -> None:
    groups = [
        # The totals are equal, but each reward by itself differs, and one weighs more.
        parts_group({"a": (1.0, 1.0), "b": (0.5, 0.0)}, {"a": (1.0, 0.0), "b": (0.5, 2.0)}),
        parts_group({"a": (1.0, 1.0)}, {"a": (1.0, 2.0)}),
        parts_group({"a": (1.0, 1.0)}, {"a": (1.0, 1.0)}),
        parts_group({"a": (1.0, 1.0)}, None),
    ]
    assert find_zero_variance_groups(groups).tolist() == [True, False, True, True]
    assert find_zero_variance_groups(groups, combine="normalise").tolist() == [False, False, True, True]


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


def groups_of_different_sizes() -> list[ScoredGroup]:
    """Three, one and no completions, with tokens of an environment among those of the first."""

    def member(sampled: tuple[bool, ...], reward: float | None, reason: FinishReason = "stop") -> ScoredRollout:
        rollout = Rollout((7,) * len(sampled), sampled, (-1.0,) * len(sampled), reason, 0)
        step_rewards = None if reward is None else (0.5, *[None] * (len(sampled) - 1))
        return ScoredRollout(rollout, "", Score({}, {}, reward, step_rewards))

    prompt = Prompt(0, "", "", (5,), {})
    return [
        ScoredGroup(prompt, (member((True, False, True), 1.0), member((True,), 3.0), member((True, True), None))),
        ScoredGroup(prompt, (member((True, True, True, False), 2.0, "length"),)),
        ScoredGroup(prompt, ()),
    ]


def test_groups_may_have_different_numbers_of_completions() -> None:
    groups = groups_of_different_sizes()
    rewards, valid = reward_tensors(groups)
    assert rewards.tolist() == [[1.0, 3.0, 0.0], [2.0, 0.0, 0.0], [0.0] * 3]
    assert valid.tolist() == [[True, True, False], [True, False, False], [False] * 3]
    assert rollout_lengths(groups).tolist() == [[3, 1, 2], [4, 0, 0], [0] * 3]
    assert counted_completions(groups, "keep").tolist() == [[True] * 3, [True, False, False], [False] * 3]
    assert counted_completions(groups, "mask").tolist() == [[True] * 3, [False] * 3, [False] * 3]
    assert completion_advantages(groups, METHODS["dr_grpo"]).tolist() == [[-1.0, 1.0, 0.0], [0.0] * 3, [0.0] * 3]
    assert find_zero_variance_groups(groups).tolist() == [False, True, True]
    step_rewards = step_reward_tensor(groups)
    assert step_rewards is not None
    assert (~step_rewards.isnan()).nonzero().tolist() == [[0, 0, 0], [0, 1, 0], [1, 0, 0]]


def test_tokens_of_an_environment_and_missing_ones_are_not_sampled() -> None:
    sampled = sampled_tokens(groups_of_different_sizes())
    assert sampled.shape == (3, 3, 4)
    assert sampled.int().sum(dim=-1).tolist() == [[2, 1, 2], [3, 0, 0], [0] * 3]
    assert sampled[0, 0].tolist() == [True, False, True, False]
    assert sampled_tokens([]).numel() == 0


def test_figures_count_what_was_sampled_and_add_up() -> None:
    groups = groups_of_different_sizes()
    zero_variance = find_zero_variance_groups(groups)
    figures = describe_groups(groups, zero_variance)
    assert figures.num_completions == 4
    assert figures.num_tokens == 8
    assert figures.means() == {
        "reward": 2.5,
        "reward_std": 1.0,
        "completion_length": 2.0,
        "truncated_share": 0.25,
        "zero_variance_groups": 2 / 3,
    }
    parts = [describe_groups(groups[:1], zero_variance[:1]), describe_groups(groups[1:], zero_variance[1:])]
    assert parts[0] + parts[1] == figures
    assert describe_groups([], zero_variance[:0]).means() == {
        "completion_length": 0.0,
        "truncated_share": 0.0,
        "zero_variance_groups": 0.0,
    }


def described(groups: list[ScoredGroup]) -> CompletionFigures:
    return describe_groups(groups, find_zero_variance_groups(groups))


def described_group(*completions: tuple[int, float | None, FinishReason]) -> ScoredGroup:
    """A group of completions with these lengths, rewards and ends."""
    return ScoredGroup(
        Prompt(0, "", "", (5,), {}),
        tuple(
            ScoredRollout(
                Rollout((7,) * length, (True,) * length, (-1.0,) * length, reason, 0), "", Score({}, {}, reward)
            )
            for length, reward, reason in completions
        ),
    )


def test_one_reward_has_no_deviation() -> None:
    assert described([described_group((2, 1.0, "stop"))]).means()["reward_std"] == 0.0


def test_the_figures_of_a_step_are_means_over_its_completions() -> None:
    groups = [
        described_group((2, 1.0, "stop"), (6, 4.0, "length")),
        described_group((3, None, "stop"), (5, 1.0, "stop")),
    ]
    figures = described(groups)
    assert figures.num_tokens == 16
    assert figures.means() == pytest.approx(
        {
            "reward": 2.0,
            "reward_std": 3**0.5,
            "completion_length": 4.0,
            "truncated_share": 0.25,
            "zero_variance_groups": 0.5,
        }
    )


def test_a_step_whose_rewards_all_failed_has_no_reward_and_no_figure_that_is_not_a_number() -> None:
    figures = described([described_group((2, None, "stop"), (4, None, "length"))])
    assert figures.means() == {"completion_length": 3.0, "truncated_share": 0.5, "zero_variance_groups": 1.0}


def test_the_reward_of_a_step_includes_what_single_tokens_earned() -> None:
    rollout = Rollout((7, 8, 9), (True,) * 3, (-1.0,) * 3, "stop", 0)
    scores = (
        Score({}, {}, 1.0, (None, 0.5, -2.0)),
        Score({}, {}, 3.0),
        Score({}, {"f": "failed"}, None, (9.0, 9.0, 9.0)),
    )
    groups = [ScoredGroup(Prompt(0, "", "", (5,), {}), tuple(ScoredRollout(rollout, "", score) for score in scores))]
    assert [score.sum for score in scores] == [-0.5, 3.0, None]
    assert described(groups).means()["reward"] == pytest.approx(1.25)
    nan = float("nan")
    found = step_reward_tensor(groups)
    assert found is not None
    expected = torch.tensor([[[nan, 0.5, -2.0], [nan] * 3, [nan] * 3]])
    assert torch.equal(found.nan_to_num(99.0), expected.nan_to_num(99.0))
    assert find_zero_variance_groups(groups).tolist() == [False]


def test_only_what_was_cut_is_masked_out_and_only_where_it_is_asked_for() -> None:
    groups = [described_group((2, 1.0, "stop"), (6, 4.0, "length"), (1, None, "stop"))]
    assert counted_completions(groups, "mask").tolist() == [[True, False, True]]
    assert counted_completions(groups, "keep").tolist() == [[True, True, True]]
