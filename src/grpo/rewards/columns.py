"""What each reward function said of a step's completions, and what is made of it: scores, figures and logs."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from grpo.rewards.calling.batch import CallResult
from grpo.rewards.function import RewardFunction
from grpo.rewards.readout import LARGEST_FLOAT32, Failed, Reading, in_one_line, reward_sum
from grpo.rewards.weights import WeightSchedule
from grpo.types import Score

__all__ = [
    "GATED_OUT",
    "NOTHING_APPLIES",
    "NO_REWARD",
    "Column",
    "column_of",
    "figures",
    "joined",
    "logged_values",
    "score_at",
]

NO_REWARD = "all"
"""The name under which `Score.failures` says that all functions together gave no total."""

NOTHING_APPLIES = ValueError("no reward applies, every function returned None")

GATED_OUT = "gated_out"
"""The name under which a completion's line in the log says what it was given and may not count."""

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Column:
    """One function's readings of all completions of a step.

    Attributes:
        weight: in force in this step.
        readings: one a completion, as they count.
        given: the same as the function gave them, where they are normalised; empty where they are not.
        results: of its calls, in order of the completions.
        seconds: that its call took, of several the longest.
        withheld: one a completion: what a gate keeps from counting; None where it keeps nothing. Empty without gate.
    """

    function: RewardFunction
    weight: float
    readings: Sequence[Reading]
    results: Sequence[CallResult]
    seconds: float
    given: Sequence[Reading] = ()
    withheld: Sequence[float | None] = ()

    @property
    def as_given(self) -> Sequence[Reading]:
        """The readings before any normalisation."""
        return self.given or self.readings


def column_of(function: RewardFunction, weight: float, results: Sequence[CallResult], seconds: float) -> Column:
    """Return the column that a function's calls make."""
    readings = [reading for result in results for reading in result.readings]
    return Column(function, weight, readings, results, seconds)


def joined(columns: Sequence[Column]) -> Column:
    """Return one function's columns of several scorings as one; the seconds add up."""
    return replace(
        columns[-1],
        readings=[reading for column in columns for reading in column.readings],
        results=[result for column in columns for result in column.results],
        seconds=sum(column.seconds for column in columns),
        given=[reading for column in columns for reading in column.given],
        withheld=[reward for column in columns for reward in column.withheld],
    )


def score_at(columns: Sequence[Column], place: int) -> Score:
    """Return what all functions together say of one completion."""
    rewards: dict[str, float | None] = {}
    failures: dict[str, str] = {}
    counted: dict[str, tuple[float, float]] = {}
    token_rewards: list[float | None] | None = None
    for column in columns:
        name, reading = column.function.name, column.readings[place]
        rewards[name] = reward_sum(reading)
        if isinstance(reading, Failed):
            failures[name] = in_one_line(reading.error)
        elif isinstance(reading, tuple):
            token_rewards = _added(token_rewards or [None] * len(reading), reading, column.weight)
        elif reading is not None:
            counted[name] = (column.weight, reading)
    total = 0.0
    for weight, reward in counted.values():
        total += weight * reward
    if not failures and (trouble := _trouble(total, counted, token_rewards)) is not None:
        failures[NO_REWARD] = in_one_line(trouble)
    return Score(
        rewards=rewards,
        failures=failures,
        total=None if failures else total,
        token_rewards=None if token_rewards is None else tuple(token_rewards),
        counted=counted,
    )


def _trouble(
    total: float, counted: Mapping[str, tuple[float, float]], token_rewards: Sequence[float | None] | None
) -> Exception | None:
    """Return what is wrong with a total that no function has failed; None: nothing."""
    if not counted and token_rewards is None:
        return NOTHING_APPLIES
    largest = max(abs(sum_) for sum_ in (total, *(reward for reward in token_rewards or () if reward is not None)))
    if largest <= LARGEST_FLOAT32:
        return None
    return OverflowError(f"weights make the rewards {largest:.3g}, more than float32 holds")


def _added(sums: Sequence[float | None], rewards: Sequence[float | None], weight: float) -> list[float | None]:
    return [
        before if reward is None else (before or 0.0) + weight * reward
        for before, reward in zip(sums, rewards, strict=True)
    ]


def figures(columns: Sequence[Column]) -> dict[str, float]:
    """Return the metrics that `SuiteResult` describes, but for those of all functions together."""
    metrics: dict[str, float] = {}
    logged: dict[str, list[float]] = {}
    for column in columns:
        name = f"rewards/{column.function.name}"
        values = [value for value in map(reward_sum, column.as_given) if value is not None]
        if values:
            mean = sum(values) / len(values)
            deviations = sum((value - mean) ** 2 for value in values)
            metrics[f"{name}/mean"] = mean
            metrics[f"{name}/std"] = math.sqrt(deviations / max(1, len(values) - 1))
        metrics[f"{name}/failed"] = float(sum(isinstance(reading, Failed) for reading in column.readings))
        metrics[f"{name}/seconds"] = column.seconds
        if isinstance(column.function.weight, WeightSchedule):
            metrics[f"{name}/weight"] = column.weight
        if column.function.gate is not None:
            metrics[f"{name}/gated_out"] = float(sum(reward is not None for reward in column.withheld))
        for result in column.results:
            for metric, numbers in result.recorder.metrics.items():
                logged.setdefault(f"user/{metric}", []).extend(numbers)
    return metrics | {name: sum(numbers) / len(numbers) for name, numbers in logged.items()}


def logged_values(columns: Sequence[Column], count: int, said: set[str]) -> list[dict[str, Any]]:
    """Return for each of `count` completions what functions logged of it, and what gates kept from counting.

    What a function logged in a number of values that does not fit its completions is left out and warned of,
    unless `said` shows that this was done; `said` is added to.
    """
    rows: list[dict[str, Any]] = [{} for _ in range(count)]
    taken = {GATED_OUT}
    for column in columns:
        for name, values, fits in _own_columns(column):
            key = name if name not in taken else f"{column.function.name}/{name}"
            if not fits:
                if key not in said:
                    said.add(key)
                    _warn(column, name, len(values), count)
                continue
            taken.add(key)
            for row, value in zip(rows, values, strict=True):
                row[key] = value
    for place, row in enumerate(rows):
        withheld = {column.function.name: column.withheld[place] for column in columns if column.withheld}
        if any(reward is not None for reward in withheld.values()):
            row[GATED_OUT] = {name: reward for name, reward in withheld.items() if reward is not None}
    return rows


def _own_columns(column: Column) -> Iterator[tuple[str, list[Any], bool]]:
    """Yield the names a function logged under, the values, and whether each call logged one a completion.

    The values are None for the completions of calls that logged nothing under the name.
    """
    for name in dict.fromkeys(name for result in column.results for name in result.recorder.columns):
        values, fits = list[Any](), True
        for result in column.results:
            own = result.recorder.columns.get(name, [None] * len(result.readings))
            fits = fits and len(own) == len(result.readings)
            values.extend(own)
        yield name, values, fits


def _warn(column: Column, name: str, found: int, count: int) -> None:
    _logger.warning(
        "reward %r logged %d values in column %r for %d completions: not shown (said once)",
        column.function.name,
        found,
        name,
        count,
    )
