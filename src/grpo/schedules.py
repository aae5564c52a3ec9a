"""The learning rate as a pure function of the step, so that resume has nothing to restore."""

from __future__ import annotations

import math
from typing import Literal, TypeAlias

__all__ = ["Schedule", "learning_rate_factor"]

Schedule: TypeAlias = Literal["constant", "linear", "cosine"]


def learning_rate_factor(
    step: int, *, schedule: Schedule, warmup_steps: int, steps: int, minimum: float = 0.0
) -> float:
    """Return the factor of the peak learning rate at `step`, which counts from 1 to `steps`.

    The factor rises linearly to 1 over `warmup_steps`, then stays (`constant`) or falls (`linear`, `cosine`). It
    would reach `minimum` one step after the last, so that no step has a learning rate of 0.

    Example:
        >>> [learning_rate_factor(s, schedule="linear", warmup_steps=2, steps=4) for s in (1, 2, 3, 4)]
        [0.5, 1.0, 1.0, 0.5]
    """
    if step <= warmup_steps:
        return step / warmup_steps
    if schedule == "constant":
        return 1.0
    passed = (step - 1 - warmup_steps) / max(1, steps - warmup_steps)
    falling = 1.0 - passed if schedule == "linear" else 0.5 * (1.0 + math.cos(math.pi * passed))
    return minimum + (1.0 - minimum) * falling
