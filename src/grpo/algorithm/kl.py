"""Estimates of KL(policy ‖ reference) from the log-probabilities of sampled tokens.

k1, k2 and k3 are those of John Schulman's note "Approximating KL Divergence" (2020). In a loss, their
gradient matters rather than their value (arXiv:2510.01555). With tokens sampled from the policy,

- `k1` has a gradient that is zero on average: alone, it measures the KL and does not restrain the policy;
- `k2` has the gradient of the KL;
- `k3` (GRPO, arXiv:2402.03300) has the gradient of the KL to first order, and is never negative;
- `k1` and `k3` times the probability ratio have the gradient of the KL, also with tokens of an older
  policy (DeepSeek-V3.2, arXiv:2512.02556; TRL's default). `policy_loss` multiplies where `correct_kl` is set.
"""

# The functions of a table share one signature, and each reads only the arguments that it needs.
# ruff: noqa: ARG001

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

import torch
from torch import Tensor

__all__ = ["CORRECTED_BY_RATIO", "KL_ESTIMATORS", "KLEstimator", "k1", "k2", "k3", "kl_divergence", "squared_sequence"]

KLEstimator: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""(log_ratio, mask) → [B, T]: log_ratio is log policy − log reference, [B, T] float32, 0 where mask is False."""


def k1(log_ratio: Tensor, mask: Tensor) -> Tensor:
    """Return log π − log π_ref: unbiased, of high variance, negative for some tokens."""
    return log_ratio


def k2(log_ratio: Tensor, mask: Tensor) -> Tensor:
    """Return ½ (log π − log π_ref)²: biased in value, unbiased in gradient."""
    return 0.5 * log_ratio.square()


def k3(log_ratio: Tensor, mask: Tensor) -> Tensor:
    """Return π_ref/π − log(π_ref/π) − 1: unbiased, and never negative."""
    return torch.exp(-log_ratio) + log_ratio - 1


def squared_sequence(log_ratio: Tensor, mask: Tensor) -> Tensor:
    """Return (Σ_t log π − log π_ref)² of each completion, in equal shares on its tokens.

    The shares add up to the completion's value. Under token weights "sum", the term is therefore the mean
    over completions of the squared difference of their log-probabilities; under "sequence", each square is
    divided by the completion's length.
    """
    share = log_ratio.sum(dim=-1, keepdim=True).square() / mask.sum(dim=-1, keepdim=True).clamp(min=1)
    return torch.where(mask, share, 0.0)


KL_ESTIMATORS: Mapping[str, KLEstimator] = {
    "k1": k1,
    "k2": k2,
    "k3": k3,
    "squared_sequence": squared_sequence,
}

CORRECTED_BY_RATIO = frozenset({"k1", "k3"})
"""Estimators whose gradient the probability ratio corrects; it would distort the gradient of the others."""


def kl_divergence(logprobs: Tensor, reference_logprobs: Tensor, mask: Tensor, estimator: str = "k3") -> Tensor:
    """Return the estimate at each token, [B, T] float32, 0 where mask is False.

    Args:
        logprobs: [B, T] natural log-probabilities under the policy; the gradient flows through them.
        reference_logprobs: [B, T] under the reference.
        mask: [B, T] bool, True where the policy sampled the token.
        estimator: a name in `KL_ESTIMATORS`.

    Raises:
        KeyError: no such estimator.

    Example:
        >>> policy, reference = torch.tensor([[-1.0, -2.0]]), torch.tensor([[-2.0, -2.0]])
        >>> kl_divergence(policy, reference, torch.tensor([[True, True]]), "k1").tolist()
        [[1.0, 0.0]]
    """
    log_ratio = (logprobs.float() - reference_logprobs.float()).masked_fill(~mask, 0.0)
    return KL_ESTIMATORS[estimator](log_ratio, mask)
