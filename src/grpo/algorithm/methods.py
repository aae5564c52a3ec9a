"""Methods by name, each a choice of advantage, ratio, surrogate, weights and KL estimator."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import get_args

from torch import Tensor

from grpo.algorithm.advantages import (
    Baseline,
    Combine,
    Scale,
    SumOverRanks,
    combined_advantages,
    group_advantages,
    on_one_rank,
)
from grpo.algorithm.kl import KL_ESTIMATORS
from grpo.algorithm.losses import LossResult, RatioLevel, WeightRule, policy_loss, token_weights
from grpo.algorithm.surrogates import SURROGATES, Surrogate, TrustRegion
from grpo.errors import ConfigError

__all__ = ["METHODS", "Method", "find_method"]

_DEFAULT_REGION = TrustRegion()


def _check(what: str, name: str, allowed: Mapping[str, object] | tuple[str, ...]) -> None:
    if name not in allowed:
        raise ConfigError(f"no {what} named {name!r}: use one of {', '.join(allowed)}")


@dataclass(frozen=True, slots=True)
class Method:
    """One row of the table: all choices that make a method.

    Attributes:
        ratio: level of the probability ratio.
        surrogate: a name in `SURROGATES`, or a function of that signature.
        weights: rule of `token_weights`.
        kl: a name in `KL_ESTIMATORS`.
        correct_kl: whether the ratio corrects the gradient of "k1" and "k3"; see `policy_loss`.
        scale: the divisor of centred rewards.
        baseline: the baseline subtracted from rewards.
        region: the clip range, or the corresponding parameters of other surrogates.
        combine: combination of several rewards into one advantage; `normalise` uses a scale of its own, not `scale`.

    Raises:
        ConfigError: one of the names does not exist.
    """

    ratio: RatioLevel = "token"
    surrogate: str | Surrogate = "clip"
    weights: WeightRule = "sequence"
    kl: str = "k3"
    correct_kl: bool = True
    scale: Scale = "group"
    baseline: Baseline = "mean"
    region: TrustRegion = _DEFAULT_REGION
    combine: Combine = "sum"

    def __post_init__(self) -> None:
        _check("ratio level", self.ratio, get_args(RatioLevel))
        _check("weights rule", self.weights, get_args(WeightRule))
        _check("KL estimator", self.kl, KL_ESTIMATORS)
        _check("advantage scale", self.scale, get_args(Scale))
        _check("baseline", self.baseline, get_args(Baseline))
        _check("way to combine rewards", self.combine, get_args(Combine))
        if isinstance(self.surrogate, str):
            _check("surrogate", self.surrogate, SURROGATES)

    def override(
        self,
        *,
        epsilon: float | None = None,
        epsilon_high: float | None = None,
        delta: float | None = None,
        kl: str | None = None,
        correct_kl: bool | None = None,
        scale: Scale | None = None,
        baseline: Baseline | None = None,
        combine: Combine | None = None,
        weights: WeightRule | None = None,
        ratio: RatioLevel | None = None,
    ) -> Method:
        """Return the method with the user's choices instead of its own; None keeps the method's choice.

        `epsilon` without `epsilon_high` sets both sides of the clip range, as a single clip range does elsewhere.
        CISPO keeps its `epsilon_high`, which is a cap on the ratio and not a distance from 1.

        Raises:
            ConfigError: a name does not exist.
        """
        if epsilon is not None and epsilon_high is None and self.surrogate != "cispo":
            epsilon_high = epsilon
        limits = {"epsilon": epsilon, "epsilon_high": epsilon_high, "delta": delta}
        return replace(
            self,
            region=replace(self.region, **{name: value for name, value in limits.items() if value is not None}),
            kl=kl or self.kl,
            correct_kl=self.correct_kl if correct_kl is None else correct_kl,
            scale=scale or self.scale,
            baseline=baseline or self.baseline,
            combine=combine or self.combine,
            weights=weights or self.weights,
            ratio=ratio or self.ratio,
        )

    def group_advantages(self, rewards: Tensor, valid: Tensor, *, sum_over_ranks: SumOverRanks = on_one_rank) -> Tensor:
        """Return `advantages.group_advantages` with this method's scale and baseline, [P, G] float32."""
        return group_advantages(rewards, valid, scale=self.scale, baseline=self.baseline, sum_over_ranks=sum_over_ranks)

    def combined_advantages(
        self, rewards: Tensor, valid: Tensor, weights: Tensor, *, sum_over_ranks: SumOverRanks = on_one_rank
    ) -> Tensor:
        """Return `advantages.combined_advantages` with this method's baseline, [P, G] float32."""
        return combined_advantages(rewards, valid, weights, baseline=self.baseline, sum_over_ranks=sum_over_ranks)

    def token_weights(self, mask: Tensor, *, num_rollouts: int, num_tokens: int, max_tokens: int) -> Tensor:
        """Return `losses.token_weights` by this method's rule, [B, T] float32."""
        return token_weights(
            mask, self.weights, num_rollouts=num_rollouts, num_tokens=num_tokens, max_tokens=max_tokens
        )

    def loss(
        self,
        logprobs: Tensor,
        old_logprobs: Tensor,
        reference_logprobs: Tensor | None,
        *,
        advantages: Tensor,
        mask: Tensor,
        weights: Tensor,
        beta: float = 0.0,
        correction: Tensor | None = None,
    ) -> LossResult:
        """Return `losses.policy_loss` with this method's ratio, surrogate, region and KL estimator."""
        return policy_loss(
            logprobs,
            old_logprobs,
            reference_logprobs,
            advantages=advantages,
            mask=mask,
            weights=weights,
            region=self.region,
            ratio=self.ratio,
            surrogate=self.surrogate,
            kl=self.kl,
            correct_kl=self.correct_kl,
            beta=beta,
            correction=correction,
        )


METHODS: Mapping[str, Method] = {
    # arXiv:2402.03300
    "grpo": Method(),
    # arXiv:2503.20783: independent of the lengths and the spread of a group
    "dr_grpo": Method(weights="constant", scale="none"),
    # TRL's name. TRL divides by the tokens of the local micro-batch, this package by those of the step, so that
    # micro-batches change nothing; the two agree where a step is one micro-batch.
    "bnpo": Method(weights="token"),
    # arXiv:2503.14476: clip higher
    "dapo": Method(weights="token", region=TrustRegion(epsilon=0.2, epsilon_high=0.28)),
    # arXiv:2507.18071, section 5.1
    "gspo": Method(ratio="sequence", region=TrustRegion(epsilon=3e-4, epsilon_high=4e-4)),
    # arXiv:2506.13585; the cap is that of arXiv:2510.13786
    "cispo": Method(surrogate="cispo", weights="token", region=TrustRegion(epsilon_high=5.0)),
    # arXiv:2511.20347
    "sapo": Method(surrogate="sapo", region=TrustRegion(temperature_positive=1.0, temperature_negative=1.05)),
    # arXiv:2402.14740. The KL is in the loss as k2, which on policy has the gradient of the paper's k1 in
    # the reward (arXiv:2510.01555).
    "rloo": Method(ratio="product", weights="sum", kl="k2", scale="none", baseline="leave_one_out"),
    # −A · Σ log π a completion and the squared difference of Σ log π to the reference, advantages
    # with unit variance over the step
    "reinforce": Method(surrogate="reinforce", weights="sum", kl="squared_sequence", scale="whiten"),
}


def find_method(name: str) -> Method:
    """Return the method of that name.

    Args:
        name: a key of `METHODS`, or "package.module:name" of one's own: a `Method`, or a function with the
            signature of `Surrogate`, `(ratio, logprobs, advantages, region) -> token losses`, that
            replaces the clip in `grpo`.

    Raises:
        ConfigError: there is no such method, or the named object is neither a `Method` nor a function.

    Example:
        >>> find_method("dapo").region.epsilon_high
        0.28
        >>> find_method("grpo.algorithm.surrogates:sapo").weights
        'sequence'
    """
    if name in METHODS:
        return METHODS[name]
    if ":" in name:
        return _load(name)
    nearest = difflib.get_close_matches(name.lower().replace("-", "_"), METHODS, n=1)
    hint = f"did you mean {nearest[0]!r}? " if nearest else ""
    raise ConfigError(
        f"no method named {name!r}: {hint}use one of {', '.join(METHODS)}, or your own as 'package.module:name'"
    )


def _load(name: str) -> Method:
    module_name, _, attribute = name.partition(":")
    try:
        found = getattr(importlib.import_module(module_name), attribute)
    except Exception as error:  # an import can raise any exception
        raise ConfigError(
            f"cannot load method {name!r} ({type(error).__name__}: {error}): "
            f"give 'package.module:name' of something that can be imported"
        ) from error
    if isinstance(found, Method):
        return found
    if callable(found) and not isinstance(found, type):
        return replace(METHODS["grpo"], surrogate=found)
    raise ConfigError(
        f"method {name!r} is of type {type(found).__name__}: give a grpo.algorithm.Method, "
        f"or a function (ratio, logprobs, advantages, region) -> token losses"
    )
