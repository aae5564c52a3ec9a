"""Calls of reward functions: each where it runs, in a thread, in an event loop or in processes of its own."""

from __future__ import annotations

from collections.abc import Sequence

from grpo.rewards.calling.batch import CallResult, Recorder, RewardBatch
from grpo.rewards.calling.processes import ProcessPool
from grpo.rewards.calling.threads import AsyncWorker, Outcome, Pending, SyncWorker
from grpo.rewards.function import RewardFunction
from grpo.rewards.readout import Failed, read_rewards
from grpo.seeding import derive_seed

__all__ = ["Caller", "settled"]


class Caller:
    """Calls reward functions, with a limit of time.

    Functions that are not async share one thread, where one call follows the other, so that those which draw random
    numbers draw the same ones each time; those that overlap have a thread each. Async ones share an event loop, and
    those with processes have them to themselves. All of these begin with the first call that needs them.
    """

    def __init__(self, functions: Sequence[RewardFunction], *, timeout_s: float | None, seed: int) -> None:
        """Make ready.

        Args:
            timeout_s: seconds that one call may take; None for no limit.
            seed: what the random generators of functions in processes begin each call with, besides what it is of.

        Raises:
            ConfigError: a function cannot be sent to a process.
        """
        self.timeout_s = timeout_s
        self.seed = seed
        self._one_thread = SyncWorker()
        self._threads = {function.name: SyncWorker() for function in functions if function.overlap}
        self._async = AsyncWorker()
        self._pools = {function.name: ProcessPool(function) for function in functions if function.processes}

    def start(self, function: RewardFunction, batch: RewardBatch, place: int) -> Pending:
        """Begin a call, or let it wait for those before it in its thread or for a process that is free.

        Its outcome is a `CallResult`, or an error.

        Args:
            place: of the group in its step.
        """
        if function.processes:
            seed = derive_seed(self.seed, "reward", function.name, batch.state.global_step, place, *batch.texts)
            return self._pools[function.name].start(batch, seed=seed, timeout_s=self.timeout_s)
        recorder = Recorder()
        if function.is_async:

            async def call_async() -> CallResult:
                returned = await function.call(batch.arguments(recorder))
                return CallResult(read_rewards(returned, batch.num_tokens), recorder)

            return self._async.start(call_async, self.timeout_s)

        def call() -> CallResult:
            # Read here as well: an iterator that is returned runs the user's code.
            return CallResult(read_rewards(function.call(batch.arguments(recorder)), batch.num_tokens), recorder)

        return self._threads.get(function.name, self._one_thread).start(call, self.timeout_s)

    def close(self) -> None:
        """End all processes; a later call would begin new ones."""
        for pool in self._pools.values():
            pool.close()


def settled(outcome: Outcome, count: int) -> CallResult:
    """Return the answer of a call; one that failed as a whole fails for every completion and logs nothing.

    Raises:
        KeyboardInterrupt: the function raised it.
    """
    if isinstance(outcome.error, KeyboardInterrupt):
        raise outcome.error
    if outcome.error is None:
        result: CallResult = outcome.value
        return result
    return CallResult([Failed(outcome.error)] * count, Recorder())
