"""The table of environments by name, and the conversion of a name, class or object to an `Environment`."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from grpo.environments.multi_turn import MultiTurn
from grpo.environments.protocol import Environment
from grpo.environments.single_turn import SingleTurn
from grpo.errors import ConfigError

__all__ = ["ENVIRONMENTS", "make_environment"]

ENVIRONMENTS: Mapping[str, type] = MappingProxyType({"single_turn": SingleTurn})
"""By the name in the configuration: the class of an environment or of a step environment."""


_METHODS = ("reset", "step", "close")


def make_environment(given: Any, tokenizer: Any, *, chat: bool | None = None) -> Environment:
    """Return the environment for a name in the table, an environment, its class, or a step environment's class.

    Args:
        tokenizer, chat: for the messages of step environments; see `TurnTokens`.

    Raises:
        ConfigError: it is none of these.
        ModelError: the chat template cannot be extended by turns.
    """
    if isinstance(given, str):
        if given not in ENVIRONMENTS:
            names = ", ".join(sorted(ENVIRONMENTS))
            raise ConfigError(f"no environment named {given!r}: use {names}, or your own as 'package.module:name'")
        given = ENVIRONMENTS[given]
    if isinstance(given, type) and hasattr(given, "rollout"):
        try:
            given = given()
        except TypeError as error:
            raise ConfigError(f"the environment cannot be made without arguments: {error}: give an object") from error
    if isinstance(given, type) and (missing := [name for name in _METHODS if not hasattr(given, name)]):
        raise ConfigError(
            f"the environment {given.__name__} has no {', '.join(missing)}: a class needs all of {_METHODS}"
        )
    if not isinstance(given, type) and isinstance(given, Environment):
        return given
    if hasattr(given, "step") and not isinstance(given, type):
        raise ConfigError(
            f"the environment is one {type(given).__name__}: give the class, or a function that makes one, "
            f"because each episode has its own"
        )
    if callable(given):
        return MultiTurn(given, tokenizer, chat=chat)
    raise ConfigError(
        f"the environment is a {type(given).__name__}: give an object with `rollout`, or a class with `reset`, `step` "
        f"and `close`"
    )
