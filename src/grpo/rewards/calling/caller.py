"""The place where each reward function runs: a thread, an event loop or processes, with a time limit."""

from __future__ import annotations

from collections.abc import Sequence

from grpo.rewards.calling.batch import RewardBatch
from grpo.rewards.calling.call import Call, run_async_call, run_call
from grpo.rewards.calling.processes import ProcessPool
from grpo.rewards.calling.threads import DaemonThreads, EventLoopThread
from grpo.rewards.function import RewardFunction
from grpo.seeding import derive_seed

__all__ = ["Caller"]


class Caller:
    """Calls reward functions, with a time limit.

    Functions that are not async share one thread and run one after another, so that functions which draw random
    numbers draw the same ones each time; functions that overlap have a thread each. Async functions share an event
    loop. A function with `processes` has a pool of its own. Threads and processes start with the first call that
    needs them.
    """

    def __init__(self, functions: Sequence[RewardFunction], *, timeout_s: float | None, seed: int) -> None:
        """Prepare threads and pools.

        Args:
            timeout_s: seconds that one call may take; None for no limit.
            seed: of the run; with step, group and texts it seeds the generators of functions in processes.

        Raises:
            ConfigError: a function cannot be sent to a process.
        """
        self.timeout_s = timeout_s
        self.seed = seed
        self._shared_thread = DaemonThreads()
        self._threads = {function.name: DaemonThreads() for function in functions if function.overlap}
        self._event_loop = EventLoopThread()
        self._pools = {function.name: ProcessPool(function) for function in functions if function.processes}

    def start(self, function: RewardFunction, batch: RewardBatch, place: int) -> Call:
        """Return a new call, which waits for the earlier ones in its thread or for a free process.

        Args:
            place: of the group in its step, over all processes.
        """
        if function.processes:
            seed = derive_seed(self.seed, "reward", function.name, batch.state.global_step, place, *batch.texts)
            return self._pools[function.name].start(batch, seed=seed, timeout_s=self.timeout_s)
        num_tokens = batch.num_tokens
        if function.is_async:
            return self._event_loop.start(
                lambda: run_async_call(lambda log: function.call(batch.arguments(log)), num_tokens),
                len(num_tokens),
                self.timeout_s,
            )
        return self._threads.get(function.name, self._shared_thread).start(
            lambda: run_call(lambda log: function.call(batch.arguments(log)), num_tokens),
            len(num_tokens),
            self.timeout_s,
        )

    def close(self) -> None:
        """End all processes; a later call starts new ones."""
        for pool in self._pools.values():
            pool.close()
