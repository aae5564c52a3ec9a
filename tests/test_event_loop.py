from __future__ import annotations

import asyncio
import threading

import pytest

from grpo import event_loop
from grpo.errors import RunError


async def name_of_thread() -> str:
    await asyncio.sleep(0)
    return threading.current_thread().name


def test_coroutines_run_in_one_thread_that_is_not_the_callers() -> None:
    assert {event_loop.run(name_of_thread()) for _ in range(3)} == {"grpo-event-loop"}


def test_a_caller_whose_own_loop_runs_can_wait_as_in_a_notebook() -> None:
    async def cell() -> str:
        return event_loop.run(name_of_thread())

    assert asyncio.run(cell()) == "grpo-event-loop"


def test_what_a_coroutine_raises_reaches_the_caller() -> None:
    async def fail() -> None:
        raise ZeroDivisionError("no such luck")

    with pytest.raises(ZeroDivisionError, match="no such luck"):
        event_loop.run(fail())


def test_waiting_for_oneself_is_refused() -> None:
    async def inner() -> None:
        event_loop.run(asyncio.sleep(0))

    with pytest.raises(RuntimeError, match="await the coroutine"):
        event_loop.run(inner())


def test_an_interrupted_wait_cancels_the_coroutine(monkeypatch: pytest.MonkeyPatch) -> None:
    ended = threading.Event()

    async def endless() -> None:
        try:
            await asyncio.sleep(600)
        finally:
            ended.set()

    def interrupted(futures: object, timeout: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(event_loop, "wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        event_loop.run(endless())
    assert ended.wait(20)


def test_an_interrupted_wait_lets_the_coroutine_clean_up(monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[str] = []

    async def endless() -> None:
        try:
            await asyncio.sleep(600)
        finally:
            await asyncio.sleep(0.2)
            closed.append("closed")

    calls = iter([None, KeyboardInterrupt()])

    def interrupted(futures: object, timeout: float) -> None:
        threading.Event().wait(0.1)
        if (error := next(calls)) is not None:
            raise error

    monkeypatch.setattr(event_loop, "wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        event_loop.run(endless())
    assert closed == ["closed"]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_loop_that_was_ended_is_reported_and_replaced() -> None:
    async def leave() -> None:
        raise SystemExit(3)

    with pytest.raises((RunError, SystemExit)):
        event_loop.run(leave())
    assert event_loop.run(name_of_thread()) == "grpo-event-loop"
