"""The package's own event loop, in one daemon thread, under a synchronous public API.

Callers need no loop and may have one running, as in a notebook. Coroutines that run here share one thread: between
two awaits nothing else of the package's asynchronous code runs.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Coroutine
from concurrent.futures import wait
from dataclasses import dataclass
from typing import Any, TypeVar

from grpo.errors import RunError

__all__ = ["run"]

T = TypeVar("T")

_WAKE_UP_S = 0.25
"""A signal that arrives just before a thread begins to wait for a lock does not wake it; the wait is renewed."""

_CANCELLATION_S = 5.0
"""Time for a coroutine to free its resources after it was cancelled."""

_lock = threading.Lock()
_state: _State | None = None


@dataclass(frozen=True, slots=True)
class _State:
    """The loop and its thread, in the process that made them: a forked child has no copy of the thread."""

    process_id: int
    loop: asyncio.AbstractEventLoop
    thread: threading.Thread


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Return the coroutine's result, computed on the package's loop.

    An exception that ends the wait (KeyboardInterrupt) cancels the coroutine and waits for its cleanup, for a few
    seconds at most.

    Raises:
        RuntimeError: the caller runs on that loop itself, and would wait for itself; await the coroutine there.
        RunError: the loop ended, because a coroutine called `sys.exit`.
    """
    state = _started()
    if _running_loop() is state.loop:
        coroutine.close()
        raise RuntimeError("grpo's event loop cannot wait for itself: await the coroutine instead of run()")
    began, ended = threading.Event(), threading.Event()

    async def tracked() -> T:
        began.set()
        try:
            return await coroutine
        finally:
            ended.set()

    future = asyncio.run_coroutine_threadsafe(tracked(), state.loop)
    try:
        while not future.done():
            wait((future,), _WAKE_UP_S)
            if not state.thread.is_alive():
                raise RunError("the event loop ended: something that it ran called sys.exit")
    except BaseException:
        future.cancel()
        if began.is_set() and state.thread.is_alive():
            ended.wait(_CANCELLATION_S)
        elif not began.is_set():
            coroutine.close()
        raise
    return future.result()


def _started() -> _State:
    global _state  # noqa: PLW0603 (one loop for the whole process)
    with _lock:
        if _state is None or _state.process_id != os.getpid() or not _state.thread.is_alive():
            loop = asyncio.new_event_loop()
            thread = threading.Thread(target=loop.run_forever, name="grpo-event-loop", daemon=True)
            thread.start()
            _state = _State(os.getpid(), loop, thread)
        return _state


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
