"""Surrogate losses of the probability ratio, by name."""

# The functions of a table share one signature, and each reads only the arguments that it needs.
# ruff: noqa: ARG001

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

__all__ = ["SURROGATES", "Surrogate", "TrustRegion", "cispo", "clip", "reinforce", "sapo"]


@dataclass(frozen=True, slots=True)
class TrustRegion:
    """Limits on the distance from the sampling policy; each surrogate reads those it needs.

    Attributes:
        epsilon: `clip` cuts ratios below 1 - epsilon.
        epsilon_high: `clip` cuts ratios above 1 + epsilon_high; `cispo` caps the ratio itself here, as in TRL.
        delta: `clip` also cuts ratios above delta where the advantage is negative (arXiv:2505.07291); None: never.
        temperature_positive: of `sapo`'s gate where the advantage is positive.
        temperature_negative: of `sapo`'s gate elsewhere.
    """

    epsilon: float = 0.2
    epsilon_high: float = 0.2
    delta: float | None = None
    temperature_positive: float = 1.0
    temperature_negative: float = 1.05


class Surrogate(Protocol):
    """(ratio, logprobs, advantages, region) → token losses, all [B, T] float32; padding is finite and has weight 0."""

    def __call__(self, ratio: Tensor, logprobs: Tensor, advantages: Tensor, region: TrustRegion, /) -> Tensor:
        """Return the loss of each token, to be minimised; the gradient flows through `ratio` and `logprobs`."""


def clip(ratio: Tensor, logprobs: Tensor, advantages: Tensor, region: TrustRegion) -> Tensor:
    """Return −min(ρA, clip(ρ, 1 − ε, 1 + ε_high)·A): PPO's (arXiv:1707.06347), two-sided where `delta` is set."""
    clipped = ratio.clamp(1 - region.epsilon, 1 + region.epsilon_high)
    if region.delta is not None:
        ratio = ratio.clamp(max=region.delta)
    return -torch.minimum(ratio * advantages, clipped * advantages)


def cispo(ratio: Tensor, logprobs: Tensor, advantages: Tensor, region: TrustRegion) -> Tensor:
    """Return −stopgrad(min(ρ, cap))·A·log π, so that no token loses its gradient (arXiv:2506.13585)."""
    return -ratio.detach().clamp(max=region.epsilon_high) * advantages * logprobs


def sapo(ratio: Tensor, logprobs: Tensor, advantages: Tensor, region: TrustRegion) -> Tensor:
    """Return −(4/τ)·σ(τ(ρ − 1))·A: a smooth gate in place of the clip (arXiv:2511.20347)."""
    temperature = torch.where(advantages > 0, region.temperature_positive, region.temperature_negative)
    return -torch.sigmoid(temperature * (ratio - 1)) * 4 / temperature * advantages


def reinforce(ratio: Tensor, logprobs: Tensor, advantages: Tensor, region: TrustRegion) -> Tensor:
    """Return −A·log π: the policy gradient without correction for older samples."""
    return -advantages * logprobs


SURROGATES: Mapping[str, Surrogate] = {"clip": clip, "cispo": cispo, "sapo": sapo, "reinforce": reinforce}
