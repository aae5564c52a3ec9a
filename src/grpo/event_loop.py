"""The package's own event loop, in one daemon thread, under a synchronous public API.

Callers need no loop and may have one running, as in a notebook. Coroutines that run here share one thread: between
two awaits nothing else of the package's asynchronous code runs.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Coroutine
from concurrent.futures import Future, wait
from typing import Any, TypeVar

__all__ = ["run"]

T = TypeVar("T")

_WAKE_UP_S = 0.25
"""A signal that arrives just before a thread begins to wait for a lock does not wake it; the wait is renewed."""

_CANCELLATION_S = 5.0
"""Time for a coroutine to close its resources after it was cancelled."""

_lock = threading.Lock()
_state: tuple[int, asyncio.AbstractEventLoop] | None = None
"""Process id and loop: a forked child has no copy of the thread and needs a loop of its own."""


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Return the coroutine's result, computed on the package's loop.

    An exception that ends the wait (KeyboardInterrupt) cancels the coroutine first.

    Raises:
        RuntimeError: the caller runs on that loop itself, and would wait for itself; await the coroutine there.
    """
    loop = _loop()
    if _running_loop() is loop:
        coroutine.close()
        raise RuntimeError("grpo's event loop cannot wait for itself: await the coroutine instead of run()")
    future: Future[T] = asyncio.run_coroutine_threadsafe(coroutine, loop)
    try:
        while not future.done():
            wait((future,), _WAKE_UP_S)
    except BaseException:
        future.cancel()
        # The coroutine's `finally` blocks run on the loop; what they free may be needed next.
        asyncio.run_coroutine_threadsafe(asyncio.sleep(0), loop).result(_CANCELLATION_S)
        raise
    return future.result()


def _loop() -> asyncio.AbstractEventLoop:
    global _state  # noqa: PLW0603 (one loop for the whole process)
    with _lock:
        if _state is None or _state[0] != os.getpid() or _state[1].is_closed():
            loop = asyncio.new_event_loop()
            threading.Thread(target=loop.run_forever, name="grpo-event-loop", daemon=True).start()
            _state = os.getpid(), loop
        return _state[1]


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
