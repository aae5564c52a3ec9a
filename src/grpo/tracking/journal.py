"""The journal of a run: it passes measurements to files, screen and trackers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from grpo.diagnosis import Monitor
from grpo.tracking.completions import completion_lines
from grpo.tracking.run_directory import RunDirectory
from grpo.tracking.tracker import Tracker
from grpo.types import ScoredGroup

if TYPE_CHECKING:
    from torch import Tensor

    from grpo.tracking.console import Console

__all__ = ["Journal"]


class Journal:
    """The record of a run. Its files are written first, then the screen and the trackers are informed."""

    def __init__(
        self,
        run: RunDirectory,
        console: Console,
        trackers: Sequence[Tracker] = (),
        *,
        log_every: int = 1,
        log_completions: bool = True,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        """Continue the record in `run`.

        Args:
            options: of the run, by name, for findings.
        """
        self.run = run
        self.console = console
        self.trackers = trackers
        self.log_every = log_every
        self.log_completions = log_completions
        self._monitor = Monitor(options, run.metrics())

    def step(
        self,
        step: int,
        metrics: Mapping[str, Any],
        groups: Sequence[ScoredGroup],
        advantages: Tensor,
    ) -> None:
        """Record a step: `metrics` as they are, and each completion with its rewards."""
        lines = completion_lines(step, groups, advantages) if self.log_completions else []
        if lines:
            self.run.append_completions(lines)
        self.run.append_metrics(metrics)
        self.console.step(step, metrics)
        for finding in self._monitor.after_step(metrics):
            self.warn(finding)
        if self.log_every > 0 and step % self.log_every == 0:
            for tracker in self.trackers:
                tracker.log(step, metrics, lines)

    def evaluation(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Record an evaluation after `step` completed steps."""
        self.run.append_eval({"step": step, **metrics})
        self.console.evaluation(step, metrics)
        for tracker in self.trackers:
            tracker.log_evaluation(step, metrics)

    def doing(self, activity: str) -> None:
        """Show `activity` on the screen until the next step or evaluation."""
        self.console.doing(activity)

    def note(self, text: str) -> None:
        """Show a message on the screen."""
        self.console.note(text)

    def warn(self, text: str) -> None:
        """Show a warning on the screen."""
        self.console.warn(text)

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Record the summary and end the display."""
        self.run.write_summary(summary)
        self._end(summary)
        self.console.finish(summary)

    def interrupted(self, summary: Mapping[str, Any], text: str | None = None) -> None:
        """End without a summary, which a resumed run will write.

        Args:
            text: names the command that resumes the run; None: an error follows that names it.
        """
        # The panel of a run that was stopped is not its outcome; the message below it is what matters.
        self.console.clear()
        self._end(summary)
        if text is not None:
            self.note(text)

    def _end(self, summary: Mapping[str, Any]) -> None:
        places = [tracker.finish(summary) for tracker in self.trackers]
        self.console.close()
        for place in filter(None, places):
            self.note(place)
        for finding in self._monitor.conclusions():
            self.warn(finding)
