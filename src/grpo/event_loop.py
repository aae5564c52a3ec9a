"""The package's own event loop, under a synchronous public API.

The loop runs in the thread that waits for it: a sampler in this process computes there, and torch's threads serve one
caller only. Where that thread has a running loop already, as in a notebook, a helper thread runs the package's loop.
Calls from several threads take turns.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Coroutine
from concurrent.futures import Future, wait
from contextvars import ContextVar, copy_context
from typing import Any, TypeVar

__all__ = ["run"]

T = TypeVar("T")

_WAKE_UP_S = 0.25
"""A signal that arrives just before a thread begins to wait for a lock does not wake it; the wait is renewed."""

_CANCELLATION_S = 5.0
"""Time for a coroutine to free its resources after it was cancelled."""

_turn = threading.Lock()
_loop: asyncio.AbstractEventLoop | None = None
_on_loop: ContextVar[bool] = ContextVar("on_loop", default=False)
"""True in coroutines that run on the loop, and in threads to which they hand work by `asyncio.to_thread`."""


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Return the coroutine's result, computed on the package's loop.

    An exception that ends the wait (KeyboardInterrupt) cancels the coroutine and waits for its cleanup, for a few
    seconds at most.

    Raises:
        RuntimeError: a coroutine on that loop waits for the caller, and would wait for itself; await the coroutine.
    """
    if _on_loop.get():
        coroutine.close()
        raise RuntimeError("grpo's event loop cannot wait for itself: await the coroutine instead of run()")
    return _run_here(coroutine) if _running_loop() is None else _run_in_thread(coroutine)


def _run_here(coroutine: Coroutine[Any, Any, T]) -> T:
    global _loop  # noqa: PLW0603 (one loop for the whole process)
    with _turn:
        loop = _loop = _loop or asyncio.new_event_loop()
        context = copy_context()
        context.run(_on_loop.set, True)
        task = context.run(loop.create_task, coroutine)
        try:
            return loop.run_until_complete(task)
        except BaseException as error:
            _clean_up(loop, task, error)
            raise


def _clean_up(loop: asyncio.AbstractEventLoop, task: asyncio.Task[Any], error: BaseException) -> None:
    """Cancel the task and let it end, after `error` has ended the loop.

    An interrupt ends the loop again for each task that waits for the interrupted one.
    """
    task.cancel()
    end = time.monotonic() + _CANCELLATION_S
    while not task.done() and (left := end - time.monotonic()) > 0:
        try:
            loop.run_until_complete(asyncio.wait([task], timeout=left))
        except BaseException as again:
            if again is not error:
                raise
    if task.done() and not task.cancelled():
        task.exception()  # otherwise asyncio would report it as lost


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
        if _loop is not None:
            _loop.call_soon_threadsafe(interrupted.set)
        thread.join(_CANCELLATION_S)
        raise
    return result.result()


def _reset_in_child() -> None:
    """Give a forked child a loop and a lock of its own: no thread of the child would release the parent's lock."""
    global _loop, _turn
    _loop, _turn = None, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reset_in_child)


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
