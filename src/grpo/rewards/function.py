"""One reward function with what the suite has to know to call it."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from grpo.errors import ConfigError

__all__ = ["PROVIDED", "RewardFunction", "TrainerState", "reward_function"]

PROVIDED = ("prompts", "completions", "completion_ids", "trainer_state", "log_extra", "log_metric")
"""What the suite hands to a function besides the data set's columns."""


@dataclass(frozen=True, slots=True)
class TrainerState:
    """Where the run is; handed to reward functions as `trainer_state`.

    Attributes:
        global_step: optimizer steps done.
        max_steps: steps in the whole run.
        epoch: passes over the training rows done.
    """

    global_step: int
    max_steps: int
    epoch: float = 0.0


@dataclass(frozen=True, slots=True)
class RewardFunction:
    """A reward function, its weight and how to call it. Made by `reward_function`.

    Attributes:
        name: unique in a suite; what logs call it.
        function: `f(prompts, completions, completion_ids, **columns) -> list[float | None]`.
        weight: factor in the total.
        parameters: arguments set once, which no column replaces.
        is_async: whether `function` is to be awaited.
        accepts: names it can be given; None when it takes any (`**kwargs`).
        columns: names of data set columns it cannot do without.
    """

    name: str
    function: Callable[..., Any]
    weight: float
    parameters: Mapping[str, Any]
    is_async: bool
    accepts: frozenset[str] | None
    columns: tuple[str, ...]

    def call(self, available: Mapping[str, Callable[[], Any]]) -> Any:
        """Return what the function returns, given those of the `available` arguments that it takes.

        Each is made for this call, so that a function which changes its arguments changes nobody else's.
        """
        names = available if self.accepts is None else [name for name in available if name in self.accepts]
        arguments = {name: available[name]() for name in names if name not in self.parameters}
        return self.function(**arguments, **self.parameters)

    def renamed(self, name: str) -> RewardFunction:
        """Return the same function under another name."""
        return replace(self, name=name)


def reward_function(
    function: Callable[..., Any],
    *,
    name: str | None = None,
    weight: float = 1.0,
    parameters: Mapping[str, Any] | None = None,
    options_are_fixed: bool = False,
) -> RewardFunction:
    """Return `function` ready for a suite.

    Args:
        name: by default the function's own.
        parameters: arguments to set once.
        options_are_fixed: keyword-only arguments are options, never columns: a column that happens to
            have such a name is not passed. So it is for the built-in functions.

    Raises:
        ConfigError: the weight is not a finite number, or the function does not take a parameter.
    """
    name = name or _name_of(function)
    if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not math.isfinite(weight):
        raise ConfigError(f"reward {name!r} has weight {weight!r}: use a finite number")
    given = dict(parameters or {})
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # some callables written in C
        return RewardFunction(
            name, function, float(weight), given, is_async=_is_async(function), accepts=None, columns=()
        )
    named = {
        parameter.name: parameter
        for parameter in signature.parameters.values()
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    }
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in signature.parameters.values())
    options = [key for key, parameter in named.items() if parameter.kind is parameter.KEYWORD_ONLY]
    settable = options if options_are_fixed else [key for key in named if key not in PROVIDED]
    unknown = [key for key in given if key not in settable]
    if unknown and (options_are_fixed or not takes_any):
        takes = f"it takes {settable}" if settable else "it takes none"
        raise ConfigError(f"reward {name!r} has no parameter {unknown[0]!r}: {takes}, besides name and weight")
    if options_are_fixed:
        given = {key: named[key].default for key in options} | given
    return RewardFunction(
        name=name,
        function=function,
        weight=float(weight),
        parameters=given,
        is_async=_is_async(function),
        accepts=None if takes_any else frozenset(named),
        columns=tuple(
            key
            for key, parameter in named.items()
            if parameter.default is parameter.empty and key not in PROVIDED and key not in given
        ),
    )


def _name_of(function: Callable[..., Any]) -> str:
    while isinstance(function, functools.partial):
        function = function.func
    name = str(getattr(function, "__name__", type(function).__name__))
    return name.strip("<>")


def _is_async(function: Callable[..., Any]) -> bool:
    while isinstance(function, functools.partial):
        function = function.func
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(getattr(function, "__call__", None))  # noqa: B004
