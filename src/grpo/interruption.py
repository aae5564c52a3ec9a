"""SIGINT and SIGTERM as requests that the trainer reads at the end of a step."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType, TracebackType

__all__ = ["Interruption"]

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interruption:
    """A context in which the first signal sets `requested`, and a second one has the effect it had outside.

    Within `at_once`, where there is nothing to finish, the first signal ends the program by an exception.
    Outside the main thread, where Python delivers no signals, `requested` stays False.
    """

    def __init__(self, announce: Callable[[str], None]) -> None:
        self._announce = announce
        self._previous: dict[int, object] = {}
        self._ends_at_once = False
        self.signal_number: int | None = None

    @contextlib.contextmanager
    def at_once(self) -> Iterator[None]:
        """Let a signal raise KeyboardInterrupt (SIGINT) or SystemExit (SIGTERM)."""
        self._ends_at_once = True
        try:
            yield
        finally:
            self._ends_at_once = False

    @property
    def requested(self) -> bool:
        return self.signal_number is not None

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._receive) for number in _SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()

    def _receive(self, number: int, _frame: FrameType | None) -> None:
        self.signal_number = number
        self._restore()
        if self._ends_at_once:
            raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(128 + number)
        # A signal in the middle of a write to the same stream makes the stream refuse another one.
        with contextlib.suppress(RuntimeError):
            self._announce(
                f"{signal.Signals(number).name}: finishing this step and saving it; once more to leave at once, unsaved"
            )

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        self._previous = {}
