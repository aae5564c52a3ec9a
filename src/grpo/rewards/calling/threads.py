"""Threads that reward functions run in, so that one that hangs is left behind and the run goes on.

Signals cannot do this: `SIGALRM` reaches the main thread only and breaks libraries that use threads.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import queue
import threading
import time
import weakref
from collections.abc import Awaitable, Callable
from concurrent.futures import CancelledError, Future, InvalidStateError, wait
from dataclasses import dataclass
from typing import Any

__all__ = ["AsyncWorker", "Outcome", "Pending", "SyncWorker", "wait_until"]

# Past its own timeout, a coroutine that blocks its loop is given this long before the loop is left behind.
_GRACE_S = 0.5
# A signal that arrives just before a thread begins to wait for a lock does not wake it.
_LOOK_UP_S = 0.25


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a call returned, or the exception that it raised instead, and the seconds it took."""

    value: Any
    error: BaseException | None
    seconds: float


@dataclass(frozen=True, slots=True)
class Pending:
    """A call under way.

    Attributes:
        wait: returns the outcome once it is there; TimeoutError is an outcome, too.
        cancel: gives the call up, whose outcome is then nobody's.
        is_done: returns whether the outcome is there.
    """

    wait: Callable[[], Outcome]
    cancel: Callable[[], object]
    is_done: Callable[[], bool]


@dataclass(slots=True, eq=False)
class _Call:
    """A call in a thread's queue; `began` once it runs (`time.monotonic`)."""

    function: Callable[[], Any]
    timeout_s: float | None
    future: Future[Outcome]
    began: float | None = None

    @property
    def left_s(self) -> float:
        """Seconds until it takes too long."""
        if self.timeout_s is None or self.began is None:
            return math.inf
        return self.began + self.timeout_s - time.monotonic()


class SyncWorker:
    """Runs calls one after another in one daemon thread; the time limit of a call begins when it does."""

    def __init__(self) -> None:
        self._queue: _Queue | None = None

    def start(self, function: Callable[[], Any], timeout_s: float | None) -> Pending:
        """Begin a call, or let it wait for those before it; its outcome is a TimeoutError after `timeout_s`."""
        if self._queue is None:
            self._queue = _Queue()
            weakref.finalize(self, self._queue.calls.put, None)
            self._queue.serve()
        call = _Call(function, timeout_s, Future())
        self._queue.calls.put(call)
        return Pending(lambda: self._wait(call), lambda: self._give_up(call), call.future.done)

    def _wait(self, call: _Call) -> Outcome:
        try:
            while not call.future.done():
                running = self._queue.running if self._queue is not None else None
                if running is not None and running.left_s <= 0:
                    self._leave_behind(running, _timed_out(running.timeout_s))
                wait((call.future,), max(0.0, min(_LOOK_UP_S, running.left_s if running is not None else _LOOK_UP_S)))
        except BaseException:
            self._give_up(call)
            raise
        return call.future.result()

    def _give_up(self, call: _Call) -> None:
        if not call.future.cancel():
            self._leave_behind(call, Outcome(None, CancelledError(), 0.0))

    def _leave_behind(self, call: _Call, outcome: Outcome) -> None:
        """Let a call run on with nobody waiting for it; those behind it get another thread."""
        with contextlib.suppress(InvalidStateError):
            call.future.set_result(outcome)
            if self._queue is not None and self._queue.running is call:
                self._queue = self._queue.continued()
                weakref.finalize(self, self._queue.calls.put, None)


class _Queue:
    """Calls, and the thread that serves them.

    Attributes:
        running: the call that the thread is at.
    """

    def __init__(self) -> None:
        self.calls: queue.SimpleQueue[_Call | None] = queue.SimpleQueue()
        self.running: _Call | None = None

    def serve(self) -> None:
        """Begin the thread; it ends at a None."""
        threading.Thread(target=self._serve, name="grpo-rewards", daemon=True).start()

    def continued(self) -> _Queue:
        """Return a queue with the calls that wait in this one, whose thread ends when its call does."""
        another = _Queue()
        with contextlib.suppress(queue.Empty):
            while True:
                another.calls.put(self.calls.get_nowait())
        self.calls.put(None)
        another.serve()
        return another

    def _serve(self) -> None:
        while (call := self.calls.get()) is not None:
            if call.future.set_running_or_notify_cancel():
                call.began, self.running = time.monotonic(), call
                outcome = _outcome_of(call.function)
                self.running = None
                with contextlib.suppress(InvalidStateError):  # it took too long, and was left behind
                    call.future.set_result(outcome)
                del outcome
            del call


class AsyncWorker:
    """Runs coroutines side by side in an event loop that lives in a daemon thread and stays the same."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None

    def start(self, call: Callable[[], Awaitable[Any]], timeout_s: float | None) -> Pending:
        """Start a coroutine, whose outcome is a TimeoutError after `timeout_s`."""
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            threading.Thread(target=self._loop.run_forever, name="grpo-rewards-async", daemon=True).start()
            weakref.finalize(self, _stop, self._loop)
        loop = self._loop
        future = asyncio.run_coroutine_threadsafe(_within(call, timeout_s), loop)
        began = time.monotonic()

        def outcome() -> Outcome:
            wait_until(future, None if timeout_s is None else began + timeout_s + _GRACE_S - time.monotonic())
            if future.done():
                return future.result()
            if self._loop is loop:
                self._loop = None
            _stop(loop)
            return _timed_out(timeout_s)

        return Pending(outcome, future.cancel, future.done)


def wait_until(future: Future[Outcome], timeout_s: float | None) -> None:
    """Wait until the future is done or so many seconds are over, and let KeyboardInterrupt in meanwhile."""
    deadline = math.inf if timeout_s is None else time.monotonic() + timeout_s
    while not future.done() and (left := deadline - time.monotonic()) > 0:
        wait((future,), min(left, _LOOK_UP_S))


def _outcome_of(function: Callable[[], Any]) -> Outcome:
    began = time.perf_counter()
    value, error = None, None
    try:
        value = function()
    except BaseException as raised:  # `exit()` in a reward must not end this thread
        error = raised
    return Outcome(value, error, time.perf_counter() - began)


async def _within(call: Callable[[], Awaitable[Any]], timeout_s: float | None) -> Outcome:
    # `wait`, not `wait_for`: that one waits on when a coroutine ignores its cancellation.
    task = asyncio.ensure_future(_outcome(call))
    try:
        done, _ = await asyncio.wait({task}, timeout=timeout_s)
    except asyncio.CancelledError:
        task.cancel()
        raise
    if done:
        return task.result()
    task.cancel()
    return _timed_out(timeout_s)


async def _outcome(call: Callable[[], Awaitable[Any]]) -> Outcome:
    began = time.perf_counter()
    value, error = None, None
    try:
        value = await call()
    except BaseException as raised:  # KeyboardInterrupt in a task would end the loop's thread
        error = raised
    return Outcome(value, error, time.perf_counter() - began)


def _timed_out(timeout_s: float | None) -> Outcome:
    assert timeout_s is not None
    return Outcome(None, TimeoutError(f"no result within {timeout_s:g} s"), timeout_s)


def _stop(loop: asyncio.AbstractEventLoop) -> None:
    with contextlib.suppress(RuntimeError):  # closed already
        loop.call_soon_threadsafe(loop.stop)
