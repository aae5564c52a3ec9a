"""Completions of requests from a bare native engine, through the sampler that training uses."""

from __future__ import annotations

from collections.abc import Sequence

from grpo.engines import sample
from grpo.engines.native import NativeEngine, NativeSampler
from grpo.types import Completion, Request

__all__ = ["generate"]


def generate(engine: NativeEngine, requests: Sequence[Request]) -> list[tuple[Completion, ...]]:
    """Return the completions of each request."""
    return sample(NativeSampler(engine), requests)
