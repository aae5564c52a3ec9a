import pytest
import torch

from grpo.algorithm import KL_ESTIMATORS, kl_divergence


def expectation_under_policy(logits: torch.Tensor, reference: torch.Tensor, estimator: str) -> torch.Tensor:
    """The exact expectation of an estimate over the vocabulary, its samples held fixed in the gradient."""
    logprobs = logits.log_softmax(-1)
    mask = torch.ones(len(logits), 1, dtype=torch.bool)
    estimates = kl_divergence(logprobs.unsqueeze(1), reference.log_softmax(-1).unsqueeze(1), mask, estimator)
    return (logprobs.exp().detach() * estimates.squeeze(1)).sum()


@pytest.fixture
def two_distributions() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(11, generator=generator).requires_grad_(), torch.randn(11, generator=generator)


def true_kl(logits: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    return (logits.softmax(-1) * (logits.log_softmax(-1) - reference.log_softmax(-1))).sum()


@pytest.mark.parametrize("estimator", ["k1", "k3"])
def test_k1_and_k3_are_unbiased(two_distributions, estimator):
    logits, reference = two_distributions
    torch.testing.assert_close(expectation_under_policy(logits, reference, estimator), true_kl(logits, reference))


def test_k2_has_the_gradient_of_the_kl_and_k1_has_none(two_distributions):
    logits, reference = two_distributions
    (expected,) = torch.autograd.grad(true_kl(logits, reference), logits)
    (of_k2,) = torch.autograd.grad(expectation_under_policy(logits, reference, "k2"), logits)
    (of_k1,) = torch.autograd.grad(expectation_under_policy(logits, reference, "k1"), logits)
    torch.testing.assert_close(of_k2, expected)
    torch.testing.assert_close(of_k1, torch.zeros_like(of_k1), atol=1e-6, rtol=0)


def test_k3_is_never_negative():
    logprobs, reference = -3 * torch.rand(2, 50, 20)
    assert (kl_divergence(logprobs, reference, torch.ones(50, 20, dtype=torch.bool), "k3") >= -1e-6).all()


def test_shares_of_the_squared_sequence_add_up_to_the_square_of_the_sum():
    logprobs, reference = torch.randn(2, 3, 5)
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 0, 1, 0, 0], [0, 0, 0, 0, 0]], dtype=torch.bool)
    shares = kl_divergence(logprobs, reference, mask, "squared_sequence")
    expected = ((logprobs - reference) * mask).sum(-1).square()
    torch.testing.assert_close(shares.sum(-1), expected)


@pytest.mark.parametrize("estimator", KL_ESTIMATORS)
def test_nothing_comes_out_of_tokens_that_were_not_sampled(estimator):
    logprobs, reference = torch.randn(2, 3, 5)
    mask = torch.rand(3, 5) < 0.5
    clean = kl_divergence(logprobs, reference, mask, estimator)
    logprobs[~mask], reference[~mask] = torch.nan, torch.inf
    dirty = kl_divergence(logprobs, reference, mask, estimator)
    assert torch.equal(clean, dirty)
    assert not dirty[~mask].any()


@pytest.mark.parametrize("estimator", KL_ESTIMATORS)
def test_there_is_no_divergence_from_oneself(estimator):
    logprobs = torch.randn(3, 5)
    assert not kl_divergence(logprobs, logprobs, torch.ones(3, 5, dtype=torch.bool), estimator).any()
