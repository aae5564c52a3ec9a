"""The package's own event loop, under a synchronous public API.

The loop runs in the thread that waits for it: a sampler in this process computes there, and torch's threads serve one
caller only. Where that thread has a running loop already, as in a notebook, a helper thread runs the package's loop.
Calls from several threads take turns.
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
"""Time for a coroutine to free its resources after it was cancelled."""

_turn = threading.Lock()
_loops: dict[int, asyncio.AbstractEventLoop] = {}
"""The loop by process id: a forked child must not share its parent's."""


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Return the coroutine's result, computed on the package's loop.

    An exception that ends the wait (KeyboardInterrupt) cancels the coroutine and waits for its cleanup, for a few
    seconds at most.

    Raises:
        RuntimeError: the caller runs on that loop itself, and would wait for itself; await the coroutine there.
    """
    running = _running_loop()
    if running is None:
        return _run_here(coroutine)
    if running is _loop():
        coroutine.close()
        raise RuntimeError("grpo's event loop cannot wait for itself: await the coroutine instead of run()")
    return _run_in_thread(coroutine)


def _run_here(coroutine: Coroutine[Any, Any, T]) -> T:
    with _turn:
        loop = _loop()
        task = loop.create_task(coroutine)
        try:
            return loop.run_until_complete(task)
        except BaseException:
            if not task.done():
                task.cancel()
                loop.run_until_complete(asyncio.wait([task], timeout=_CANCELLATION_S))
            raise


def _run_in_thread(coroutine: Coroutine[Any, Any, T]) -> T:
    result: Future[T] = Future()
    interrupted = asyncio.Event()

    async def until_interrupted() -> T:
        task = asyncio.ensure_future(coroutine)
        interrupt = asyncio.ensure_future(interrupted.wait())
        await asyncio.wait([task, interrupt], return_when=asyncio.FIRST_COMPLETED)
        interrupt.cancel()
        if not task.done():
            task.cancel()
            await asyncio.wait([task], timeout=_CANCELLATION_S)
            raise asyncio.CancelledError
        return task.result()

    def target() -> None:
        try:
            result.set_result(_run_here(until_interrupted()))
        except BaseException as error:
            result.set_exception(error)

    thread = threading.Thread(target=target, name="grpo-event-loop", daemon=True)
    thread.start()
    try:
        while not result.done():
            wait((result,), _WAKE_UP_S)
    except BaseException:
        _loop().call_soon_threadsafe(interrupted.set)
        thread.join(_CANCELLATION_S)
        raise
    return result.result()


def _loop() -> asyncio.AbstractEventLoop:
    process = os.getpid()
    if process not in _loops:
        _loops[process] = asyncio.new_event_loop()
    return _loops[process]


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
