from __future__ import annotations

import torch

from grpo.algorithm import find_method, truncated_importance_weights

VOCABULARY = 12
ADVANTAGES = torch.linspace(-1.0, 1.0, VOCABULARY)


def gradient(logits: torch.Tensor, sampler: torch.Tensor, *, cap: float | None) -> torch.Tensor:
    """The expected gradient of one-token completions that `sampler` draws, each token weighing what it is likely."""
    leaf = logits.clone().requires_grad_()
    logprobs, sampling = leaf.log_softmax(-1)[:, None], sampler.log_softmax(-1)[:, None]
    mask = torch.ones(VOCABULARY, 1, dtype=torch.bool)
    correction = None
    if cap is not None:
        correction = truncated_importance_weights(logprobs, sampling, mask, cap=cap)
        assert not correction.requires_grad
    loss = (
        find_method("grpo")
        .loss(
            logprobs,
            logprobs.detach(),
            None,
            advantages=ADVANTAGES[:, None],
            mask=mask,
            weights=sampling.exp(),
            correction=correction,
        )
        .loss
    )
    (result,) = torch.autograd.grad(loss, leaf)
    return result


def test_corrected_tokens_of_another_sampler_have_the_gradient_of_the_policys_own() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(VOCABULARY, generator=generator)
    sampler = logits + 0.3 * torch.randn(VOCABULARY, generator=generator)
    true = gradient(logits, logits, cap=None)
    uncorrected = (gradient(logits, sampler, cap=None) - true).norm()
    assert uncorrected > 1e-2
    torch.testing.assert_close(gradient(logits, sampler, cap=1e9), true, atol=1e-6, rtol=1e-5)
    # Truncated, it is a little biased, and still closer.
    assert 1e-5 < (gradient(logits, sampler, cap=1.2) - true).norm() < uncorrected


def test_the_correction_leaves_the_kl_term_as_it_is() -> None:
    logprobs, reference = torch.tensor([[-1.0, -2.0]]), torch.tensor([[-1.5, -1.0]])
    options = {
        "advantages": torch.zeros(1, 2),
        "mask": torch.ones(1, 2, dtype=torch.bool),
        "weights": torch.ones(1, 2),
        "beta": 0.5,
    }
    method = find_method("grpo")
    plain = method.loss(logprobs, logprobs, reference, **options)
    corrected = method.loss(logprobs, logprobs, reference, correction=torch.full((1, 2), 0.5), **options)
    assert plain.loss > 0
    assert torch.equal(plain.loss, corrected.loss)


def test_what_is_masked_out_weighs_one_whatever_it_holds() -> None:
    old = torch.tensor([[float("nan"), -1.0, 500.0]])
    sampling = torch.tensor([[0.0, -1.0, 0.0]])
    weights = truncated_importance_weights(old, sampling, torch.tensor([[False, True, True]]), cap=2.0)
    assert weights.tolist() == [[1.0, 1.0, 2.0]]
