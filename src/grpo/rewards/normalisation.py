"""Rewards on a scale of their own → deviations from their mean over the run, in units of its standard deviation."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

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

    def update(self, rewards: Sequence[float]) -> list[float]:
        """Update mean and standard deviation with rewards, and return them as (reward − mean) / (std + 1e-6).

        NaN and infinity do not enter mean and standard deviation, and are returned as NaN.

        Example:
            >>> [round(value, 3) for value in RunningNormalisation().update([10.0, 12.0, 14.0])]
            [-1.0, 0.0, 1.0]
        """
        finite = [reward for reward in rewards if math.isfinite(reward)]
        if finite:
            self._merge(
                len(finite), mean := math.fsum(finite) / len(finite), math.fsum((x - mean) ** 2 for x in finite)
            )
        mean, scale = self.mean, self.std + _EPSILON
        return [(reward - mean) / scale if math.isfinite(reward) else math.nan for reward in rewards]

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


def normalise_output(output: RewardOutput, running: RunningNormalisation) -> RewardOutput:
    """Return the output with its numbers normalised after they have updated `running`; None and failures stay.

    Token rewards become failures: there is one mean for all positions of a text.
    """
    values: list[RewardValue] = [_FOR_TOKENS if isinstance(value, tuple) else value for value in output.values]
    places = [place for place, value in enumerate(values) if isinstance(value, float)]
    numbers = running.update([value for value in values if isinstance(value, float)])
    for place, number in zip(places, numbers, strict=True):
        values[place] = number
    return replace(output, values=tuple(values), raw_values=output.values)


_FOR_TOKENS = Failure(TypeError("gave a reward for each token, and normalise=running takes one for a completion"))
