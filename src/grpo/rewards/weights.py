"""How much a reward counts: a number, or one that moves in a straight line over the first steps of a run."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from grpo.errors import ConfigError

__all__ = ["Weight", "WeightSchedule", "final_weight", "is_finite_number", "read_weight", "weight_at"]


@dataclass(frozen=True, slots=True)
class WeightSchedule:
    """A weight that goes from `start` to `end` in a straight line.

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
    """Return the weight that a schedule ends with; a number is that already."""
    return weight.end if isinstance(weight, WeightSchedule) else weight


def read_weight(value: Any, name: str) -> Weight:
    """Return the weight that `value` says: a finite number, or `{"from": 0.0, "to": 1.0, "steps": 100}`.

    Args:
        name: of the reward, for messages.

    Raises:
        ConfigError: it is neither.

    Example:
        >>> read_weight({"from": 0, "to": 1, "steps": 100}, "correctness").at(50)
        0.5
    """
    if isinstance(value, WeightSchedule):
        return value
    if not isinstance(value, Mapping):
        if not is_finite_number(value):
            raise ConfigError(f"reward {name!r} has weight {value!r}: use a finite number")
        return float(value)
    steps = value.get("steps")
    good = set(value) == {"from", "to", "steps"} and is_finite_number(value["from"]) and is_finite_number(value["to"])
    if not good or isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise ConfigError(
            f"reward {name!r} has weight {dict(value)!r}: a weight that changes is written "
            f"{{from: 0.0, to: 1.0, steps: 100}}, with finite numbers and at least 1 step"
        )
    return WeightSchedule(float(value["from"]), float(value["to"]), steps)


def is_finite_number(value: Any) -> bool:
    """Return whether `value` is a number that is neither infinite, NaN nor a truth value."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
