"""One reward function with what the suite has to know to call it and to count what it gives."""

from __future__ import annotations

import difflib
import functools
import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from grpo.errors import ConfigError
from grpo.rewards.weights import Weight, is_finite_number, read_weight

__all__ = ["PROVIDED", "SUITE_OPTIONS", "RewardFunction", "TrainerState", "reward_function"]

PROVIDED = ("prompts", "completions", "completion_ids", "trainer_state", "log_extra", "log_metric")
"""What the suite hands to a function besides the data set's columns."""

SUITE_OPTIONS = ("gate", "gate_at", "normalise", "overlap", "processes")
"""What may be said of a reward besides its name, its weight and the function's own parameters."""


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
        weight: factor in the total, or how that changes over the steps.
        parameters: arguments set once, which no column replaces.
        is_async: whether `function` is to be awaited.
        accepts: names it can be given; None when it takes any (`**kwargs`).
        columns: names of data set columns it cannot do without.
        gate: name of the reward that has to be above `gate_at` for this one to count; None: it always counts.
        normalise: it counts as its deviation from its mean over the run, in units of its standard deviation.
        overlap: it is called for each group as soon as that is finished, while others are still generated.
        processes: it runs in so many processes of its own, a group at a time; 0: in a thread of this one.
    """

    name: str
    function: Callable[..., Any]
    weight: Weight
    parameters: Mapping[str, Any]
    is_async: bool
    accepts: frozenset[str] | None
    columns: tuple[str, ...]
    gate: str | None = None
    gate_at: float = 0.0
    normalise: bool = False
    overlap: bool = False
    processes: int = 0

    @property
    def by_group(self) -> bool:
        """Whether a call has the completions of one group, and not those of the whole step."""
        return self.overlap or self.processes > 0

    def call(self, available: Mapping[str, Callable[[], Any]]) -> Any:
        """Return what the function returns, given those of the `available` arguments that it takes.

        Each is made for this call, so that a function which changes its arguments changes nobody else's.
        """
        return self.function(**{name: available[name]() for name in self.takes(available)}, **self.parameters)

    def takes(self, names: Sequence[str] | Mapping[str, Any]) -> list[str]:
        """Return those of `names` that a call passes."""
        return [
            name for name in names if name not in self.parameters and (self.accepts is None or name in self.accepts)
        ]

    def renamed(self, name: str) -> RewardFunction:
        """Return the same function under another name."""
        return replace(self, name=name)

    def with_options(
        self,
        *,
        gate: Any = None,
        gate_at: Any = None,
        normalise: Any = None,
        overlap: Any = None,
        processes: Any = None,
    ) -> RewardFunction:
        """Return the same function with `SUITE_OPTIONS` set; None is what an option is when nothing is said of it.

        Args:
            gate: name of another reward of the suite; None: this one always counts.
            gate_at: finite number that the other reward has to be above; None: 0.
            normalise: "running": over the run; None: it counts as it is.
            overlap: None: on for async functions, for those with processes, and for those that say so themselves
                (a true attribute `overlaps`). Other functions run in a thread of their own when it is on.
            processes: None: 0.

        Raises:
            ConfigError: one has an impossible value, or a function like this one cannot have it.
        """
        said = f"reward {self.name!r} has"
        if gate is not None and (not isinstance(gate, str) or not gate.strip()):
            raise ConfigError(f"{said} gate={gate!r}: give the name of another reward")
        if gate_at is not None and gate is None:
            raise ConfigError(f"{said} gate_at={gate_at!r} but no gate: name the reward that gates it, gate=NAME")
        if gate_at is not None and not is_finite_number(gate_at):
            raise ConfigError(f"{said} gate_at={gate_at!r}: use a finite number")
        if normalise not in (None, "running"):
            raise ConfigError(f"{said} normalise={normalise!r}: use 'running', or leave it out")
        if overlap is not None and not isinstance(overlap, bool):
            raise ConfigError(f"{said} overlap={overlap!r}: use true or false")
        processes = 0 if processes is None else processes
        if isinstance(processes, bool) or not isinstance(processes, int) or processes < 0:
            raise ConfigError(f"{said} processes={processes!r}: use a whole number, 0 for none")
        if processes > 0:
            self._require_processes(processes)
        return replace(
            self,
            gate=None if gate is None else gate.strip(),
            gate_at=0.0 if gate_at is None else float(gate_at),
            normalise=normalise is not None,
            overlap=self.overlap or processes > 0 if overlap is None else overlap,
            processes=processes,
        )

    def _require_processes(self, processes: int) -> None:
        """Raise ConfigError if this function cannot run in processes of its own."""
        said = f"reward {self.name!r} has processes={processes}"
        if self.is_async:
            raise ConfigError(f"{said}, but it is async: leave them out")
        if hasattr(self.function, "load_state_dict"):
            raise ConfigError(f"{said}, but a state that a run saves, which they would not share: leave them out")
        if not hasattr(os, "killpg"):
            raise ConfigError(f"{said}, which need Linux or macOS: leave them out")


def reward_function(
    function: Callable[..., Any],
    *,
    name: str | None = None,
    weight: Weight | Mapping[str, Any] = 1.0,
    parameters: Mapping[str, Any] | None = None,
    options_are_fixed: bool = False,
) -> RewardFunction:
    """Return `function` ready for a suite.

    Args:
        name: by default the function's own.
        weight: as `read_weight` takes it.
        parameters: arguments to set once.
        options_are_fixed: keyword-only arguments are options, never columns: a column that happens to
            have such a name is not passed. So it is for the built-in functions.

    Raises:
        ConfigError: the weight is impossible, or the function does not take a parameter.
    """
    name = name or _name_of(function)
    weight = read_weight(weight, name)
    is_async = _is_async(function)
    overlap = is_async or getattr(function, "overlaps", False) is True
    given = dict(parameters or {})
    named, takes_any = _signature(function, name)
    options = [key for key, parameter in named.items() if parameter.kind is parameter.KEYWORD_ONLY]
    settable = options if options_are_fixed else [key for key in named if key not in PROVIDED]
    if options_are_fixed or not takes_any:
        _check_parameters(name, given, settable)
    else:
        _refuse_slips(name, [key for key in given if key not in settable])
    if options_are_fixed:
        given = {key: named[key].default for key in options} | given
    return RewardFunction(
        name=name,
        function=function,
        weight=weight,
        parameters=given,
        is_async=is_async,
        accepts=None if takes_any else frozenset(named),
        columns=tuple(
            key
            for key, parameter in named.items()
            if parameter.default is parameter.empty and key not in PROVIDED and key not in given
        ),
        overlap=overlap,
    )


def _signature(function: Callable[..., Any], name: str) -> tuple[dict[str, inspect.Parameter], bool]:
    """Return the parameters that can be given by name, and whether it takes any others."""
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):  # some callables written in C
        return {}, True
    nameless = [key for key, parameter in parameters.items() if parameter.kind is parameter.POSITIONAL_ONLY]
    if nameless:
        raise ConfigError(f"reward {name!r} takes {nameless[0]!r} by position only: leave out the '/' in its signature")
    by_name = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    named = {key: parameter for key, parameter in parameters.items() if parameter.kind in by_name}
    return named, any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())


def _check_parameters(name: str, given: Mapping[str, Any], settable: Sequence[str]) -> None:
    for key in given:
        if key not in settable:
            takes = f"it takes {list(settable)}" if settable else "it takes none"
            raise ConfigError(
                f"reward {name!r} has no parameter {key!r}: {takes}, besides name, weight, {', '.join(SUITE_OPTIONS)}"
            )


def _refuse_slips(name: str, keys: Sequence[str]) -> None:
    """Refuse what only `**kwargs` would take and looks like an option that was meant."""
    for key in keys:
        meant = difflib.get_close_matches(key, ("weight", *SUITE_OPTIONS), n=1, cutoff=0.8)
        if meant:
            raise ConfigError(f"reward {name!r} has {key!r}: did you mean {meant[0]!r}?")


def _name_of(function: Callable[..., Any]) -> str:
    while isinstance(function, functools.partial):
        function = function.func
    name = str(getattr(function, "__name__", type(function).__name__))
    return name.strip("<>")


def _is_async(function: Callable[..., Any]) -> bool:
    while isinstance(function, functools.partial):
        function = function.func
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(getattr(function, "__call__", None))  # noqa: B004
