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

from grpo.tracking.formatting import duration, number
from grpo.tracking.panels import VITAL_SIGNS, RunInfo, RunState, banner, dashboard, evaluation_text, outcome

__all__ = ["Console", "RunInfo"]

_LINES_PER_HEADER = 25
_SHOW_CURSOR = "\x1b[?25h"


class _Screen(RichConsole):
    """A rich console that drops output once its reader has left (`grpo train | head`); rich would end the program."""

    def on_broken_pipe(self) -> None:
        with contextlib.suppress(SystemExit):
            super().on_broken_pipe()

    def _check_buffer(self) -> None:
        try:
            super()._check_buffer()
        except OSError as error:
            # Standard output may be a file on a full disk; that must not end the training.
            self.on_broken_pipe()
            with contextlib.suppress(OSError):
                print(f"warning: cannot write to standard output: {error.strerror}", file=sys.stderr, flush=True)


class Console:
    """The screen of a run. A context manager: leaving it gives the terminal back.

    Args:
        log_every: without a terminal, steps from one line to the next; 0 for none.
        file: the stream to write to; None for standard output.
        width: in characters; None for the terminal's.
        live: False for plain lines on a terminal, too; None for a live display where `file` is a terminal.
        clock: seconds that never decrease.
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
        self._run: RunState | None = None
        self._columns: list[str] = []
        self._lines = 0

    def start(self, info: RunInfo) -> None:
        """Print the banner, and begin the display."""
        self._run = RunState(info, self._clock)
        for line in banner(info):
            self._print(line)
        self._rich.print()
        if self._is_live:
            self._live = Live(
                console=self._rich, get_renderable=self._render, refresh_per_second=4, vertical_overflow="crop"
            )
            self._live.start(refresh=True)

    def doing(self, activity: str) -> None:
        """Show `activity`, such as "evaluating", in the live display until the next step or evaluation."""
        self._state().activity(activity)
        self._refresh()

    def step(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Show the metrics of step number `step`."""
        run = self._state()
        run.add_step(step, metrics)
        self._refresh()
        if self._live is None and self._log_every > 0 and (step % self._log_every == 0 or step == run.info.steps):
            self._print_line()

    def evaluation(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Show an evaluation after `step` completed steps."""
        self._state().add_evaluation(step, metrics)
        self._refresh()
        if self._live is None:
            self._print(evaluation_text(step, metrics, wide=True))
            self._lines = 0

    def note(self, text: str) -> None:
        """Print a message above the live display."""
        self._say(Text(f"note: {text}"))

    def warn(self, text: str) -> None:
        """Print a warning above the live display."""
        self._say(Text(f"warning: {text}", style="yellow"))

    def finish(self, summary: Mapping[str, Any]) -> None:
        """End the display and print the outcome; `summary` is that of `summary.json`."""
        self.close()
        for part in outcome(self._state().info, summary):
            self._print(part)

    def clear(self) -> None:
        """End the live display and remove it from the terminal."""
        if self._live is not None:
            self._live.transient = True
        self.close()

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

    def _state(self) -> RunState:
        assert self._run is not None, "start() comes first"
        return self._run

    def _render(self) -> RenderableType:
        return dashboard(self._state(), width=self._rich.width, ascii_only=self._rich.options.ascii_only)

    def _refresh(self) -> None:
        if self._live is not None:
            self._live.refresh()

    def _print_line(self) -> None:
        values = self._values()
        widths = [max(len(name), 7 if name == "left" else 6) for name in values]
        widths[0] = len(values["step"])
        if list(values) != self._columns or self._lines % _LINES_PER_HEADER == 0:
            self._columns, self._lines = list(values), 0
            self._print(Text("  ".join(map(str.rjust, values, widths))))
        self._lines += 1
        self._print(Text("  ".join(map(str.rjust, values.values(), widths))))

    def _values(self) -> dict[str, str]:
        """Return a step's numbers for a plain line, by their headings."""
        run = self._state()
        total = str(run.info.steps)
        means = run.rewards()
        values = {"step": f"{run.task.completed:>{len(total)}}/{total}".rjust(6)}
        values |= {name: number(means.get(name)) for name in run.history}
        for _, heading, name, form in VITAL_SIGNS:
            # A step in which nothing was trained has no KL; the column stays.
            if heading is not None and (name != "kl" or name in run.metrics or heading in self._columns):
                values[heading] = form(run.metrics.get(name))
        return {**values, "left": duration(run.task.time_remaining)}

    def _print(self, content: RenderableType) -> None:
        """Print text without line breaks, whatever its width: lines of a log and commands to copy stay whole."""
        self._rich.print(content, soft_wrap=isinstance(content, Text))

    def _say(self, message: Text) -> None:
        """Print a message: on one line of a log, or on a terminal with line breaks between words."""
        self._rich.print(message, soft_wrap=not self._is_live)


def _is_terminal(stream: IO[str]) -> bool:
    return stream.isatty() and os.environ.get("TERM") not in ("dumb", "unknown")
