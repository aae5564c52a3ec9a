"""The scores of one step in the making: calls begin while completions are still generated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from grpo.rewards.calling.batch import RewardBatch, column_names
from grpo.rewards.calling.caller import Caller, settled
from grpo.rewards.calling.threads import Outcome, Pending
from grpo.rewards.columns import Column, column_of
from grpo.rewards.function import RewardFunction, TrainerState
from grpo.types import Group, Prompt, Rollout

__all__ = ["Scoring"]

_WHOLE_STEP = -1
_ENOUGH_TIMEOUTS = 3


class Scoring:
    """Calls the functions for one step: some for each group that is added, the others for all groups together.

    Which calls there are and what they are given follows from the functions alone, and not from when groups are
    added, in which order, or how long calls take. So does the order of what comes back.

    Attributes:
        state: where the run is.
    """

    def __init__(
        self,
        functions: Sequence[RewardFunction],
        caller: Caller,
        prompts: Sequence[Prompt],
        state: TrainerState,
        weights: Mapping[str, float],
    ) -> None:
        """Begin.

        Args:
            prompts: of all groups there will be.
            weights: of the functions in this step, by name.
        """
        self._functions = functions
        self._caller = caller
        self._prompts = prompts
        self.state = state
        self._weights = weights
        self._columns = column_names(prompts)
        self._groups: dict[int, Group] = {}
        self._batches: dict[int, RewardBatch] = {}
        self._pending: dict[tuple[str, int], Pending] = {}

    @property
    def groups(self) -> tuple[Group, ...]:
        """The groups that were added, in order of the prompts."""
        return tuple(self._groups[place] for place in sorted(self._groups))

    @property
    def texts(self) -> list[str]:
        """Their texts, in the same order."""
        return [text for place in sorted(self._batches) for text in self._batches[place].texts]

    def add(self, place: int, rollouts: Sequence[Rollout], texts: Sequence[str]) -> None:
        """Take the finished group of `prompts[place]`, and begin the calls that need not wait for others."""
        group = Group(self._prompts[place], tuple(rollouts))
        self._groups[place] = group
        self._batches[place] = RewardBatch.of([group], texts, self.state, self._columns)
        for function in self._functions:
            if function.overlap:
                self._start(function, place)

    def finish(self) -> list[Column]:
        """Make the calls that are left, wait for all of them, and return one column a function."""
        assert len(self._groups) == len(self._prompts), "a group is missing"
        try:
            for function in self._functions:
                if not function.overlap:
                    for place in self._places(function):
                        self._start(function, place)
            return [self._column(function) for function in self._functions]
        except BaseException:
            self.cancel()
            raise

    def cancel(self) -> None:
        """Give up what was begun."""
        _cancel(list(self._pending.values()))

    def _start(self, function: RewardFunction, place: int) -> None:
        self._pending[function.name, place] = self._caller.start(function, self._batch(place), place)

    def _batch(self, place: int) -> RewardBatch:
        if place != _WHOLE_STEP:
            return self._batches[place]
        return RewardBatch.of(self.groups, self.texts, self.state, self._columns)

    def _places(self, function: RewardFunction) -> Sequence[int]:
        """Return what its calls are of: each group, or all of them together."""
        return range(len(self._prompts)) if function.by_group else [_WHOLE_STEP]

    def _column(self, function: RewardFunction) -> Column:
        """Wait for a function's calls and return the column that they make."""
        places = self._places(function)
        outcomes = self._outcomes(function, places)
        results = [settled(outcome, len(self._batch(place))) for place, outcome in zip(places, outcomes, strict=True)]
        seconds = max((outcome.seconds for outcome in outcomes), default=0.0)
        return column_of(function, self._weights[function.name], results, seconds)

    def _outcomes(self, function: RewardFunction, places: Sequence[int]) -> list[Outcome]:
        """Wait for a function's calls. Where they wait for each other and all take too long, no more are waited for."""
        pending = [self._pending[function.name, place] for place in places]
        outcomes: list[Outcome] = []
        for call in pending:
            timeouts = sum(isinstance(outcome.error, TimeoutError) for outcome in outcomes)
            if not function.is_async and timeouts == len(outcomes) >= _ENOUGH_TIMEOUTS:
                break
            outcomes.append(call.wait())
        left = pending[len(outcomes) :]
        hopeless = Outcome(None, TimeoutError("not waited for: the calls before it took too long"), 0.0)
        outcomes += [call.wait() if call.is_done() else hopeless for call in left]
        _cancel(left)
        return outcomes


def _cancel(pending: Sequence[Pending]) -> None:
    """Give calls up, the last first: where they stand in a queue, none is to begin because the one before it ended."""
    for call in reversed(pending):
        call.cancel()
