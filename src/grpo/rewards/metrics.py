"""Outputs of reward functions → figures that add up over processes → metrics of a step."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from grpo.rewards.function import RewardFunction
from grpo.rewards.output import RewardOutput, value_sum
from grpo.rewards.weights import WeightSchedule

__all__ = ["RewardFigures", "reward_metrics"]


@dataclass(frozen=True, slots=True)
class RewardFigures:
    """Figures of one reward for a step's completions, from which its metrics are computed; `+` joins two processes.

    Attributes:
        values: of the completions that have a number, before it is normalised.
        num_failed: completions without a number because the function failed.
        num_gated_out: completions whose reward a closed gate keeps from counting.
        seconds: of the call; of parallel calls the longest.
        logged: by name, the numbers given to `log_metric`.
    """

    values: tuple[float, ...]
    num_failed: int
    num_gated_out: int
    seconds: float
    logged: Mapping[str, tuple[float, ...]]

    @classmethod
    def of(cls, output: RewardOutput) -> RewardFigures:
        """Return the figures of one process's completions."""
        return cls(
            values=tuple(value for value in map(value_sum, output.unnormalised) if value is not None),
            num_failed=len(output.failures),
            num_gated_out=sum(held is not None for held in output.withheld),
            seconds=output.seconds,
            logged={name: tuple(numbers) for name, numbers in output.metrics.items()},
        )

    def __add__(self, other: RewardFigures) -> RewardFigures:
        """Return the figures of both processes together."""
        names = dict.fromkeys([*self.logged, *other.logged])
        return RewardFigures(
            self.values + other.values,
            self.num_failed + other.num_failed,
            self.num_gated_out + other.num_gated_out,
            max(self.seconds, other.seconds),
            {name: (*self.logged.get(name, ()), *other.logged.get(name, ())) for name in names},
        )


def reward_metrics(
    functions: Sequence[RewardFunction], figures: Mapping[str, RewardFigures], weights: Mapping[str, float]
) -> dict[str, float]:
    """Return the metrics of each reward as `SuiteResult` lists them."""
    metrics: dict[str, float] = {}
    logged: dict[str, list[float]] = {}
    by_name = {function.name: function for function in functions}
    for reward, found in figures.items():
        name, function = f"rewards/{reward}", by_name.get(reward)
        if found.values:
            mean = sum(found.values) / len(found.values)
            deviations = sum((value - mean) ** 2 for value in found.values)
            metrics[f"{name}/mean"] = mean
            metrics[f"{name}/std"] = math.sqrt(deviations / max(1, len(found.values) - 1))
        metrics[f"{name}/failed"] = float(found.num_failed)
        if function is None:
            continue
        metrics[f"{name}/seconds"] = found.seconds
        if isinstance(function.weight, WeightSchedule):
            metrics[f"{name}/weight"] = weights[reward]
        if function.gate is not None:
            metrics[f"{name}/gated_out"] = float(found.num_gated_out)
        for metric, numbers in found.logged.items():
            logged.setdefault(f"user/{metric}", []).extend(numbers)
    return metrics | {name: sum(numbers) / len(numbers) for name, numbers in logged.items() if numbers}
