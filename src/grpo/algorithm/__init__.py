"""Pure functions of tensors that make up a method: advantages, ratios, losses, KL. No models, no I/O."""

from __future__ import annotations

from grpo.algorithm.advantages import (
    Baseline,
    Combine,
    Scale,
    SumOverRanks,
    combined_advantages,
    group_advantages,
    has_variance,
    on_one_rank,
    token_advantages,
    weighted_advantages,
)
from grpo.algorithm.correction import truncated_importance_weights
from grpo.algorithm.kl import KL_ESTIMATORS, kl_divergence
from grpo.algorithm.losses import (
    LossMetrics,
    LossResult,
    RatioLevel,
    WeightRule,
    policy_loss,
    ratios,
    token_weights,
)
from grpo.algorithm.methods import METHODS, Method, find_method
from grpo.algorithm.surrogates import SURROGATES, Surrogate, TrustRegion

__all__ = [
    "KL_ESTIMATORS",
    "METHODS",
    "SURROGATES",
    "Baseline",
    "Combine",
    "LossMetrics",
    "LossResult",
    "Method",
    "RatioLevel",
    "Scale",
    "SumOverRanks",
    "Surrogate",
    "TrustRegion",
    "WeightRule",
    "combined_advantages",
    "find_method",
    "group_advantages",
    "has_variance",
    "kl_divergence",
    "on_one_rank",
    "policy_loss",
    "ratios",
    "token_advantages",
    "token_weights",
    "truncated_importance_weights",
    "weighted_advantages",
]
