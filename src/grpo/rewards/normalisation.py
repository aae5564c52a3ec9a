"""Rewards on a scale of their own → deviations from their mean over the run, in units of its standard deviation."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from grpo.errors import CheckpointError
from grpo.rewards.columns import Column
from grpo.rewards.readout import Failed, Reading

__all__ = ["RunningNormalisation", "normalised_column"]

_EPSILON = 1e-6


class RunningNormalisation:
    """Mean and standard deviation of all rewards of a run so far, and what they make of a reward.

    The figures are three numbers that are saved with a checkpoint, so a resumed run goes on with the same ones.
    """

    def __init__(self) -> None:
        self._count, self._mean, self._squares = 0, 0.0, 0.0

    @property
    def count(self) -> int:
        """How many rewards were taken in."""
        return self._count

    @property
    def mean(self) -> float:
        """Mean of the rewards so far; 0 before the first."""
        return self._mean

    @property
    def std(self) -> float:
        """Standard deviation (ddof 1) of the rewards so far; 0 before the second."""
        return math.sqrt(self._squares / (self._count - 1)) if self._count > 1 else 0.0

    def take_in(self, rewards: Sequence[float]) -> list[float]:
        """Take rewards into the figures and return them as (reward − mean) / (std + 1e-6).

        Those that are NaN or infinite are left out of the figures and come back as NaN.

        Example:
            >>> [round(value, 3) for value in RunningNormalisation().take_in([10.0, 12.0, 14.0])]
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
        """Add a batch's figures to ours (Chan, Golub and LeVeque 1979), which loses no digits as a plain sum would."""
        total, difference = self._count + count, mean - self._mean
        self._squares += squares + difference * difference * self._count * count / total
        self._mean += difference * count / total
        self._count = total

    def state_dict(self) -> dict[str, float]:
        """Return the figures as numbers that JSON can hold."""
        return {"count": self._count, "mean": self._mean, "squares": self._squares}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from saved figures.

        Raises:
            CheckpointError: they are not what `state_dict` returns.
        """
        try:
            count, mean, squares = int(state["count"]), float(state["mean"]), float(state["squares"])
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"the saved state of a running normalisation is {dict(state)!r}: count, mean and squares are needed"
            ) from error
        self._count, self._mean, self._squares = count, mean, squares


def normalised_column(column: Column, running: RunningNormalisation) -> Column:
    """Return the column with its numbers normalised, once they are in the figures; what is no number stays as it is.

    A reward for each token fails: there is one mean for all places of a text.
    """
    readings = [_FOR_TOKENS if isinstance(reading, tuple) else reading for reading in column.readings]
    places = [place for place, reading in enumerate(readings) if isinstance(reading, float)]
    numbers = running.take_in([reading for reading in readings if isinstance(reading, float)])
    counted: list[Reading] = list(readings)
    for place, number in zip(places, numbers, strict=True):
        counted[place] = number
    return replace(column, readings=counted, given=column.readings)


_FOR_TOKENS = Failed(TypeError("gave a reward for each token, and normalise=running takes one for a completion"))
