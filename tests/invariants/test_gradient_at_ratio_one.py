"""Invariant 3: at ratio 1 the gradient of every clipped loss equals REINFORCE with the same advantages and weights."""

import pytest
import torch

from grpo.algorithm import METHODS, TrustRegion, policy_loss


def random_step(seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Log-probabilities, per-token advantages (some of them 0) and a mask with holes and an empty row."""
    generator = torch.Generator().manual_seed(seed)
    logprobs = -3 * torch.rand(6, 9, generator=generator)
    advantages = torch.randn(6, 9, generator=generator)
    advantages[torch.rand(6, 9, generator=generator) < 0.2] = 0.0
    mask = torch.rand(6, 9, generator=generator) < 0.7
    mask[4] = False
    return logprobs.requires_grad_(), advantages, mask


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("name", [name for name in METHODS if name != "reinforce"])
@pytest.mark.parametrize("delta", [None, 3.0])
def test_at_ratio_one_every_clipped_loss_has_the_gradient_of_reinforce(name, delta, seed):
    logprobs, advantages, mask = random_step(seed)
    method = METHODS[name].override(delta=delta)
    weights = method.token_weights(mask, num_rollouts=6, num_tokens=int(mask.sum()), max_tokens=9)
    given = {"advantages": advantages, "mask": mask, "weights": weights}
    loss = method.loss(logprobs, logprobs.detach(), None, **given).loss
    plain = policy_loss(
        logprobs, logprobs.detach(), None, **given, region=TrustRegion(), ratio="token", surrogate="reinforce"
    ).loss
    (gradient,) = torch.autograd.grad(loss, logprobs)
    (expected,) = torch.autograd.grad(plain, logprobs)
    assert expected.abs().max() > 0
    torch.testing.assert_close(expected, -advantages * weights)
    torch.testing.assert_close(gradient, expected, atol=1e-7, rtol=1e-5)


@pytest.mark.parametrize("name", [name for name in METHODS if name not in ("reinforce", "cispo")])
def test_away_from_ratio_one_it_does_not(name):
    logprobs, advantages, mask = random_step(0)
    method = METHODS[name]
    weights = method.token_weights(mask, num_rollouts=6, num_tokens=int(mask.sum()), max_tokens=9)
    loss = method.loss(logprobs, logprobs.detach() - 0.5, None, advantages=advantages, mask=mask, weights=weights).loss
    (gradient,) = torch.autograd.grad(loss, logprobs)
    assert not torch.allclose(gradient, -advantages * weights, atol=1e-3)
