"""One reward function with its weight, its options and the arguments it takes."""

from __future__ import annotations

import difflib
import inspect
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from grpo.errors import ConfigError
from grpo.rewards.failures import without_partial
from grpo.rewards.weights import Weight, read_weight

__all__ = ["PROVIDED", "SUITE_OPTIONS", "RewardFunction", "TrainerState", "reward_function"]

PROVIDED = ("prompts", "completions", "completion_ids", "opened_tags", "trainer_state", "log_extra", "log_metric")
"""Arguments that the suite passes to a function besides the data set's columns."""

_ONLY_BY_NAME = frozenset({"opened_tags"})
"""Arguments that TRL does not have: a function with `**kwargs` gets them only if it names them."""


class _SuiteOptions(BaseModel):
    """Options of every reward besides its name, its weight and the function's own parameters.

    A description is the last part of the message about a wrong value.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False, str_strip_whitespace=True)

    gate: str | None = Field(None, min_length=1, description="give the name of another reward")
    gate_at: float | None = Field(None, description="use a finite number")
    normalise: Literal["running"] | None = Field(None, description="use 'running', or leave it out")
    overlap: bool | None = Field(None, description="use true or false")
    processes: int | None = Field(None, ge=0, description="use a whole number, 0 for none")


SUITE_OPTIONS = tuple(_SuiteOptions.model_fields)
"""Names of the options that `RewardFunction.with_options` sets."""


@dataclass(frozen=True, slots=True)
class TrainerState:
    """Position in the run; passed to reward functions as `trainer_state`.

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
    """A reward function, its weight and its options. Made by `reward_function`.

    Attributes:
        name: unique in a suite; used in logs.
        function: `f(prompts, completions, completion_ids, **columns) -> list[float | None]`.
        weight: factor in the total, or its schedule over the steps.
        parameters: arguments set once, which no column replaces.
        is_async: whether `function` is to be awaited.
        named: names of arguments in its signature.
        takes_any: whether it takes any other arguments as well (`**kwargs`).
        columns: names of data set columns that it requires.
        gate: name of the reward that has to be above `gate_at` for this one to count; None: it always counts.
        normalise: it counts as its deviation from its mean over the run, in units of its standard deviation.
        overlap: it is called for each group as soon as that is finished, while others are still generated.
        processes: number of processes in which it runs, a group at a time; 0: it runs in a thread.
    """

    name: str
    function: Callable[..., Any]
    weight: Weight
    parameters: Mapping[str, Any]
    is_async: bool
    named: frozenset[str]
    takes_any: bool
    columns: tuple[str, ...]
    gate: str | None = None
    gate_at: float = 0.0
    normalise: bool = False
    overlap: bool = False
    processes: int = 0

    @property
    def by_group(self) -> bool:
        """True if a call has the completions of one group, False if it has those of the whole step."""
        return self.overlap or self.processes > 0

    def call(self, available: Mapping[str, Callable[[], Any]]) -> Any:
        """Return the function's return value, called with those of the `available` arguments that it takes.

        Args:
            available: makers of arguments by name. They are called for this call alone, so that a function which
                changes its arguments changes them for no other function.
        """
        return self.function(**{name: available[name]() for name in self.takes(available)}, **self.parameters)

    def takes(self, names: Iterable[str]) -> list[str]:
        """Return those of `names` that a call passes."""
        return [
            name
            for name in names
            if name not in self.parameters and (name in self.named or (self.takes_any and name not in _ONLY_BY_NAME))
        ]

    def with_options(self, **options: Any) -> RewardFunction:
        """Return the same function with other options.

        Args:
            options: by the names in `SUITE_OPTIONS`, with the meaning of the attributes; None is the default.
                `normalise` is "running" (over the run) or None. `overlap` is by default on for async functions,
                for functions with processes, and for those with a true attribute `overlaps`; other functions run in
                a thread of their own when it is on.

        Raises:
            ConfigError: an option is unknown, has an impossible value, or does not fit this function.
        """
        try:
            chosen = _SuiteOptions.model_validate(options)
        except ValidationError as error:
            option = str(error.errors()[0]["loc"][0])
            field = _SuiteOptions.model_fields.get(option)
            allowed = f"the options are {', '.join(SUITE_OPTIONS)}" if field is None else field.description
            raise ConfigError(f"reward {self.name!r} has {option}={options[option]!r}: {allowed}") from error
        if chosen.gate_at is not None and chosen.gate is None:
            raise ConfigError(
                f"reward {self.name!r} has gate_at={chosen.gate_at!r} but no gate: name the reward that gates it, "
                f"gate=NAME"
            )
        processes = chosen.processes or 0
        if processes:
            self._require_processes(processes)
        return replace(
            self,
            gate=chosen.gate,
            gate_at=chosen.gate_at or 0.0,
            normalise=chosen.normalise is not None,
            overlap=self.overlap or processes > 0 if chosen.overlap is None else chosen.overlap,
            processes=processes,
        )

    def _require_processes(self, processes: int) -> None:
        """Raise ConfigError if this function cannot run in processes of its own."""
        if self.is_async:
            reason = "but it is async"
        elif inspect.getattr_static(self.function, "load_state_dict", None) is not None:
            reason = "but a state that a run saves, which they would not share"
        elif not hasattr(os, "killpg"):
            reason = "which need Linux or macOS"
        else:
            return
        raise ConfigError(f"reward {self.name!r} has processes={processes}, {reason}: leave them out")


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
        weight: in a form that `read_weight` takes.
        parameters: arguments to set once.
        options_are_fixed: keyword-only arguments are options, never columns: a column with such a name is not
            passed. True for the built-in functions.

    Raises:
        ConfigError: the weight is impossible, or the function does not take a parameter.
    """
    inner = without_partial(function)
    name = name or str(getattr(inner, "__name__", type(inner).__name__)).strip("<>")
    parameters = dict(parameters or {})
    named, takes_any = _signature(function, name)
    options = [key for key, parameter in named.items() if parameter.kind is parameter.KEYWORD_ONLY]
    settable = options if options_are_fixed else [key for key in named if key not in PROVIDED]
    _check_parameters(name, parameters, settable, takes_any=takes_any and not options_are_fixed)
    if options_are_fixed:
        parameters = {key: named[key].default for key in options} | parameters
    is_async = any(map(inspect.iscoroutinefunction, (inner, getattr(inner, "__call__", None))))  # noqa: B004
    return RewardFunction(
        name=name,
        function=function,
        weight=read_weight(weight, name),
        parameters=parameters,
        is_async=is_async,
        named=frozenset(named),
        takes_any=takes_any,
        columns=tuple(
            key
            for key, parameter in named.items()
            if parameter.default is parameter.empty and key not in PROVIDED and key not in parameters
        ),
        overlap=is_async or getattr(function, "overlaps", False) is True,
    )


def _signature(function: Callable[..., Any], name: str) -> tuple[dict[str, inspect.Parameter], bool]:
    """Return the parameters that can be passed by name, and whether the function takes any others."""
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


def _check_parameters(name: str, parameters: Mapping[str, Any], settable: Sequence[str], *, takes_any: bool) -> None:
    """Raise ConfigError for a parameter that the function does not take, or that looks like a misspelt option."""
    for key in parameters:
        if key in settable:
            continue
        if not takes_any:
            takes = f"it takes {list(settable)}" if settable else "it takes none"
            raise ConfigError(
                f"reward {name!r} has no parameter {key!r}: {takes}, besides name, weight, {', '.join(SUITE_OPTIONS)}"
            )
        meant = difflib.get_close_matches(key, ("weight", *SUITE_OPTIONS), n=1, cutoff=0.8)
        if meant:
            raise ConfigError(f"reward {name!r} has {key!r}: did you mean {meant[0]!r}?")
