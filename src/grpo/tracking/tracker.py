"""The protocol of trackers, which draw the curves of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

__all__ = ["Tracker"]


class Tracker(Protocol):
    """A receiver of a run's metrics, under the names of `metrics.jsonl` and `eval.jsonl`."""

    def start(self, config: Mapping[str, Any], *, step: int = 0) -> None:
        """Begin, or continue after `step` completed steps; points logged for later steps are void.

        Raises:
            ConfigError: the package behind the tracker is missing or not set up.
        """

    def log(self, step: int, metrics: Mapping[str, Any], completions: Sequence[Mapping[str, Any]] = ()) -> None:
        """Record the metrics of step number `step` and its completions, which are lines of `completions.jsonl`."""

    def log_evaluation(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Record an evaluation after `step` completed steps."""

    def finish(self, summary: Mapping[str, Any]) -> str:
        """Record the summary, wait until all is written and return where to look at it (empty: nowhere)."""
