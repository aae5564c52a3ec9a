from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from grpo import event_loop


async def name_of_thread() -> str:
    await asyncio.sleep(0)
    return threading.current_thread().name


def test_coroutines_run_in_the_callers_thread_on_one_loop() -> None:
    async def loop() -> asyncio.AbstractEventLoop:
        return asyncio.get_running_loop()

    assert event_loop.run(name_of_thread()) == threading.current_thread().name
    assert len({event_loop.run(loop()) for _ in range(3)}) == 1


def test_a_caller_whose_own_loop_runs_can_wait_as_in_a_notebook() -> None:
    async def cell() -> str:
        return event_loop.run(name_of_thread())

    assert asyncio.run(cell()) == "grpo-event-loop"


def test_threads_take_turns_on_the_loop() -> None:
    running: list[int] = []

    async def alone(number: int) -> int:
        running.append(number)
        await asyncio.sleep(0.01)
        assert running == [number]
        running.clear()
        return number

    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(lambda number: event_loop.run(alone(number)), range(8))) == list(range(8))


def test_a_forked_child_has_a_loop_of_its_own() -> None:
    async def sum_later() -> int:
        await asyncio.sleep(0.01)
        return 7

    assert event_loop.run(sum_later()) == 7
    if (child := os.fork()) == 0:
        os._exit(event_loop.run(sum_later()))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


def in_script(coroutine: object) -> object:
    return event_loop.run(coroutine)  # type: ignore[arg-type]


def in_notebook(coroutine: object) -> object:
    async def cell() -> object:
        return event_loop.run(coroutine)  # type: ignore[arg-type]

    loop = asyncio.new_event_loop()
    try:
        return loop.run_until_complete(cell())
    finally:
        loop.close()


callers = pytest.mark.parametrize("run", [in_script, in_notebook])


@callers
@pytest.mark.parametrize("error", [ZeroDivisionError("no such luck"), SystemExit(3)])
def test_what_a_coroutine_raises_reaches_the_caller_and_the_loop_goes_on(
    run: Callable[[object], object], error: BaseException
) -> None:
    async def fail() -> None:
        raise error

    with pytest.raises(type(error)) as raised:
        run(fail())
    assert raised.value.args == error.args
    assert run(asyncio.sleep(0, "still running")) == "still running"


def test_waiting_for_oneself_is_refused() -> None:
    async def inner() -> None:
        event_loop.run(asyncio.sleep(0))

    with pytest.raises(RuntimeError, match="await the coroutine"):
        event_loop.run(inner())


def test_waiting_for_oneself_in_a_thread_that_a_coroutine_awaits_is_refused() -> None:
    async def inner() -> None:
        await asyncio.to_thread(event_loop.run, asyncio.sleep(0))

    with pytest.raises(RuntimeError, match="await the coroutine"):
        event_loop.run(inner())


def test_a_child_that_is_forked_while_the_loop_runs_has_a_loop_of_its_own() -> None:
    async def forks() -> int:
        if (child := os.fork()) == 0:
            thread = ThreadPoolExecutor(1).submit(event_loop.run, asyncio.sleep(0, 7))
            os._exit(thread.result(20))
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    assert event_loop.run(forks()) == 7


@callers
def test_an_interrupt_cancels_the_coroutine_and_waits_for_its_cleanup(run: Callable[[object], object]) -> None:
    steps: list[str] = []

    async def endless() -> None:
        threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()
        try:
            await asyncio.sleep(600)
        finally:
            await asyncio.sleep(0.2)
            steps.append("closed")

    with pytest.raises(KeyboardInterrupt):
        run(endless())
    assert steps == ["closed"]


@callers
def test_an_interrupt_waits_for_a_few_seconds_at_most(
    run: Callable[[object], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_loop, "_CANCELLATION_S", 0.2)

    async def stubborn() -> None:
        threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()
        while not stop.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(0.01)

    stop = threading.Event()
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        run(stubborn())
    assert time.monotonic() - began < 20
    stop.set()
    event_loop.run(asyncio.sleep(0.1))


def test_an_interrupt_in_the_middle_of_a_computation_reaches_the_caller() -> None:
    closed: list[str] = []

    async def computes() -> None:
        await asyncio.sleep(0)
        os.kill(os.getpid(), signal.SIGINT)
        while True:
            time.sleep(0.001)

    async def waits() -> None:
        tasks = [asyncio.ensure_future(computes()), asyncio.ensure_future(asyncio.sleep(600))]
        try:
            await asyncio.gather(*tasks)
        finally:
            tasks[1].cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            closed.append("closed")

    with pytest.raises(KeyboardInterrupt):
        event_loop.run(waits())
    assert closed == ["closed"]
