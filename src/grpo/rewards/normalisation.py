"""Rewards on a scale of their own → deviations from their mean over the run, in units of its standard deviation."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from grpo.distributed import Processes
from grpo.errors import CheckpointError
from grpo.rewards.output import Failure, RewardOutput, RewardValue

__all__ = ["RunningNormalisation", "normalise_output"]

_EPSILON = 1e-6


@dataclass(slots=True)
class RunningNormalisation:
    """Mean and standard deviation of all rewards of a run so far.

    Attributes:
        count: number of rewards.
        mean: of the rewards; 0 before the first.
        squares: sum of the squared deviations from the mean.
    """

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0

    @property
    def std(self) -> float:
        """Standard deviation (ddof 1) of the rewards; 0 before the second."""
        return math.sqrt(self.squares / (self.count - 1)) if self.count > 1 else 0.0

    def update(self, rewards: Sequence[float]) -> None:
        """Update mean and standard deviation with rewards; NaN and infinity are left out."""
        finite = [reward for reward in rewards if math.isfinite(reward)]
        if finite:
            mean = math.fsum(finite) / len(finite)
            self._merge(len(finite), mean, math.fsum((reward - mean) ** 2 for reward in finite))

    def normalise(self, reward: float) -> float:
        """Return (reward − mean) / (std + 1e-6); NaN for NaN and infinity.

        Example:
            >>> running = RunningNormalisation()
            >>> running.update([10.0, 12.0, 14.0])
            >>> running.mean, running.std, round(running.normalise(14.0), 3)
            (12.0, 2.0, 1.0)
        """
        return (reward - self.mean) / (self.std + _EPSILON) if math.isfinite(reward) else math.nan

    def _merge(self, count: int, mean: float, squares: float) -> None:
        """Merge a batch by Chan, Golub and LeVeque (1979), which loses no digits as a sum of squares would."""
        total, difference = self.count + count, mean - self.mean
        self.squares += squares + difference * difference * self.count * count / total
        self.mean += difference * count / total
        self.count = total

    def state_dict(self) -> dict[str, float]:
        """Return count, mean and sum of squared deviations, as JSON has them."""
        return asdict(self)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned.

        Raises:
            CheckpointError: `state` has another form.
        """
        try:
            count, mean, squares = int(state["count"]), float(state["mean"]), float(state["squares"])
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"the saved state of a running normalisation is {dict(state)!r}: count, mean and squares are needed"
            ) from error
        self.count, self.mean, self.squares = count, mean, squares


def normalise_output(output: RewardOutput, running: RunningNormalisation, processes: Processes) -> RewardOutput:
    """Return the output with its numbers normalised; None and failures stay.

    Before, the numbers of all processes update `running`, in order of rank. Token rewards become failures: there is
    one mean for all positions of a text.
    """
    values: list[RewardValue] = [_FOR_TOKENS if isinstance(value, tuple) else value for value in output.values]
    running.update([number for numbers in processes.gather(_numbers(values)) for number in numbers])
    normalised = (running.normalise(value) if isinstance(value, float) else value for value in values)
    return replace(output, values=tuple(normalised), raw_values=output.values)


def _numbers(values: Sequence[RewardValue]) -> list[float]:
    return [value for value in values if isinstance(value, float)]


_FOR_TOKENS = Failure(TypeError("gave a reward for each token, and normalise=running takes one for a completion"))
