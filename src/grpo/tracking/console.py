"""The terminal of a run: a live display, or plain lines where there is no terminal."""

from __future__ import annotations

import contextlib
import io
import os
import sys
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import IO, Any

from rich.console import Console as RichConsole
from rich.console import RenderableType
from rich.live import Live
from rich.text import Text

from grpo.tracking.formatting import count, decimal, duration, is_finite, learning_rate, percent
from grpo.tracking.metrics import reward_means
from grpo.tracking.panels import RunInfo, Snapshot, banner_rows, dashboard, evaluation_text, outcome

__all__ = ["Console", "RunInfo"]

_LINES_PER_HEADER = 25
_PACED_STEPS = 20
_SHOW_CURSOR = "\x1b[?25h"


class _Screen(RichConsole):
    """Goes quiet when its reader leaves (`grpo train | head`), where rich would end the program in mid-step."""

    def on_broken_pipe(self) -> None:
        with contextlib.suppress(SystemExit):
            super().on_broken_pipe()


class Console:
    """Tells the user how a run goes. A context manager: leaving it gives the terminal back.

    Args:
        log_every: without a terminal, steps from one line to the next; 0 for none.
        file: where to write; None for standard output.
        width: in characters; None for the terminal's.
        live: False for plain lines on a terminal, too; None looks whether `file` is a terminal.
        clock: seconds that never go back.
    """

    def __init__(
        self,
        *,
        log_every: int = 1,
        file: IO[str] | None = None,
        width: int | None = None,
        live: bool | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        stream = sys.stdout if file is None else file
        # rich would take FORCE_COLOR, which continuous integration sets, for a terminal.
        self._is_live = _is_terminal(stream) if live is None else live
        self._rich = _Screen(
            file=file, width=width, force_terminal=self._is_live, highlight=False, markup=False, emoji=False
        )
        if self._rich.options.ascii_only and isinstance(self._rich.file, io.TextIOWrapper):
            # A completion or a file name in a message must not end the run.
            self._rich.file.reconfigure(errors="replace")
        self._log_every = log_every
        self._clock = clock
        self._live: Live | None = None
        self._info: RunInfo | None = None
        self._started = 0.0
        self._ticks: list[float] = []
        self._step = 0
        self._metrics: Mapping[str, Any] = {}
        self._failures = 0.0
        self._history: dict[str, list[float]] = {}
        self._evaluations: list[tuple[int, Mapping[str, Any]]] = []
        self._doing = ""
        self._columns: list[str] = []
        self._lines = 0

    def start(self, info: RunInfo) -> None:
        """Say what is about to happen, and begin the display."""
        self._info, self._step = info, info.first_step
        self._started = self._clock()
        self._ticks = [self._started]
        for label, text in banner_rows(info):
            self._print(Text(f"{label:9}", style="bold").append(text, style="not bold"))
        self._rich.print()
        if self._is_live:
            self._live = Live(
                console=self._rich, get_renderable=self._render, refresh_per_second=4, vertical_overflow="crop"
            )
            self._live.start(refresh=True)

    def doing(self, activity: str) -> None:
        """Show in the live display what goes on until the next step or evaluation, as "evaluating"."""
        self._doing = activity
        self._refresh()

    def step(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Show what step number `step` measured."""
        self._ticks = [*self._ticks, self._clock()][-_PACED_STEPS - 1 :]
        self._step, self._metrics, self._doing = step, metrics, ""
        failed = metrics.get("rewards/failed_completions")
        self._failures += failed if is_finite(failed) else 0
        for name, value in {"reward": metrics.get("reward"), **reward_means(metrics)}.items():
            values = self._history.setdefault(name, [])
            if is_finite(value):
                values.append(float(value))
        if self._live is not None:
            self._refresh()
        elif self._log_every > 0 and (step % self._log_every == 0 or step == self._steps()):
            self._print_line()

    def evaluation(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Show an evaluation after `step` completed steps."""
        self._evaluations = [*self._evaluations[:1], (step, metrics)]
        self._doing = ""
        if self._live is not None:
            self._refresh()
        else:
            self._print(evaluation_text(step, metrics, wide=True))
            self._lines = 0

    def note(self, text: str) -> None:
        """Print a message above the live display."""
        self._say(Text(f"note: {text}"))

    def warn(self, text: str) -> None:
        """Print a warning above the live display."""
        self._say(Text(f"warning: {text}", style="yellow"))

    def finish(self, summary: Mapping[str, Any]) -> None:
        """End the display and print the final words; `summary` is that of `summary.json`."""
        assert self._info is not None, "start() comes first"
        self.close()
        for part in outcome(self._info, summary):
            self._print(part)

    def close(self) -> None:
        """End the live display, leaving its last state on the terminal."""
        live, self._live = self._live, None
        if live is not None:
            try:
                live.stop()
            finally:
                # A signal in the middle of drawing leaves rich with a buffer that it never writes.
                self._rich.file.write(_SHOW_CURSOR)
                self._rich.file.flush()

    def __enter__(self) -> Console:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _steps(self) -> int:
        return self._info.steps if self._info is not None else 0

    def _left_s(self) -> float | None:
        if len(self._ticks) < 2:
            return None
        pace = (self._ticks[-1] - self._ticks[0]) / (len(self._ticks) - 1)
        return max(0.0, pace * (self._steps() - self._step) - (self._clock() - self._ticks[-1]))

    def _render(self) -> RenderableType:
        assert self._info is not None
        return dashboard(
            Snapshot(
                info=self._info,
                step=self._step,
                metrics=self._metrics,
                failures=self._failures,
                history=self._history,
                evaluations=self._evaluations,
                elapsed_s=self._clock() - self._started,
                left_s=self._left_s(),
                doing=self._doing,
                width=self._rich.width,
                ascii_only=self._rich.options.ascii_only,
            )
        )

    def _refresh(self) -> None:
        if self._live is not None:
            self._live.refresh()

    def _print_line(self) -> None:
        cells = self._cells()
        columns = list(cells)
        if columns != self._columns or self._lines % _LINES_PER_HEADER == 0:
            self._columns, self._lines = columns, 0
            self._print(Text("  ".join(name.rjust(width) for name, (width, _) in cells.items())))
        self._lines += 1
        self._print(Text("  ".join(value.rjust(width) for width, value in cells.values())))

    def _cells(self) -> dict[str, tuple[int, str]]:
        """Return the columns of a plain line: heading, width and value."""
        metrics = self._metrics
        total = str(self._steps())
        values = {"step": f"{self._step:>{len(total)}}/{total}", "reward": decimal(metrics.get("reward"))}
        means = reward_means(metrics)
        values |= {name: decimal(means.get(name)) for name in self._history if name != "reward"}
        # A step in which nothing was trained has no KL; the column stays.
        if "kl" in metrics or "kl" in self._columns:
            values["kl"] = decimal(metrics.get("kl"), 4)
        values |= {
            "length": decimal(metrics.get("completion_length"), 1),
            "zero-var": percent(metrics.get("zero_variance_groups")),
            "failed": count(metrics.get("rewards/failed_completions")),
            "lr": learning_rate(metrics.get("learning_rate")),
            "tokens/s": count(metrics.get("tokens_per_s")),
            "left": duration(self._left_s()),
        }
        least = {"reward": 6, "kl": 6, "lr": 6, "left": 7}
        return {
            name: (max(len(name), least.get(name, 6), len(value) if name == "step" else 0), value)
            for name, value in values.items()
        }

    def _print(self, content: RenderableType) -> None:
        """Print on as many characters as it takes: lines of a log, and commands to copy, are not broken."""
        self._rich.print(content, soft_wrap=isinstance(content, Text))

    def _say(self, message: Text) -> None:
        """Print a message on one line of a log, or between words on several of a terminal."""
        self._rich.print(message, soft_wrap=not self._is_live)


def _is_terminal(stream: IO[str]) -> bool:
    return stream.isatty() and os.environ.get("TERM") not in ("dumb", "unknown")
