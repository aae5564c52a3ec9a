"""Warnings about steps in which no group has completions of different rewards: such steps train nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from grpo.plurals import counted

__all__ = ["ZeroVarianceMonitor"]

_PATIENCE = 5


class ZeroVarianceMonitor:
    """A counter of the steps in which no group had completions of different rewards."""

    def __init__(self) -> None:
        self._steps = 0
        self._without = 0
        self._in_a_row = 0
        self._warned = False
        self._trained = False

    def after_step(self, metrics: Mapping[str, Any]) -> str | None:
        """Return a warning, once, after five successive steps without a difference in reward; None otherwise."""
        self._steps += 1
        self._in_a_row = self._in_a_row + 1 if _without_gradient(metrics) else 0
        self._without += self._in_a_row > 0
        # With a KL term, weights move all the same.
        self._trained = self._trained or bool(metrics.get("grad_norm"))
        if self._in_a_row < _PATIENCE or self._warned:
            return None
        self._warned = True
        return (
            f"no group differed in reward in the last {_PATIENCE} steps, so the rewards train nothing: "
            f"`grpo reward check` shows which texts they pay for"
        )

    def conclusion(self) -> str | None:
        """Return the count and its effect, if no step had a difference or a warning was given; None otherwise."""
        if not self._without or (self._without < self._steps and not self._warned):
            return None
        result = "those trained nothing" if self._without < self._steps else "nothing was trained"
        if self._trained and self._without == self._steps:
            result = "the rewards trained nothing"
        return f"no group differed in reward in {self._without} of {counted(self._steps, 'step')}: {result}"


def _without_gradient(metrics: Mapping[str, Any]) -> bool:
    """Return whether all groups of a step were zero-variance groups."""
    # Steps that an earlier version of this package logged have the share of the other groups.
    if "groups_with_spread" in metrics:
        return not metrics["groups_with_spread"]
    return bool(metrics["zero_variance_groups"] == 1.0)
