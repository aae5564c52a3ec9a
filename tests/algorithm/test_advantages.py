import math

import pytest
import torch

from grpo.algorithm import combined_advantages, group_advantages, has_variance, token_advantages, weighted_advantages

SCALES = ["group", "batch", "whiten", "none"]


def random_rewards(seed: int, *, num_prompts: int = 6, group_size: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    """Rewards with NaN where they failed, a group without any, one with a single one, one without spread."""
    generator = torch.Generator().manual_seed(seed)
    rewards = torch.randn(num_prompts, group_size, generator=generator)
    rewards[torch.rand(rewards.shape, generator=generator) < 0.3] = torch.nan
    rewards[0] = torch.nan
    rewards[1], rewards[1, 2] = torch.nan, 3.0
    rewards[2] = 0.1
    return rewards, ~rewards.isnan()


def test_a_group_is_centred_and_divided_by_its_standard_deviation():
    advantages = group_advantages(torch.tensor([[0.0, 1.0, 2.0, 3.0]]), torch.ones(1, 4, dtype=torch.bool))
    deviation = math.sqrt((1.5**2 + 0.5**2) * 2 / 3)
    expected = torch.tensor([[-1.5, -0.5, 0.5, 1.5]]) / (deviation + 1e-4)
    torch.testing.assert_close(advantages, expected)


@pytest.mark.parametrize("baseline", ["mean", "leave_one_out"])
@pytest.mark.parametrize("scale", SCALES)
def test_failed_rewards_change_nothing_for_the_others(scale, baseline):
    rewards, valid = random_rewards(0)
    advantages = group_advantages(rewards, valid, scale=scale, baseline=baseline)
    assert torch.equal(advantages[~valid], torch.zeros_like(advantages[~valid]))
    assert advantages.isfinite().all()
    garbage = group_advantages(torch.where(valid, rewards, 1e9), valid, scale=scale, baseline=baseline)
    assert torch.equal(advantages, garbage)


@pytest.mark.parametrize("scale", SCALES)
def test_a_group_with_one_valid_completion_has_no_advantage(scale):
    rewards, valid = random_rewards(1)
    for baseline in ("mean", "leave_one_out"):
        assert not group_advantages(rewards, valid, scale=scale, baseline=baseline)[1].any()


@pytest.mark.parametrize("scale", SCALES)
def test_a_group_without_spread_has_advantages_of_exactly_zero(scale):
    rewards = torch.full((1, 7), 0.7) * torch.tensor([[1.0], [1000.0]])
    assert (rewards.mean(dim=1, keepdim=True) != rewards).any(), "the mean must round for this to test anything"
    rewards = torch.cat([rewards, torch.randn(1, 7)])
    assert not group_advantages(rewards, torch.ones_like(rewards, dtype=torch.bool), scale=scale)[:2].any()


def test_leave_one_out_subtracts_the_mean_of_the_others():
    rewards, valid = random_rewards(2)
    advantages = group_advantages(rewards, valid, scale="none", baseline="leave_one_out")
    for p, g in valid.nonzero().tolist():
        others = [rewards[p, other].item() for other in range(rewards.shape[1]) if other != g and valid[p, other]]
        expected = rewards[p, g].item() - sum(others) / len(others) if others else 0.0
        assert advantages[p, g].item() == pytest.approx(expected, abs=1e-5)


def test_whitened_advantages_have_unit_variance_over_the_step():
    rewards, valid = random_rewards(3)
    advantages = group_advantages(rewards, valid, scale="whiten", baseline="leave_one_out")
    counted = valid & (valid.sum(dim=1, keepdim=True) > 1)
    assert advantages[counted].std().item() == pytest.approx(1.0, abs=1e-3)
    assert advantages[counted].mean().item() == pytest.approx(0.0, abs=1e-6)


def test_spread_is_seen_among_valid_completions_only():
    rewards = torch.tensor([[1.0, 2.0, 1.0], [1.0, torch.nan, 1.0], [1.0, 5.0, 1.0], [torch.nan] * 3])
    valid = torch.tensor([[True] * 3, [True, False, True], [True, False, True], [False] * 3])
    assert has_variance(rewards, valid).tolist() == [True, False, False, False]


def random_parts(seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """[P, G, K] rewards as `random_rewards` has them, one reward of a very different size, a completion without any."""
    rewards = torch.stack([random_rewards(seed + place)[0] for place in range(3)], dim=-1)
    rewards[..., 2] *= 1000.0
    rewards[3, 1] = torch.nan
    return rewards, ~rewards.isnan(), torch.tensor([1.0, 0.5, 2.0])


def combined_by_loops(rewards: torch.Tensor, weights: torch.Tensor, epsilon: float) -> list[list[float]]:
    """GDPO in plain Python: normalise each reward in its group, weigh and add up, normalise over the batch."""
    table = rewards.double().tolist()
    sums = [[0.0 for _ in group] for group in table]
    for p, group in enumerate(table):
        for k, weight in enumerate(weights.tolist()):
            there = [(g, parts[k]) for g, parts in enumerate(group) if not math.isnan(parts[k])]
            if len(there) < 2:
                continue
            mean = sum(reward for _, reward in there) / len(there)
            deviation = math.sqrt(sum((reward - mean) ** 2 for _, reward in there) / (len(there) - 1))
            for g, reward in there:
                sums[p][g] += weight * (reward - mean) / (deviation + epsilon)
    scored = [
        (p, g) for p, group in enumerate(table) for g, parts in enumerate(group) if not all(map(math.isnan, parts))
    ]
    mean = sum(sums[p][g] for p, g in scored) / len(scored)
    deviation = math.sqrt(sum((sums[p][g] - mean) ** 2 for p, g in scored) / (len(scored) - 1))
    return [
        [(sums[p][g] - mean) / (deviation + epsilon) if (p, g) in scored else 0.0 for g in range(len(group))]
        for p, group in enumerate(table)
    ]


@pytest.mark.parametrize("seed", range(4))
def test_rewards_that_are_normalised_one_by_one_agree_with_plain_loops(seed):
    rewards, valid, weights = random_parts(10 * seed)
    advantages = combined_advantages(rewards, valid, weights)
    torch.testing.assert_close(
        advantages, torch.tensor(combined_by_loops(rewards, weights, 1e-4)), atol=2e-5, rtol=2e-5
    )
    assert advantages.isfinite().all()
    assert not advantages[~valid.any(dim=-1)].any()


def test_a_reward_that_is_normalised_by_itself_weighs_the_same_whatever_its_size():
    rewards, valid, weights = random_parts(50)
    larger = rewards * torch.tensor([1.0, 100.0, 1e-3])
    plain = combined_advantages(rewards, valid, weights, epsilon=1e-9)
    torch.testing.assert_close(combined_advantages(larger, valid, weights, epsilon=1e-9), plain, atol=1e-4, rtol=1e-4)
    total = group_advantages((rewards * weights).nansum(-1), valid.any(-1))
    assert (total - group_advantages((larger * weights).nansum(-1), valid.any(-1))).abs().max() > 0.1


def test_rewards_that_failed_or_are_missing_change_nothing_for_the_others_when_each_is_normalised():
    rewards, valid, weights = random_parts(60)
    garbage = torch.where(valid, rewards, 1e9)
    assert torch.equal(combined_advantages(rewards, valid, weights), combined_advantages(garbage, valid, weights))


def test_a_group_in_which_no_reward_has_variance_has_advantages_of_exactly_zero_when_each_is_normalised():
    equal = torch.full((1, 7, 2), 0.7) * torch.tensor([1.0, 1000.0])
    assert (equal.mean(dim=1, keepdim=True) != equal).any(), "a mean must round for this to test anything"
    rewards = torch.cat([equal, torch.randn(2, 7, 2, generator=torch.Generator().manual_seed(0))])
    valid, weights = torch.ones_like(rewards, dtype=torch.bool), torch.tensor([0.3, 3.0])
    assert not combined_advantages(rewards, valid, weights)[0].any()
    assert not weighted_advantages(rewards, valid, weights)[0].any()
    assert combined_advantages(rewards, valid, weights)[1:].all()


def test_leave_one_out_holds_for_each_reward_that_is_normalised_by_itself():
    rewards, valid, weights = random_parts(80)
    total = weighted_advantages(rewards, valid, weights, baseline="leave_one_out")
    parts = [
        weight * group_advantages(rewards[..., k], valid[..., k], baseline="leave_one_out")
        for k, weight in enumerate(weights.tolist())
    ]
    torch.testing.assert_close(total, sum(parts))


def test_without_any_reward_to_normalise_there_is_no_advantage():
    nothing = torch.zeros(2, 3, 0)
    assert combined_advantages(nothing, nothing.bool(), torch.zeros(0)).tolist() == [[0.0] * 3] * 2


def test_without_discount_every_token_has_the_completions_advantage():
    advantages, lengths = torch.tensor([[0.5, -1.5]]), torch.tensor([[3, 2]])
    expected = torch.tensor([[[0.5, 0.5, 0.5], [-1.5, -1.5, 0.0]]])
    assert torch.equal(token_advantages(advantages, lengths), expected)


def test_with_discount_zero_only_the_last_token_has_credit():
    credit = token_advantages(torch.tensor([[2.0, -1.0]]), torch.tensor([[3, 1]]), gamma=0.0)
    assert credit.tolist() == [[[0.0, 0.0, 2.0], [-1.0, 0.0, 0.0]]]


@pytest.mark.parametrize("gamma", [1.0, 0.9, 0.0])
@pytest.mark.parametrize("scale", SCALES)
def test_step_rewards_are_normalised_over_the_group_and_summed_from_the_token_on(scale, gamma):
    generator = torch.Generator().manual_seed(4)
    lengths = torch.randint(1, 9, (3, 4), generator=generator)
    lengths[0, 0] = 8
    step_rewards = torch.randn(3, 4, 8, generator=generator)
    step_rewards[torch.rand(step_rewards.shape, generator=generator) < 0.5] = torch.nan
    advantages = torch.randn(3, 4, generator=generator)
    valid = torch.ones(3, 4, dtype=torch.bool)
    valid[1, 2] = False
    credit = token_advantages(
        advantages, lengths, gamma=gamma, step_rewards=step_rewards, valid=valid, scale=scale, epsilon=0.0
    )

    def given(p: int) -> dict[tuple[int, int], float]:
        return {
            (g, t): step_rewards[p, g, t].item()
            for g in range(4)
            for t in range(lengths[p, g])
            if valid[p, g] and not step_rewards[p, g, t].isnan()
        }

    for p in range(3):
        own, everything = torch.tensor(list(given(p).values())), [r for q in range(3) for r in given(q).values()]
        centred_everything = torch.cat(
            [values - values.mean() for values in (torch.tensor(list(given(q).values())) for q in range(3))]
        )
        divisor = {
            "group": own.std().item(),
            "batch": torch.tensor(everything).std().item(),
            "whiten": centred_everything.std().item(),
            "none": 1.0,
        }[scale]
        for g in range(4):
            for t in range(8):
                expected = 0.0
                if t < lengths[p, g]:
                    expected = advantages[p, g].item() * gamma ** (lengths[p, g].item() - 1 - t)
                    expected += sum(
                        gamma ** (k - t) * (reward - own.mean().item()) / divisor
                        for (completion, k), reward in given(p).items()
                        if completion == g and k >= t
                    )
                assert credit[p, g, t].item() == pytest.approx(expected, abs=2e-5)


@pytest.mark.parametrize("gamma", [1.0, 0.9, 0.0])
def test_tokens_of_an_environment_have_no_advantage_and_no_place_in_the_discount(gamma):
    generator = torch.Generator().manual_seed(5)
    lengths = torch.tensor([[8, 5, 1]])
    sampled = torch.rand(1, 3, 8, generator=generator) < 0.6
    sampled[0, :, 0] = True
    step_rewards = torch.randn(1, 3, 8, generator=generator).masked_fill(~sampled, torch.nan)
    advantages = torch.tensor([[1.0, -2.0, 0.5]])
    credit = token_advantages(advantages, lengths, sampled=sampled, gamma=gamma, step_rewards=step_rewards)
    inside = sampled & (torch.arange(8) < lengths.unsqueeze(-1))
    assert not credit[~inside].any()

    short = torch.full((1, 3, 8), torch.nan)
    for g in range(3):
        short[0, g, : int(inside[0, g].sum())] = step_rewards[0, g][inside[0, g]]
    alone = token_advantages(advantages, inside.sum(-1), gamma=gamma, step_rewards=short)
    for g in range(3):
        count = int(inside[0, g].sum())
        torch.testing.assert_close(credit[0, g][inside[0, g]], alone[0, g, :count])


def test_a_step_reward_on_a_token_of_an_environment_goes_to_the_tokens_before_it():
    step_rewards = torch.tensor([[[torch.nan, 1.0, torch.nan], [torch.nan, torch.nan, 0.0]]])
    credit = token_advantages(
        torch.zeros(1, 2),
        torch.tensor([[3, 3]]),
        sampled=torch.tensor([[[True, False, True], [True, True, True]]]),
        gamma=0.5,
        step_rewards=step_rewards,
        scale="none",
    )
    assert credit.tolist() == [[[0.5, 0.0, 0.0], [-0.125, -0.25, -0.5]]]
