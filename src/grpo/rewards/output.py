"""Outputs of reward functions: the one type that flows from a call to scores, metrics and logs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

__all__ = ["CallLog", "Failure", "RewardOutput", "RewardValue", "TokenRewards", "value_sum"]

TokenRewards: TypeAlias = tuple[float | None, ...]
"""One reward a token of a completion; None for tokens without a reward."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A missing reward, with the exception that explains it."""

    error: BaseException


RewardValue: TypeAlias = float | TokenRewards | Failure | None
"""One completion's reward, its token rewards, a failure, or None: not applicable."""


def value_sum(value: RewardValue) -> float | None:
    """Return a reward as one number (of token rewards their sum), None for a failure or no reward."""
    if isinstance(value, tuple):
        return sum(reward for reward in value if reward is not None)
    return None if isinstance(value, Failure) else value


@dataclass(frozen=True, slots=True)
class RewardOutput:
    """Values, log entries and duration of one reward function for a batch of completions.

    Attributes:
        values: one a completion, as they count; normalisation and gates replace them.
        seconds: duration of the call; of parallel calls the longest.
        extras: one mapping a completion, from column to the value given to `log_extra`.
        misfit_extras: by column, the number of values given to `log_extra` where that is not one a completion.
        metrics: by name, the numbers given to `log_metric`, in order.
        error: the exception that failed the whole call.
        raw_values: the values before normalisation; None without normalisation.
        withheld: one a completion: the reward that a closed gate keeps from counting, else None; empty without a gate.
    """

    values: tuple[RewardValue, ...]
    seconds: float = 0.0
    extras: tuple[Mapping[str, Any], ...] = ()
    misfit_extras: Mapping[str, int] = field(default_factory=dict)
    metrics: Mapping[str, Sequence[float]] = field(default_factory=dict)
    error: BaseException | None = None
    raw_values: tuple[RewardValue, ...] | None = None
    withheld: tuple[float | None, ...] = ()

    @classmethod
    def failed(cls, error: BaseException, count: int, seconds: float = 0.0) -> RewardOutput:
        """Return the output of a call that failed for all its `count` completions."""
        return cls((Failure(error),) * count, seconds, ({},) * count, error=error)

    @classmethod
    def concat(cls, outputs: Sequence[RewardOutput], *, seconds: float) -> RewardOutput:
        """Return one function's outputs for successive batches as the output for all their completions."""
        misfits = dict.fromkeys(column for output in outputs for column in output.misfit_extras)
        metrics: dict[str, list[float]] = {}
        for output in outputs:
            for name, numbers in output.metrics.items():
                metrics.setdefault(name, []).extend(numbers)
        raw_values = None
        if any(output.raw_values is not None for output in outputs):
            raw_values = tuple(value for output in outputs for value in output.unnormalised)
        return cls(
            values=tuple(value for output in outputs for value in output.values),
            seconds=seconds,
            extras=tuple(extras for output in outputs for extras in output.extras),
            misfit_extras={
                column: sum(output.misfit_extras.get(column, len(output.values)) for output in outputs)
                for column in misfits
            },
            metrics=metrics,
            raw_values=raw_values,
            withheld=tuple(reward for output in outputs for reward in output.withheld),
        )

    @property
    def unnormalised(self) -> tuple[RewardValue, ...]:
        """The values before any normalisation."""
        return self.values if self.raw_values is None else self.raw_values

    @property
    def failures(self) -> list[Failure]:
        """The failures among the values."""
        return [value for value in self.values if isinstance(value, Failure)]

    def with_errors(self, convert: Callable[[BaseException], BaseException]) -> RewardOutput:
        """Return this output with every exception converted."""
        if self.error is not None:
            return self.failed(convert(self.error), len(self.values), self.seconds)
        values = (Failure(convert(value.error)) if isinstance(value, Failure) else value for value in self.values)
        return replace(self, values=tuple(values))


@dataclass(frozen=True, slots=True)
class CallLog:
    """Log entries of one call: the functions `log_metric` and `log_extra` that a reward function is given."""

    metrics: dict[str, list[float]] = field(default_factory=dict)
    columns: dict[str, list[Any]] = field(default_factory=dict)

    def log_metric(self, name: str, value: float) -> None:
        """Keep a number; a step shows the mean by name. NaN and infinity are left out."""
        if math.isfinite(number := float(value)):
            self.metrics.setdefault(name, []).append(number)

    def log_extra(self, column: str, values: Iterable[Any]) -> None:
        """Append values to a column of `completions.jsonl`; by the end of the call, one a completion."""
        self.columns.setdefault(column, []).extend(values)

    def output(self, values: Sequence[RewardValue], seconds: float) -> RewardOutput:
        """Return the output of the call with these values and the entries so far."""
        fitting = {column: logged for column, logged in self.columns.items() if len(logged) == len(values)}
        return RewardOutput(
            values=tuple(values),
            seconds=seconds,
            extras=tuple({column: logged[place] for column, logged in fitting.items()} for place in range(len(values))),
            misfit_extras={column: len(logged) for column, logged in self.columns.items() if column not in fitting},
            metrics={name: tuple(numbers) for name, numbers in self.metrics.items()},
        )
