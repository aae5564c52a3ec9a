"""Budgets that fit into memory: tokens of a micro-batch, and tokens whose keys and values the engine holds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from grpo.config import GRPOConfig
from grpo.distributed import connected_processes
from grpo.errors import ConfigError
from grpo.machine import free_memory_bytes
from grpo.policy import Policy
from grpo.types import Prompt
from grpo.update import token_budget

__all__ = ["cache_budget", "engine_dtype", "take_budgets"]

_CACHE_SHARE = 0.25
"""Share of the free memory that keys and values may take."""

_MOST_CACHE_TOKENS = 2**18
_LEAST_CACHE_TOKENS = 2**12


def take_budgets(config: GRPOConfig, policy: Policy, prompts: Sequence[Prompt], *, trains: bool) -> GRPOConfig:
    """Return the config with token budgets that fit into memory, where it leaves them open.

    A resumed run takes those it began with: how a step is cut decides the last bits of its sums.

    Args:
        prompts: all prompts that completions will be sampled for.
        trains: there will be micro-batches.

    Raises:
        ConfigError: the cache that it asks for cannot hold the longest prompt with a completion.
    """
    lengths = sorted(len(prompt.token_ids) for prompt in prompts) or [1]
    longest = config.rollout.max_completion_length
    chosen: dict[str, Any] = {}
    needed, cached = lengths[-1] + longest, config.rollout.max_cache_tokens
    if cached is None:
        chosen["max_cache_tokens"] = max(cache_budget(config, policy), needed)
    elif cached < needed:
        raise ConfigError(
            f"max_cache_tokens {cached} cannot hold the longest prompt of {lengths[-1]} tokens with a completion of "
            f"{longest}: raise it to at least {needed}, or lower max_prompt_length or max_completion_length"
        )
    if trains and config.optimizer.tokens_per_micro_batch is None:
        budget = token_budget(
            policy,
            free_bytes=free_memory_bytes(str(policy.device)),
            prompt_length=lengths[len(lengths) // 2],
            completion_length=longest,
            group_size=config.rollout.group_size,
        )
        # The least of all ranks, which run the same number of micro-batches.
        chosen["tokens_per_micro_batch"] = -connected_processes().max(-budget)
    return config.replace(**chosen) if chosen else config


def cache_budget(config: GRPOConfig, policy: Policy) -> int:
    """Return the most tokens whose keys and values the engine should hold, a power of two."""
    free = free_memory_bytes(str(policy.device))
    each = _cache_bytes_per_token(policy.model.config, engine_dtype(config, policy).itemsize)
    if free is None or each is None:
        return _MOST_CACHE_TOKENS
    fitting = max(1, int(_CACHE_SHARE * free / each))
    return min(_MOST_CACHE_TOKENS, max(_LEAST_CACHE_TOKENS, 1 << fitting.bit_length() - 1))


def engine_dtype(config: GRPOConfig, policy: Policy) -> torch.dtype:
    """Return the dtype of the engine's products."""
    return torch.bfloat16 if config.rollout.engine_dtype == "bfloat16" else policy.compute_dtype


def _cache_bytes_per_token(model_config: Any, item_size: int) -> int | None:
    """Return the bytes of a token's keys and values in all layers; None for a model without attention heads."""
    shape = model_config.get_text_config()
    heads = getattr(shape, "num_attention_heads", None)
    layers = getattr(shape, "num_hidden_layers", None)
    if not heads or not layers:
        return None
    key_heads = getattr(shape, "num_key_value_heads", None) or heads
    width = getattr(shape, "head_dim", None) or shape.hidden_size // heads
    return int(2 * layers * key_heads * width * item_size)
