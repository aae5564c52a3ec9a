"""The native engine: samples with the policy's own Hugging Face module, prompts shared, batch always full."""

from __future__ import annotations

import torch

from grpo.engines.native.engine import NativeEngine
from grpo.engines.native.sampler import NativeSampler
from grpo.policy import Policy

__all__ = ["NativeEngine", "NativeSampler", "make_sampler"]


def make_sampler(policy: Policy, *, max_sequences: int, max_cache_tokens: int, dtype: torch.dtype) -> NativeSampler:
    """Return a sampler that runs the policy's own module.

    Args:
        max_sequences: completions that run at the same time.
        max_cache_tokens: tokens whose keys and values may be held.
        dtype: of its matrix products.

    Raises:
        ConfigError: a limit is not positive.
    """
    engine = NativeEngine(
        policy.model,
        end_ids=policy.end_token_ids,
        max_sequences=max_sequences,
        max_cache_tokens=max_cache_tokens,
        dtype=None if dtype == torch.float32 else dtype,
    )
    return NativeSampler(engine, trainer_arithmetic=dtype == policy.compute_dtype)
