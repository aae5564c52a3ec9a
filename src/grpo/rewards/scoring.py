"""Scoring of one step: calls of reward functions begin while other completions are still generated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from grpo.rewards.calling.batch import RewardBatch, column_names
from grpo.rewards.calling.call import Call
from grpo.rewards.calling.caller import Caller
from grpo.rewards.function import RewardFunction, TrainerState
from grpo.rewards.output import RewardOutput
from grpo.types import Group, Prompt, Rollout

__all__ = ["Scoring"]

_WHOLE_STEP = -1
_MAX_TIMEOUTS_IN_A_ROW = 3


class Scoring:
    """Calls the functions for one step: some for each group that is added, the others for all groups together.

    The calls, their arguments and the order of their outputs follow from the functions alone. The time and order in
    which groups are added, and the duration of calls, change none of them.

    Attributes:
        state: position in the run.
        weights: of the functions in this step, by name.
    """

    def __init__(
        self,
        functions: Sequence[RewardFunction],
        caller: Caller,
        prompts: Sequence[Prompt],
        state: TrainerState,
        weights: Mapping[str, float],
        *,
        first: int = 0,
    ) -> None:
        """Prepare a step without completions.

        Args:
            prompts: of all groups in the step.
            first: number of the first group among those of all processes.
        """
        self._first = first
        self._functions = functions
        self._caller = caller
        self._prompts = prompts
        self.state = state
        self.weights = weights
        self._columns = column_names(prompts)
        self._batches: dict[int, RewardBatch] = {}
        self._calls: dict[tuple[str, int], Call] = {}

    @property
    def groups(self) -> tuple[Group, ...]:
        """The groups that were added, in order of the prompts."""
        return tuple(group for place in sorted(self._batches) for group in self._batches[place].groups)

    @property
    def texts(self) -> list[str]:
        """The decoded completions, in the same order."""
        return [text for place in sorted(self._batches) for text in self._batches[place].texts]

    def add(self, place: int, rollouts: Sequence[Rollout], texts: Sequence[str]) -> None:
        """Add the finished group of `prompts[place]`, and begin the calls that do not need other groups."""
        group = Group(self._prompts[place], tuple(rollouts))
        assert len(texts) == len(group.rollouts)
        self._batches[place] = RewardBatch((group,), tuple(texts), self.state, self._columns)
        for function in self._functions:
            if function.overlap and group.rollouts:
                self._start(function, place)

    def finish(self) -> dict[str, RewardOutput]:
        """Begin the remaining calls, wait for all calls, and return the output of each function by name.

        Raises:
            KeyboardInterrupt: it was pressed meanwhile, or a function raised it.
        """
        assert len(self._batches) == len(self._prompts), "a group is missing"
        try:
            for function in self._functions:
                if not function.overlap:
                    for place in self._places(function):
                        self._start(function, place)
            return {function.name: self._output(function) for function in self._functions}
        except BaseException:
            self.cancel()
            raise

    def cancel(self) -> None:
        """Give up all calls."""
        _cancel(list(self._calls.values()))

    def _start(self, function: RewardFunction, place: int) -> None:
        number = place if place == _WHOLE_STEP else self._first + place
        self._calls[function.name, place] = self._caller.start(function, self._batch(place), number)

    def _batch(self, place: int) -> RewardBatch:
        if place != _WHOLE_STEP:
            return self._batches[place]
        return RewardBatch(self.groups, tuple(self.texts), self.state, self._columns)

    def _places(self, function: RewardFunction) -> Sequence[int]:
        """Return the place of each filled group with a call of its own, or one place for the whole step."""
        filled = [place for place in sorted(self._batches) if self._batches[place].texts]
        return filled if function.by_group else [_WHOLE_STEP] if filled else []

    def _output(self, function: RewardFunction) -> RewardOutput:
        """Wait for a function's calls; after several timeouts and nothing else, give up the calls queued behind."""
        places = self._places(function)
        calls = [self._calls[function.name, place] for place in places]
        outputs: list[RewardOutput] = []
        for call in calls:
            timeouts = sum(isinstance(output.error, TimeoutError) for output in outputs)
            if not function.is_async and timeouts == len(outputs) >= _MAX_TIMEOUTS_IN_A_ROW:
                break
            outputs.append(call.output())
        waiting = calls[len(outputs) :]
        error = TimeoutError("not waited for: the calls before it took too long")
        outputs += [
            call.output() if call.future.done() else RewardOutput.failed(error, len(self._batch(place).texts))
            for call, place in zip(waiting, places[len(outputs) :], strict=True)
        ]
        _cancel(waiting)
        return RewardOutput.concat(outputs, seconds=max((output.seconds for output in outputs), default=0.0))


def _cancel(calls: Sequence[Call]) -> None:
    """Give up calls, the last first, so that the end of one does not start the next in its queue."""
    for call in reversed(calls):
        call.cancel()
