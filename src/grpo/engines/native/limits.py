"""Checks of a request against the model and the cache, before anything runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from grpo.errors import ConfigError, InputError
from grpo.policy.attention import causal_lm
from grpo.types import Request, SamplingParams

__all__ = ["ModelLimits", "check_request", "check_tokens"]


@dataclass(frozen=True, slots=True)
class ModelLimits:
    """Vocabulary and positions of a model; None: its configuration states no limit."""

    vocabulary_size: int | None
    max_positions: int | None

    @classmethod
    def of(cls, model: nn.Module) -> ModelLimits:
        """Read them from the configuration of `model`."""
        config: Any = causal_lm(model).config
        config = config.get_text_config()
        return cls(getattr(config, "vocab_size", None), getattr(config, "max_position_embeddings", None))


def check_request(request: Request, limits: ModelLimits, max_cache_tokens: int) -> None:
    """Raise InputError for a prompt, ConfigError for sampling options, that can never be served."""
    _check_sampling(request.sampling)
    num_new = request.sampling.max_tokens
    check_tokens(request.prompt_ids, num_new, limits)
    needed = len(request.prompt_ids) + num_new
    if needed > max_cache_tokens:
        raise ConfigError(
            f"a prompt of {len(request.prompt_ids)} tokens and {num_new} new ones do not fit "
            f"max_cache_tokens={max_cache_tokens}: raise it to at least {needed}"
        )


def check_tokens(prompt: Sequence[int], num_new: int, limits: ModelLimits) -> None:
    """Raise InputError for a prompt without tokens or with unknown ones, ConfigError where positions do not suffice."""
    if len(prompt) == 0:
        raise InputError("the prompt has no tokens: give at least one (a start token, if the text is empty)")
    known = limits.vocabulary_size
    if known is not None and not 0 <= min(prompt) <= max(prompt) < known:
        raise InputError(
            f"the prompt has token ids from {min(prompt)} to {max(prompt)}, the model knows 0 to {known - 1}: "
            f"use the model's own tokenizer"
        )
    if limits.max_positions is not None and len(prompt) + num_new > limits.max_positions:
        raise ConfigError(
            f"a prompt of {len(prompt)} tokens and {num_new} new ones do not fit the model's {limits.max_positions} "
            f"positions: lower max_completion_length or leave out longer prompts"
        )


def _check_sampling(sampling: SamplingParams) -> None:
    if sampling.max_tokens < 1:
        raise ConfigError(f"max_tokens={sampling.max_tokens}: a completion has at least 1 token")
    if not 0 <= sampling.temperature < float("inf"):
        raise ConfigError(f"temperature={sampling.temperature}: give 0 (greedy) or a positive number")
    if sampling.top_k < 0 or not 0 < sampling.top_p <= 1 or not 0 <= sampling.min_p <= 1:
        raise ConfigError(
            f"top_k={sampling.top_k}, top_p={sampling.top_p}, min_p={sampling.min_p}: "
            f"give top_k ≥ 0, 0 < top_p ≤ 1 and 0 ≤ min_p ≤ 1"
        )
