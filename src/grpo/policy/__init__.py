"""The model that is trained: loading, adapters, attention over packed rows, log-probabilities."""

from __future__ import annotations

from grpo.policy.adapters import LoraSettings
from grpo.policy.attention import ATTENTION_NAME, Attend, causal_lm, masked_attention, placeholder_mask, use_attention
from grpo.policy.export import ExportedWeights
from grpo.policy.load import load_policy
from grpo.policy.policy import Policy
from grpo.policy.sharing import shared_copy
from grpo.policy.token_logprobs import TokenLogprobs

__all__ = [
    "ATTENTION_NAME",
    "Attend",
    "ExportedWeights",
    "LoraSettings",
    "Policy",
    "TokenLogprobs",
    "causal_lm",
    "load_policy",
    "masked_attention",
    "placeholder_mask",
    "shared_copy",
    "use_attention",
]
