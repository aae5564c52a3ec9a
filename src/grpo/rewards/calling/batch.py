"""Groups of completions → the arguments that reward functions take."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from grpo.rewards.function import PROVIDED, TrainerState
from grpo.rewards.output import CallLog
from grpo.tasks.opened_tags import opened_tag
from grpo.types import Group, Prompt, Rollout

__all__ = ["RewardBatch", "column_names"]

_NOT_COLUMNS = frozenset({*PROVIDED, "prompt", "completion"})


@dataclass(frozen=True, slots=True)
class RewardBatch:
    """Completions in order of groups.

    Attributes:
        texts: decoded completions of all groups, one after another.
        columns: names of the data set's columns that functions are given.
    """

    groups: tuple[Group, ...]
    texts: tuple[str, ...]
    state: TrainerState
    columns: tuple[str, ...]

    @property
    def prompts(self) -> list[Prompt]:
        """The prompt of each completion."""
        return [group.prompt for group, _ in self._members()]

    @property
    def num_tokens(self) -> list[int]:
        """The number of tokens of each completion."""
        return [len(rollout.token_ids) for _, rollout in self._members()]

    def arguments(self, log: CallLog) -> Mapping[str, Callable[[], Any]]:
        """Return by name a maker of each argument: TRL's arguments and opened tags, then the data set's columns.

        Each call of a maker returns new objects. A column that some rows lack is None there.
        """
        return {
            "prompts": self._prompts,
            "completions": self._completions,
            "completion_ids": lambda: [list(rollout.token_ids) for _, rollout in self._members()],
            "opened_tags": lambda: [opened_tag(prompt) for prompt in self.prompts],
            **{name: self._column_maker(name) for name in self.columns},
            "trainer_state": lambda: self.state,
            "log_extra": lambda: log.log_extra,
            "log_metric": lambda: log.log_metric,
        }

    def _prompts(self) -> list[Any]:
        raws = (prompt.raw for prompt in self.prompts)
        return [raw if isinstance(raw, str) else [copy.deepcopy(dict(message)) for message in raw] for raw in raws]

    def _completions(self) -> list[Any]:
        return [
            text if isinstance(group.prompt.raw, str) else _messages(rollout, text)
            for (group, rollout), text in zip(self._members(), self.texts, strict=True)
        ]

    def _members(self) -> list[tuple[Group, Rollout]]:
        return [(group, rollout) for group in self.groups for rollout in group.rollouts]

    def _column_maker(self, name: str) -> Callable[[], list[Any]]:
        return lambda: [copy.deepcopy(prompt.columns.get(name)) for prompt in self.prompts]


def _messages(rollout: Rollout, text: str) -> list[dict[str, Any]]:
    """Return the messages after the prompt: the turns of an episode, or the completion as the only one."""
    return [copy.deepcopy(dict(message)) for message in rollout.messages] or [{"role": "assistant", "content": text}]


def column_names(prompts: Iterable[Prompt]) -> tuple[str, ...]:
    """Return the names of the columns that any of the rows has, except names of other arguments."""
    names = dict.fromkeys(name for prompt in prompts for name in prompt.columns)
    return tuple(name for name in names if name not in _NOT_COLUMNS)
