import math

import pytest
import torch

from grpo.algorithm import group_advantages, has_spread, token_advantages

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
    assert has_spread(rewards, valid).tolist() == [True, False, False, False]


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
