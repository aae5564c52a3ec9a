"""Names of environments, and what an object given as one becomes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from grpo.environments.multi_turn import MultiTurn
from grpo.environments.protocol import Environment
from grpo.environments.single_turn import SingleTurn
from grpo.errors import ConfigError

__all__ = ["ENVIRONMENTS", "make_environment"]

ENVIRONMENTS: Mapping[str, Callable[[], Environment]] = MappingProxyType({"single_turn": SingleTurn})
"""By the name in the configuration: the function that makes the environment."""


def make_environment(given: Any, tokenizer: Any) -> Environment:
    """Return the environment that a name of the table, an environment, its class or a step environment's class means.

    Args:
        tokenizer: the policy's; renders the messages of step environments.

    Raises:
        ConfigError: it is none of these.
    """
    if isinstance(given, str):
        if given not in ENVIRONMENTS:
            names = ", ".join(sorted(ENVIRONMENTS))
            raise ConfigError(f"no environment named {given!r}: use {names}, or your own as 'package.module:name'")
        return ENVIRONMENTS[given]()
    if isinstance(given, type) and hasattr(given, "rollout"):
        given = given()
    if not isinstance(given, type) and isinstance(given, Environment):
        return given
    if hasattr(given, "step") and not isinstance(given, type):
        raise ConfigError(
            f"the environment is one {type(given).__name__}: give the class, or a function that makes one, "
            f"because each episode has its own"
        )
    if callable(given):
        return MultiTurn(given, tokenizer)
    raise ConfigError(
        f"the environment is a {type(given).__name__}: give an object with `rollout`, or a class with `reset`, `step` "
        f"and `close`"
    )
