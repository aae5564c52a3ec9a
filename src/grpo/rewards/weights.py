"""Weights of rewards: a number, or a schedule that moves in a straight line over the first steps of a run."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from grpo.errors import ConfigError

__all__ = ["Weight", "WeightSchedule", "final_weight", "read_weight", "weight_at"]


@dataclass(frozen=True, slots=True)
class WeightSchedule:
    """A weight that moves from `start` to `end` in a straight line.

    Attributes:
        start: in force before the first optimizer step.
        end: in force once `steps` optimizer steps are done, and from then on.
        steps: at least 1.
    """

    start: float
    end: float
    steps: int

    def at(self, step: int) -> float:
        """Return the weight after `step` optimizer steps.

        Example:
            >>> [WeightSchedule(0.0, 1.0, 4).at(step) for step in (0, 1, 4, 9)]
            [0.0, 0.25, 1.0, 1.0]
        """
        if step >= self.steps:
            return self.end
        return self.start + (self.end - self.start) * step / self.steps


Weight: TypeAlias = "float | WeightSchedule"


def weight_at(weight: Weight, step: int) -> float:
    """Return the weight in force after `step` optimizer steps."""
    return weight.at(step) if isinstance(weight, WeightSchedule) else weight


def final_weight(weight: Weight) -> float:
    """Return a number itself, and the last weight of a schedule."""
    return weight.end if isinstance(weight, WeightSchedule) else weight


def read_weight(value: Any, name: str) -> Weight:
    """Return the weight in a finite number or in `{"from": 0.0, "to": 1.0, "steps": 100}`.

    Args:
        name: of the reward, for messages.

    Raises:
        ConfigError: `value` is neither.

    Example:
        >>> read_weight({"from": 0, "to": 1, "steps": 100}, "correctness").at(50)
        0.5
    """
    if isinstance(value, WeightSchedule):
        return value
    if not isinstance(value, Mapping):
        if not _is_finite(value):
            raise ConfigError(f"reward {name!r} has weight {value!r}: use a finite number")
        return float(value)
    steps = value.get("steps")
    good = set(value) == {"from", "to", "steps"} and _is_finite(value["from"]) and _is_finite(value["to"])
    if not good or isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise ConfigError(
            f"reward {name!r} has weight {dict(value)!r}: a weight that changes is written "
            f"{{from: 0.0, to: 1.0, steps: 100}}, with finite numbers and at least 1 step"
        )
    return WeightSchedule(float(value["from"]), float(value["to"]), steps)


def _is_finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
