"""Groups of completions → the arguments that reward functions take, and what they log."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from grpo.rewards.function import PROVIDED, TrainerState
from grpo.rewards.readout import Reading
from grpo.types import Group, Prompt, Rollout

__all__ = ["CallResult", "Recorder", "RewardBatch", "column_names"]

_NOT_COLUMNS = frozenset({*PROVIDED, "prompt", "completion"})


@dataclass(frozen=True, slots=True)
class Recorder:
    """What one function logged in one step; metrics by name and columns by name, in order of the calls."""

    metrics: dict[str, list[float]] = field(default_factory=dict)
    columns: dict[str, list[Any]] = field(default_factory=dict)

    def log_metric(self, name: str, value: float) -> None:
        """Keep a number; a step shows the mean of those under one name. NaN and infinity are left out."""
        if math.isfinite(number := float(value)):
            self.metrics.setdefault(name, []).append(number)

    def log_extra(self, column: str, values: Iterable[Any]) -> None:
        """Append values, one a completion in the end, to a column of `completions.jsonl`."""
        self.columns.setdefault(column, []).extend(values)


@dataclass(frozen=True, slots=True)
class CallResult:
    """What one call gave: a reading for each of its completions, and what it logged."""

    readings: Sequence[Reading]
    recorder: Recorder


@dataclass(frozen=True, slots=True)
class RewardBatch:
    """Completions in order of groups: texts[i] answers prompts[i], rollouts[i] are its tokens.

    Attributes:
        columns: names of the data set's columns that functions are given.
    """

    prompts: tuple[Prompt, ...]
    rollouts: tuple[Rollout, ...]
    texts: tuple[str, ...]
    state: TrainerState
    columns: tuple[str, ...]

    @classmethod
    def of(
        cls, groups: Sequence[Group], texts: Sequence[str], state: TrainerState, columns: Sequence[str]
    ) -> RewardBatch:
        """Return the groups' completions one after another."""
        prompts = tuple(group.prompt for group in groups for _ in group.rollouts)
        rollouts = tuple(rollout for group in groups for rollout in group.rollouts)
        assert len(texts) == len(rollouts)
        return cls(prompts, rollouts, tuple(texts), state, tuple(columns))

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def num_tokens(self) -> list[int]:
        """Length of each completion."""
        return [len(rollout.token_ids) for rollout in self.rollouts]

    def arguments(self, recorder: Recorder) -> Mapping[str, Callable[[], Any]]:
        """Return by name what makes each argument anew: TRL's, then the data set's columns.

        A column that some rows lack is None there.
        """
        columns = {name: self._column_maker(name) for name in self.columns}
        return {
            "prompts": self._prompts,
            "completions": self._completions,
            "completion_ids": lambda: [list(rollout.token_ids) for rollout in self.rollouts],
            **columns,
            "trainer_state": lambda: self.state,
            "log_extra": lambda: recorder.log_extra,
            "log_metric": lambda: recorder.log_metric,
        }

    def _prompts(self) -> list[Any]:
        raws = (prompt.raw for prompt in self.prompts)
        return [raw if isinstance(raw, str) else [copy.deepcopy(dict(message)) for message in raw] for raw in raws]

    def _completions(self) -> list[Any]:
        return [
            text if isinstance(prompt.raw, str) else [{"role": "assistant", "content": text}]
            for prompt, text in zip(self.prompts, self.texts, strict=True)
        ]

    def _column_maker(self, name: str) -> Callable[[], list[Any]]:
        return lambda: [copy.deepcopy(prompt.columns.get(name)) for prompt in self.prompts]


def column_names(prompts: Iterable[Prompt]) -> tuple[str, ...]:
    """Return the names of the columns that any of the rows has and that take no other argument's place."""
    names = dict.fromkeys(name for prompt in prompts for name in prompt.columns)
    return tuple(name for name in names if name not in _NOT_COLUMNS)
