"""What reward functions remember of a run, so that a resumed one goes on as if it had not stopped."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from typing import Any, TypeGuard

from grpo.errors import CheckpointError, RewardError
from grpo.rewards.function import RewardFunction
from grpo.rewards.hooks import Remembers
from grpo.rewards.readout import in_one_line

__all__ = ["read_states", "remembers", "restore_states"]


def read_states(functions: Iterable[RewardFunction]) -> dict[str, Any]:
    """Return by name what the functions' `state_dict()` say.

    Raises:
        RewardError: one cannot be had, or not be written as JSON.
    """
    states: dict[str, Any] = {}
    for function in functions:
        if not remembers(function.function):
            continue
        try:
            state = json.loads(json.dumps(function.function.state_dict()))
        except Exception as error:
            raise RewardError(
                f"state_dict() of reward {function.name!r} cannot be saved ({in_one_line(error)}): "
                f"let it return numbers, texts, lists and mappings of these"
            ) from error
        states[function.name] = state
    return states


def restore_states(functions: Iterable[RewardFunction], states: Mapping[str, Any]) -> None:
    """Give the functions back what they said; those that are new stay as they are.

    Raises:
        CheckpointError: one does not take it.
    """
    for function in functions:
        if function.name not in states or not remembers(function.function):
            continue
        try:
            function.function.load_state_dict(states[function.name])
        except Exception as error:
            raise CheckpointError(
                f"reward {function.name!r} does not take its saved state ({in_one_line(error)}): "
                f"it has changed since, so begin a new run"
            ) from error


def remembers(function: object) -> TypeGuard[Remembers]:
    """Return whether a function has a state of its own; the weights of a module are none."""
    torch = sys.modules.get("torch")
    return isinstance(function, Remembers) and not (torch is not None and isinstance(function, torch.nn.Module))
