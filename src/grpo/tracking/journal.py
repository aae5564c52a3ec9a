"""The "log" line of the story: one place that tells everybody who watches a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from grpo.tracking.completions import completion_lines
from grpo.tracking.run_directory import RunDirectory
from grpo.tracking.spread import SpreadWatch
from grpo.tracking.tracker import Tracker
from grpo.types import ScoredGroup

if TYPE_CHECKING:
    from torch import Tensor

    from grpo.tracking.console import Console

__all__ = ["Journal"]


class Journal:
    """Writes a run's files and tells the screen and the trackers. The files are written first: they are the record."""

    def __init__(
        self,
        run: RunDirectory,
        console: Console,
        trackers: Sequence[Tracker] = (),
        *,
        log_every: int = 1,
        log_completions: bool = True,
    ) -> None:
        self.run = run
        self.console = console
        self.trackers = trackers
        self.log_every = log_every
        self.log_completions = log_completions
        self._spread = SpreadWatch()
        for earlier in run.metrics():
            self._spread.after_step(earlier)

    def step(
        self,
        step: int,
        metrics: Mapping[str, Any],
        groups: Sequence[ScoredGroup],
        advantages: Tensor,
    ) -> None:
        """Record a step: `metrics` as they are, and each completion with its rewards."""
        if self.log_completions:
            self.run.append_completions(completion_lines(step, groups, advantages))
        self.run.append_metrics(metrics)
        self.console.step(step, metrics)
        if (warning := self._spread.after_step(metrics)) is not None:
            self.warn(f"{warning}: `grpo reward check` shows what they pay for")
        if self.log_every > 0 and step % self.log_every == 0:
            for tracker in self.trackers:
                tracker.log(step, metrics)

    def evaluation(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Record an evaluation after `step` completed steps."""
        self.run.append_eval({"step": step, **metrics})
        self.console.evaluation(step, metrics)
        for tracker in self.trackers:
            tracker.log_evaluation(step, metrics)

    def doing(self, activity: str) -> None:
        """Tell who sits before the screen what goes on until the next step or evaluation."""
        self.console.doing(activity)

    def note(self, text: str) -> None:
        """Tell who sits before the screen."""
        self.console.note(text)

    def warn(self, text: str) -> None:
        """Tell who sits before the screen that something needs attention."""
        self.console.warn(text)

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Record the outcome."""
        self.run.write_summary(summary)
        self._end(summary)
        self.console.finish(summary)

    def interrupted(self, summary: Mapping[str, Any], text: str) -> None:
        """End without an outcome, which the run will have once it has gone on; `text` says how it does."""
        self._end(summary)
        self.note(text)

    def _end(self, summary: Mapping[str, Any]) -> None:
        for tracker in self.trackers:
            tracker.finish(summary)
        self.console.close()
        if (conclusion := self._spread.conclusion()) is not None:
            self.warn(conclusion)
