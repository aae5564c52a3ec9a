"""The seam between a run and whatever draws its curves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

__all__ = ["Tracker"]


class Tracker(Protocol):
    """Receives what a run measures. Metrics have the names of `metrics.jsonl` and `eval.jsonl`."""

    def start(self, config: Mapping[str, Any], *, step: int = 0) -> None:
        """Begin, or go on after `step` completed steps; what was logged for later steps is void.

        Raises:
            ConfigError: the package behind the tracker is missing or not set up.
        """

    def log(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Record what step number `step` measured."""

    def log_evaluation(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Record an evaluation after `step` completed steps."""

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Record the outcome and wait until all is written."""
