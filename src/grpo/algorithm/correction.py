"""Importance weights for samples drawn in another dtype or engine."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["truncated_importance_weights"]


@torch.no_grad()
def truncated_importance_weights(
    old_logprobs: Tensor, sampling_logprobs: Tensor, mask: Tensor, *, cap: float
) -> Tensor:
    """Return min(π_old / π_sampler, cap) for each token, [B, T] float32 without gradient, 1 where mask is False.

    π_old is the policy in the trainer's arithmetic when the tokens were sampled, π_sampler the same weights in
    the engine's. Without truncation the weights make the expected gradient that of tokens sampled by π_old; the
    cap bounds their variance (Yao et al., "Your Efficient RL Framework Secretly Brings You Off-Policy RL
    Training", 2025; TRL's `token_truncate`). They are per token, as there, so they do not correct
    for the distribution of the tokens before it.

    Args:
        old_logprobs: [B, T] natural log-probabilities; anything where mask is False.
        sampling_logprobs: [B, T], as the engine reported them.
        mask: [B, T] bool, True where the policy sampled the token and the loss counts it.
        cap: above 0; at 1, no weight is above 1.

    Example:
        >>> old, sampling = torch.tensor([[-1.0, -1.0]]), torch.tensor([[-3.0, -1.0]])
        >>> truncated_importance_weights(old, sampling, torch.tensor([[True, True]]), cap=2.0).tolist()
        [[2.0, 1.0]]
    """
    difference = (old_logprobs.float() - sampling_logprobs.float()).masked_fill(~mask, 0.0)
    # An overflow is infinite, and the cap bounds it as well.
    return torch.where(mask, difference.exp().clamp(max=cap), 1.0)
