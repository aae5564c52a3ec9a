"""Optional members of a reward object, found by their names, and the state of those objects in checkpoints."""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol, TypeGuard, runtime_checkable

from grpo.errors import CheckpointError, RewardError
from grpo.rewards.failures import describe_error
from grpo.rewards.function import RewardFunction

__all__ = [
    "ChecksRows",
    "CountsTotals",
    "HasMemory",
    "Stateful",
    "is_stateful",
    "offers",
    "read_states",
    "restore_states",
]


@runtime_checkable
class Stateful(Protocol):
    """State of a reward, saved with every checkpoint and restored when a run resumes."""

    def state_dict(self) -> Mapping[str, Any]:
        """Return the state as numbers, texts, lists and mappings of these."""
        ...

    def load_state_dict(self, state: Mapping[str, Any], /) -> None:
        """Restore a state that `state_dict` returned."""
        ...


@runtime_checkable
class ChecksRows(Protocol):
    """Check of the data set before the first step."""

    def check_rows(self, rows: Sequence[Mapping[str, Any]], /) -> None:
        """Raise a DataError for a row, given by its columns, that the reward cannot work with."""
        ...


@runtime_checkable
class CountsTotals(Protocol):
    """Totals of a resource that the reward uses up, shown in each step and at the end of a run.

    They are not saved by themselves: a reward that continues them after a resume has them in its `state_dict`.
    """

    @property
    def totals(self) -> Mapping[str, float]:
        """Amounts by name, since the run began."""
        ...


@runtime_checkable
class HasMemory(Protocol):
    """Stored answers, which make a reward look faster and more repeatable to a check than it is."""

    def without_memory(self) -> AbstractContextManager[None]:
        """Compute every answer inside the context, without the stored ones."""
        ...


def offers(function: object, protocol: Any) -> bool:
    """Return whether a reward has the members of a protocol; attributes that are made on demand do not count.

    A mock, for instance, has an attribute of every name, which is all that `isinstance` looks for.
    """
    names = [name for name in vars(protocol) if not name.startswith("_")]
    return all(inspect.getattr_static(function, name, None) is not None for name in names)


def is_stateful(function: object) -> TypeGuard[Stateful]:
    """Return whether a reward has a state of its own; the weights of a torch module are none."""
    torch = sys.modules.get("torch")
    is_module = torch is not None and isinstance(function, torch.nn.Module)
    return isinstance(function, Stateful) and offers(function, Stateful) and not is_module


def read_states(functions: Iterable[RewardFunction]) -> dict[str, Any]:
    """Return the states of stateful functions by name.

    Raises:
        RewardError: a `state_dict()` raises, or JSON cannot hold what it returns.
    """
    states: dict[str, Any] = {}
    for function in functions:
        if is_stateful(function.function):
            try:
                states[function.name] = json.loads(json.dumps(function.function.state_dict()))
            except Exception as error:
                raise RewardError(
                    f"state_dict() of reward {function.name!r} cannot be saved ({describe_error(error)}): "
                    f"let it return numbers, texts, lists and mappings of these"
                ) from error
    return states


def restore_states(functions: Iterable[RewardFunction], states: Mapping[str, Any]) -> None:
    """Restore the states of stateful functions by name; functions without a saved state stay as they are.

    Raises:
        CheckpointError: a function refuses its state.
    """
    for function in functions:
        if function.name in states and is_stateful(function.function):
            try:
                function.function.load_state_dict(states[function.name])
            except Exception as error:
                raise CheckpointError(
                    f"reward {function.name!r} does not take its saved state ({describe_error(error)}): "
                    f"it has changed since, so begin a new run"
                ) from error
