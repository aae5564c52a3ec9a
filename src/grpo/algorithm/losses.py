"""A policy loss is a ratio level × a surrogate × token weights, plus a KL term.

level      unit of the probability ratio: a token, or the whole completion
surrogate  function of the ratio: clipped, gated, or only its gradient at 1
weights    of token losses in the sum over the whole optimizer step
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from grpo.algorithm.kl import CORRECTED_BY_RATIO, kl_divergence
from grpo.algorithm.surrogates import SURROGATES, Surrogate, TrustRegion, cispo, reinforce, sapo

__all__ = [
    "LossMetrics",
    "LossResult",
    "RatioLevel",
    "WeightRule",
    "policy_loss",
    "ratios",
    "token_weights",
]

RatioLevel: TypeAlias = Literal["token", "sequence", "product"]
"""`token`: π/π_old of the token; `sequence`: their geometric mean over the completion (GSPO, arXiv:2507.18071);
`product`: their product, the completion's own likelihood ratio (RLOO, arXiv:2402.14740)."""

WeightRule: TypeAlias = Literal["sequence", "token", "constant", "sum"]

_MAX_LOG_RATIO = 20.0


def token_weights(mask: Tensor, rule: WeightRule, *, num_rollouts: int, num_tokens: int, max_tokens: int) -> Tensor:
    """Weight each sampled token so that `(loss * weights).sum()` is its share of the step's loss.

    The counts cover the whole optimizer step on all ranks, so neither micro-batching nor sharding
    changes the gradient. `num_rollouts` includes completions that are skipped or masked out.

    Args:
        mask: [B, T] bool, True where the policy sampled the token. A row holds a whole completion.
        rule: "sequence": mean over completions of their mean over tokens (GRPO, arXiv:2402.03300);
            "token": mean over the step's tokens (DAPO, arXiv:2503.14476);
            "constant": sum over (completions × max_tokens) (Dr. GRPO, arXiv:2503.20783);
            "sum": mean over completions of their sum over tokens (REINFORCE).
        num_rollouts: completions in the step.
        num_tokens: tokens in the step whose mask is True; the divisor of "token".
        max_tokens: completion budget in tokens; the divisor of "constant".

    Returns:
        [B, T] float32, zero where mask is False.

    Raises:
        ValueError: no such rule.

    Example:
        >>> mask = torch.tensor([[True, True], [True, False]])
        >>> token_weights(mask, "sequence", num_rollouts=2, num_tokens=3, max_tokens=4).tolist()
        [[0.25, 0.25], [0.5, 0.0]]
    """
    weights = mask.float()
    if rule == "sequence":
        return weights / (max(num_rollouts, 1) * _lengths(mask))
    if rule == "token":
        return weights / max(num_tokens, 1)
    if rule == "constant":
        return weights / (max(num_rollouts, 1) * max_tokens)
    if rule == "sum":
        return weights / max(num_rollouts, 1)
    raise ValueError(f"no token weights named {rule!r}: use sequence, token, constant or sum")


def ratios(logprobs: Tensor, old_logprobs: Tensor, mask: Tensor, level: RatioLevel) -> Tensor:
    """Return the probability ratio policy / sampling policy at each token, [B, T] float32, 1 where mask is False.

    Above token level, every token has its completion's ratio, whose gradient reaches that token alone
    (GSPO-token, arXiv:2507.18071 §4.3). A sum with weights that are constant in a completion has the value
    and the gradient of the completion's ratio. Where advantages differ from token to token, each token is
    still credited with its own advantage.

    Ratios are limited to e^±20, so that an overflow cannot turn into NaN; TRL has no such limit.

    Args:
        logprobs: [B, T] natural log-probabilities under the policy.
        old_logprobs: [B, T] under the policy that sampled.
        mask: [B, T] bool, True where the policy sampled the token.

    Raises:
        ValueError: no such level.
    """
    return _bounded_exp(_at_level(_log_ratio(logprobs, old_logprobs, mask), mask, level))


@dataclass(frozen=True, slots=True)
class LossMetrics:
    """Figures of a micro-batch as sums and counts: those of several micro-batches and ranks add up (`+`).

    All are scalar tensors without gradient. Ratios are counted by token; above token level, by completion.

    Attributes:
        policy_loss: weighted sum; the step's policy loss when added up.
        kl_loss: weighted sum of the KL estimates, before β.
        kl: plain sum of the KL estimates over tokens.
        num_kl_tokens: tokens in `kl`; 0 without a reference.
        clipped_low: ratios below the region with a negative advantage.
        clipped_high: ratios above the region with a positive advantage.
        ratio: sum of ratios.
        num_ratios: number of ratios.
        ratio_max: the greatest; 0 where there is none.
    """

    policy_loss: Tensor
    kl_loss: Tensor
    kl: Tensor
    num_kl_tokens: Tensor
    clipped_low: Tensor
    clipped_high: Tensor
    ratio: Tensor
    num_ratios: Tensor
    ratio_max: Tensor

    def __add__(self, other: LossMetrics) -> LossMetrics:
        """Return the metrics of both micro-batches, or ranks, together."""
        totals = {
            field.name: torch.maximum(self.ratio_max, other.ratio_max)
            if field.name == "ratio_max"
            else getattr(self, field.name) + getattr(other, field.name)
            for field in fields(self)
        }
        return LossMetrics(**totals)

    def to(self, device: torch.device | str) -> LossMetrics:
        """Return the metrics with their tensors on `device`."""
        return LossMetrics(**{field.name: getattr(self, field.name).to(device) for field in fields(self)})

    def means(self) -> dict[str, float]:
        """Return numbers to log: losses, clipped fractions, mean and greatest ratio; with a reference, KL a token."""
        names = [field.name for field in fields(self)]
        value = dict(zip(names, torch.stack([getattr(self, name) for name in names]).tolist(), strict=True))
        num_ratios = max(value["num_ratios"], 1.0)
        means = {
            "policy_loss": value["policy_loss"],
            "clip_low": value["clipped_low"] / num_ratios,
            "clip_high": value["clipped_high"] / num_ratios,
            "ratio_mean": value["ratio"] / num_ratios,
            "ratio_max": value["ratio_max"],
        }
        if value["num_kl_tokens"] > 0:
            means |= {"kl_loss": value["kl_loss"], "kl": value["kl"] / value["num_kl_tokens"]}
        return means


@dataclass(frozen=True, slots=True)
class LossResult:
    """A micro-batch's share of the step's loss.

    Attributes:
        loss: scalar to call `backward()` on; shares of all micro-batches add up to the step's loss.
        metrics: sums and counts to log.
    """

    loss: Tensor
    metrics: LossMetrics


def policy_loss(
    logprobs: Tensor,
    old_logprobs: Tensor,
    reference_logprobs: Tensor | None,
    *,
    advantages: Tensor,
    mask: Tensor,
    weights: Tensor,
    region: TrustRegion,
    ratio: RatioLevel = "token",
    surrogate: str | Surrogate = "clip",
    kl: str = "k3",
    correct_kl: bool = True,
    beta: float = 0.0,
    correction: Tensor | None = None,
) -> LossResult:
    """Return Σ weights · (correction · surrogate + β · KL) with its metrics.

    At level "product", the surrogate belongs to the whole completion and each token carries an equal
    share of it, so that weights "sum" give the mean over completions.

    Args:
        logprobs: [B, T] natural log-probabilities under the policy, with gradient.
        old_logprobs: [B, T] under the policy that sampled. For the first epoch of an on-policy step,
            `logprobs.detach()`.
        reference_logprobs: [B, T] under the reference; None if there is none. At β = 0, the KL is only measured.
        advantages: [B, T] float32.
        mask: [B, T] bool, True where the policy sampled the token and the loss counts it. Elsewhere the
            other tensors may hold anything.
        weights: [B, T] float32, as `token_weights` returns them.
        surrogate: a name in `SURROGATES`, or a function of that signature.
        kl: a name in `KL_ESTIMATORS`.
        correct_kl: multiply the estimates "k1" and "k3" by the ratio, so that their gradient is that of the
            KL (arXiv:2512.02556), as TRL does by default. Without effect on the other estimators.
        correction: [B, T], as `truncated_importance_weights` returns them; None: 1. Above token level, the
            correction of a completion is the mean over its tokens. The KL is not corrected. Both as in TRL.

    Raises:
        ValueError: β is not 0 and there is no reference.
    """
    if beta != 0.0 and reference_logprobs is None:
        raise ValueError(f"beta is {beta} and there are no reference log-probabilities: pass them or set beta to 0")
    logprobs = logprobs.float().masked_fill(~mask, 0.0)
    advantages = advantages.float().masked_fill(~mask, 0.0)
    token_ratios = ratios(logprobs, old_logprobs, mask, ratio)
    surrogate_function = SURROGATES[surrogate] if isinstance(surrogate, str) else surrogate
    token_losses = surrogate_function(token_ratios, _at_level(logprobs, mask, ratio), advantages, region)
    if ratio == "product":
        token_losses = token_losses / _lengths(mask)
    if correction is not None:
        if ratio != "token":
            correction = (correction * mask).sum(dim=-1, keepdim=True) / _lengths(mask)
        token_losses = token_losses * correction
    policy_term = (token_losses * weights).sum()

    token_kl = torch.zeros_like(logprobs)
    if reference_logprobs is not None:
        token_kl = kl_divergence(logprobs, reference_logprobs, mask, kl)
        if correct_kl and kl in CORRECTED_BY_RATIO:
            log_ratio = _log_ratio(logprobs, old_logprobs, mask)
            token_kl = token_kl * _bounded_exp(_completion_value(log_ratio, mask, ratio))
    kl_term = (token_kl * weights).sum()

    low, high = _clip_bounds(surrogate, region)
    unit = mask.float() if ratio == "token" else mask / _lengths(mask)
    with torch.no_grad():
        metrics = LossMetrics(
            policy_loss=policy_term.detach(),
            kl_loss=kl_term.detach(),
            kl=token_kl.sum(),
            num_kl_tokens=mask.sum().float() * (reference_logprobs is not None),
            clipped_low=(unit * ((token_ratios < low) & (advantages < 0))).sum(),
            clipped_high=(unit * ((token_ratios > high) & (advantages > 0))).sum(),
            ratio=(unit * token_ratios).sum(),
            num_ratios=unit.sum(),
            ratio_max=_greatest(token_ratios, mask),
        )
    return LossResult(loss=policy_term + beta * kl_term if beta != 0.0 else policy_term, metrics=metrics)


def _log_ratio(logprobs: Tensor, old_logprobs: Tensor, mask: Tensor) -> Tensor:
    """Return log policy − log sampling policy, [B, T] float32, 0 where mask is False."""
    return (logprobs.float() - old_logprobs.float()).masked_fill(~mask, 0.0)


def _completion_value(values: Tensor, mask: Tensor, level: RatioLevel) -> Tensor:
    """Return each token's own value, or the mean or the sum over its completion, [B, T]; `values` are 0 in padding."""
    if level == "token":
        return values
    total = values.sum(dim=-1, keepdim=True)
    if level == "sequence":
        return torch.where(mask, total / _lengths(mask), 0.0)
    if level == "product":
        return torch.where(mask, total, 0.0)
    raise ValueError(f"no ratio level named {level!r}: use token, sequence or product")


def _at_level(values: Tensor, mask: Tensor, level: RatioLevel) -> Tensor:
    """Return `_completion_value` with a gradient from each token to itself alone.

    The mean (sum) over a completion of n tokens, used at each of them, sends each token n gradients of 1/n (1).
    Here each token gets one gradient, which is 1 (n), so that the total is the same.
    """
    detached = values.detach()
    own = values - detached
    if level == "product":
        own = own * _lengths(mask)
    return _completion_value(detached, mask, level) + own


def _bounded_exp(log_ratio: Tensor) -> Tensor:
    """Return exp(log_ratio) with values within e^±20 and the gradient of the value."""
    overshoot = (log_ratio - log_ratio.clamp(-_MAX_LOG_RATIO, _MAX_LOG_RATIO)).detach()
    return torch.exp(log_ratio - overshoot)


def _lengths(mask: Tensor) -> Tensor:
    """Return the number of sampled tokens of each completion, [B, 1] float32, at least 1."""
    return mask.sum(dim=-1, keepdim=True).clamp(min=1).float()


def _clip_bounds(surrogate: str | Surrogate, region: TrustRegion) -> tuple[float, float]:
    """Return the ratios below and above which the surrogate is taken to clip."""
    if surrogate in ("cispo", cispo):
        return 0.0, region.epsilon_high
    if surrogate in ("sapo", sapo, "reinforce", reinforce):
        return 0.0, float("inf")
    return 1 - region.epsilon, 1 + region.epsilon_high


def _greatest(values: Tensor, mask: Tensor) -> Tensor:
    """Return the greatest value where mask is True, 0 where there is none."""
    if values.numel() == 0:
        return values.new_zeros(())
    return values.masked_fill(~mask, 0.0).max()
