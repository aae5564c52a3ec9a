"""One call of a reward function: its output, failures included, and the handle to a call under way."""

from __future__ import annotations

import math
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass
from typing import Any

from grpo.rewards.output import CallLog, RewardOutput
from grpo.rewards.reward_parsing import parse_rewards

__all__ = ["Call", "run_async_call", "run_call", "timed_out"]

# A signal that arrives just before a thread begins to wait for a lock does not wake it.
_POLL_S = 0.25


@dataclass(frozen=True, slots=True)
class Call:
    """A call under way.

    Attributes:
        future: its output.
        cancel: gives the call up; its output is then never read.
        deadline: `time.monotonic()` after which `on_overdue` replaces the output; infinite where the thread or
            process of the call enforces the time limit by itself.
        on_overdue: returns the output of a call that is past its deadline.
    """

    future: Future[RewardOutput]
    cancel: Callable[[], object]
    deadline: float = math.inf
    on_overdue: Callable[[], RewardOutput] | None = None

    def output(self) -> RewardOutput:
        """Wait for the output and return it; KeyboardInterrupt ends the wait.

        Raises:
            KeyboardInterrupt: it was pressed meanwhile, or the function raised it.
        """
        while not self.future.done():
            left_s = self.deadline - time.monotonic()
            if left_s <= 0 and self.on_overdue is not None:
                return self.on_overdue()
            wait((self.future,), min(left_s, _POLL_S))
        output = self.future.result()
        if isinstance(output.error, KeyboardInterrupt):
            raise output.error
        return output


def run_call(function: Callable[[CallLog], Any], num_tokens: Sequence[int]) -> RewardOutput:
    """Call a function and return its output; whatever it raises fails all completions.

    Args:
        function: calls the reward function with the methods of a log among its arguments.
        num_tokens: length of each completion.
    """
    log, began = CallLog(), time.perf_counter()
    try:
        # Parsing is part of the call: a returned iterator runs the user's code.
        values = parse_rewards(function(log), num_tokens)
    except BaseException as error:  # `exit()` in a reward must not end its thread or process
        return RewardOutput.failed(error, len(num_tokens), time.perf_counter() - began)
    return log.output(values, time.perf_counter() - began)


async def run_async_call(function: Callable[[CallLog], Awaitable[Any]], num_tokens: Sequence[int]) -> RewardOutput:
    """Await a function and return its output, as `run_call` does."""
    log, began = CallLog(), time.perf_counter()
    try:
        values = parse_rewards(await function(log), num_tokens)
    except BaseException as error:  # KeyboardInterrupt in a task would end the loop's thread
        return RewardOutput.failed(error, len(num_tokens), time.perf_counter() - began)
    return log.output(values, time.perf_counter() - began)


def timed_out(count: int, timeout_s: float | None) -> RewardOutput:
    """Return the output of a call of `count` completions that exceeded its time limit."""
    assert timeout_s is not None
    return RewardOutput.failed(TimeoutError(f"no result within {timeout_s:g} s"), count, timeout_s)
