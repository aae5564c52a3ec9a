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
from concurrent.futures import Future, wait
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
    """

    wait: Callable[[], Outcome]
    cancel: Callable[[], object]


class SyncWorker:
    """Runs calls one after another in one daemon thread."""

    def __init__(self) -> None:
        self._calls: queue.SimpleQueue[Any] | None = None

    def run(self, call: Callable[[], Any], timeout_s: float | None) -> Outcome:
        """Return the call's outcome; after `timeout_s` a TimeoutError, the call being left to itself."""
        if self._calls is None:
            self._calls = queue.SimpleQueue()
            threading.Thread(target=_serve, args=(self._calls,), name="grpo-rewards", daemon=True).start()
            weakref.finalize(self, self._calls.put, None)
        future: Future[Outcome] = Future()
        self._calls.put((call, future))
        try:
            wait_until(future, timeout_s)
        finally:
            if not future.done():
                self._abandon()
        return future.result() if future.done() else _timed_out(timeout_s)

    def _abandon(self) -> None:
        if self._calls is not None:
            self._calls.put(None)  # the thread ends if the call ever does
            self._calls = None


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

        return Pending(outcome, future.cancel)


def wait_until(future: Future[Outcome], timeout_s: float | None) -> None:
    """Wait until the future is done or so many seconds are over, and let KeyboardInterrupt in meanwhile."""
    deadline = math.inf if timeout_s is None else time.monotonic() + timeout_s
    while not future.done() and (left := deadline - time.monotonic()) > 0:
        wait((future,), min(left, _LOOK_UP_S))


def _serve(calls: queue.SimpleQueue[Any]) -> None:
    while (item := calls.get()) is not None:
        call, future = item
        began = time.perf_counter()
        value, error = None, None
        try:
            value = call()
        except BaseException as raised:  # `exit()` in a reward must not end this thread
            error = raised
        future.set_result(Outcome(value, error, time.perf_counter() - began))
        del item, call, future, value, error


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
