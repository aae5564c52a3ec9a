"""Engines: implementations of the Sampler protocol, found by name."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from grpo.engines.protocol import Capabilities, Piece, Sampler, sample
from grpo.engines.weight_sync import describe_difference, differing_tensors, sync_weights
from grpo.errors import ConfigError
from grpo.policy import Policy

__all__ = [
    "ENGINES",
    "Capabilities",
    "Piece",
    "Sampler",
    "describe_difference",
    "differing_tensors",
    "make_sampler",
    "sample",
    "sync_weights",
]

ENGINES: Mapping[str, str] = MappingProxyType({"native": "grpo.engines.native:make_sampler"})
"""By the name in the configuration: the function that makes the sampler from a policy and engine options."""


def make_sampler(engine: str, policy: Policy, **options: Any) -> Sampler:
    """Return a sampler that has the policy's present weights.

    Args:
        engine: a key of `ENGINES`.
        options: of all engines; each takes those that its function has as parameters.

    Raises:
        ConfigError: there is no such engine, or an option is impossible.
    """
    if engine not in ENGINES:
        raise ConfigError(f"no engine named {engine!r}: use one of {', '.join(sorted(ENGINES))}")
    module, _, name = ENGINES[engine].partition(":")
    make: Callable[..., Sampler] = getattr(importlib.import_module(module), name)
    taken = inspect.signature(make).parameters
    return make(policy, **{name: value for name, value in options.items() if name in taken})
