"""Threads for reward functions: one that hangs is left behind, and the run continues without it.

Signals cannot limit a call: `SIGALRM` reaches the main thread only and breaks libraries that use threads. Threads of
`concurrent.futures` cannot be left behind: the interpreter waits for them when it exits.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import queue
import threading
import time
import weakref
from collections.abc import Callable, Coroutine
from concurrent.futures import CancelledError, Future, InvalidStateError
from typing import Any, TypeAlias

from grpo.rewards.calling.call import Call, timed_out
from grpo.rewards.output import RewardOutput

__all__ = ["DaemonThreads", "EventLoopThread"]

# Past its time limit, a coroutine that blocks its loop has this long before the loop is left behind.
_GRACE_S = 0.5

_Item: TypeAlias = tuple[Future[RewardOutput], Callable[[], RewardOutput], "threading.Timer | None"]
_Queue: TypeAlias = "queue.SimpleQueue[_Item | None]"


class DaemonThreads:
    """Runs calls in order in daemon threads; by default in one, so that each waits for the one before it."""

    def __init__(self, num_threads: int = 1, *, name: str = "grpo-rewards") -> None:
        self._num_threads = num_threads
        self._name = name
        self._waiting: _Queue | None = None

    def start(self, function: Callable[[], RewardOutput], count: int, timeout_s: float | None) -> Call:
        """Return the call; its output is a TimeoutError once it has run for `timeout_s`.

        Args:
            count: completions in the call.
            timeout_s: None: no limit.
        """
        if self._waiting is None:
            self._waiting = queue.SimpleQueue()
            weakref.finalize(self, _end, self._waiting, self._num_threads)
            for _ in range(self._num_threads):
                self._start_thread()
        future: Future[RewardOutput] = Future()
        timer = None
        if timeout_s is not None:
            limit_s = min(timeout_s, threading.TIMEOUT_MAX)
            timer = threading.Timer(limit_s, self._leave_behind, (future, timed_out(count, timeout_s)))
            timer.daemon = True
        self._waiting.put((future, function, timer))
        return Call(future, lambda: self._cancel(future))

    def _cancel(self, future: Future[RewardOutput]) -> None:
        if not future.cancel():
            self._leave_behind(future, RewardOutput.failed(CancelledError(), 0))

    def _leave_behind(self, future: Future[RewardOutput], output: RewardOutput) -> None:
        """Set the output of a running call and replace its thread, which ends with the call."""
        with contextlib.suppress(InvalidStateError):  # the call ended meanwhile, and its thread continues
            future.set_result(output)
            self._start_thread()

    def _start_thread(self) -> None:
        threading.Thread(target=_serve, args=(self._waiting,), name=self._name, daemon=True).start()


def _serve(waiting: _Queue) -> None:
    """Run calls until there is None in their place, or until a call was left behind.

    The thread has an event loop of its own, as the main thread has, for functions that call `asyncio.get_event_loop`.
    """
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    try:
        _serve_calls(waiting)
    finally:
        loop.close()


def _serve_calls(waiting: _Queue) -> None:
    while (item := waiting.get()) is not None:
        future, function, timer = item
        if future.set_running_or_notify_cancel():
            if timer is not None:
                timer.start()
            output = function()
            if timer is not None:
                timer.cancel()
            try:
                future.set_result(output)
            except InvalidStateError:
                return
            del output
        del item, future, function, timer  # a thread that waits keeps nothing alive


def _end(waiting: _Queue, num_threads: int) -> None:
    """Cancel the calls in a queue and end its threads."""
    with contextlib.suppress(queue.Empty):
        while (item := waiting.get_nowait()) is not None:
            item[0].cancel()
    for _ in range(num_threads):
        waiting.put(None)


class EventLoopThread:
    """Runs coroutines side by side in an event loop of its own; the loop stays the same over a run."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None

    def start(
        self, function: Callable[[], Coroutine[Any, Any, RewardOutput]], count: int, timeout_s: float | None
    ) -> Call:
        """Return the call; its output is a TimeoutError after `timeout_s`, even if it ignores its cancellation.

        Args:
            count: completions in the call.
        """
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            threading.Thread(target=self._loop.run_forever, name="grpo-rewards-async", daemon=True).start()
            weakref.finalize(self, _stop, self._loop)
        loop = self._loop
        future = asyncio.run_coroutine_threadsafe(_limited(function, count, timeout_s), loop)

        def leave_loop_behind() -> RewardOutput:
            if self._loop is loop:
                self._loop = None
            _stop(loop)
            return timed_out(count, timeout_s)

        deadline = math.inf if timeout_s is None else time.monotonic() + timeout_s + _GRACE_S
        return Call(future, future.cancel, deadline, leave_loop_behind)


async def _limited(
    function: Callable[[], Coroutine[Any, Any, RewardOutput]], count: int, timeout_s: float | None
) -> RewardOutput:
    # Not `wait_for`, which keeps waiting for a coroutine that ignores its cancellation.
    task = asyncio.ensure_future(function())
    try:
        done, _ = await asyncio.wait({task}, timeout=timeout_s)
    except asyncio.CancelledError:
        task.cancel()
        raise
    if done:
        return task.result()
    task.cancel()
    return timed_out(count, timeout_s)


def _stop(loop: asyncio.AbstractEventLoop) -> None:
    with contextlib.suppress(RuntimeError):  # closed already
        loop.call_soon_threadsafe(loop.stop)
