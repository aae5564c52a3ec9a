"""Outputs of all reward functions → scores and log entries of a step's completions."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from grpo.errors import RewardError
from grpo.rewards.failures import describe_error
from grpo.rewards.output import Failure, RewardOutput, value_sum
from grpo.rewards.reward_parsing import LARGEST_FLOAT32, parse_rewards
from grpo.types import Group, Score, ScoredGroup

__all__ = ["ALL_REWARDS", "absent_output", "environment_outputs", "log_entries", "scores_of"]

ALL_REWARDS = "all"
"""The name in `Score.failures` for a total that is missing although no single function failed."""

_GATED_OUT = "gated_out"
"""The column in `completions.jsonl` with the rewards that closed gates keep from counting."""

_logger = logging.getLogger(__name__)


def scores_of(outputs: Mapping[str, RewardOutput], weights: Mapping[str, float]) -> list[Score]:
    """Return one score a completion: the only place where rewards by name become a total.

    Rewards that an environment gives enter as further outputs (`environment_outputs`).

    Args:
        outputs: by reward name; all for the same completions.
        weights: by reward name, in force in this step.
    """
    rows = zip(*(output.values for output in outputs.values()), strict=True)
    return [_score(dict(zip(outputs, values, strict=True)), weights) for values in rows]


def environment_outputs(groups: Sequence[Group], *, taken: Collection[str]) -> dict[str, RewardOutput]:
    """Return the rewards that came with the rollouts as outputs by name, the names in alphabetical order.

    Args:
        taken: names of reward functions.

    Raises:
        RewardError: an environment's reward has the name of a function.
    """
    rewards = [rollout.rewards for group in groups for rollout in group.rollouts]
    names = sorted({name for by_name in rewards for name in by_name})
    if shared := [name for name in names if name in taken]:
        raise RewardError(f"the environment and a reward function both give {shared[0]!r}: rename one of them")
    lengths = [len(rollout.token_ids) for group in groups for rollout in group.rollouts]
    return {
        name: RewardOutput(tuple(parse_rewards([by_name.get(name) for by_name in rewards], lengths))) for name in names
    }


def absent_output(groups: Sequence[ScoredGroup]) -> RewardOutput:
    """Return the output of a reward that none of the groups' completions has."""
    return RewardOutput(tuple(None for group in groups for _ in group.rollouts))


def _score(values: Mapping[str, Any], weights: Mapping[str, float]) -> Score:
    failures: dict[str, str] = {}
    counted: dict[str, tuple[float, float]] = {}
    token_rewards: list[float | None] | None = None
    for name, value in values.items():
        if isinstance(value, Failure):
            failures[name] = describe_error(value.error)
        elif isinstance(value, tuple):
            token_rewards = _add(token_rewards or [None] * len(value), value, weights[name])
        elif value is not None:
            counted[name] = (weights[name], value)
    total = 0.0
    for weight, reward in counted.values():
        total += weight * reward
    if not failures and (error := _total_error(total, counted, token_rewards)) is not None:
        failures[ALL_REWARDS] = describe_error(error)
    return Score(
        rewards={name: value_sum(value) for name, value in values.items()},
        failures=failures,
        total=None if failures or (not counted and token_rewards is None) else total,
        token_rewards=None if token_rewards is None else tuple(token_rewards),
        counted=counted,
    )


def _total_error(
    total: float, counted: Mapping[str, tuple[float, float]], token_rewards: Sequence[float | None] | None
) -> Exception | None:
    """Return the reason why a completion without failed functions has no valid total; None: it has, or needs none."""
    if not counted and token_rewards is None:
        return None
    largest = max(abs(number) for number in (total, *(token_rewards or ())) if number is not None)
    if largest <= LARGEST_FLOAT32:
        return None
    return OverflowError(f"weights make the rewards {largest:.3g}, more than float32 holds")


def _add(sums: Sequence[float | None], rewards: Sequence[float | None], weight: float) -> list[float | None]:
    return [
        before if reward is None else (before or 0.0) + weight * reward
        for before, reward in zip(sums, rewards, strict=True)
    ]


def log_entries(outputs: Mapping[str, RewardOutput], count: int, warned: set[str]) -> list[dict[str, Any]]:
    """Return for each of `count` completions the extras of all functions and the rewards behind closed gates.

    A column that does not have one value a completion is left out with a warning, unless `warned` has its name;
    the name is added to `warned`.
    """
    rows: list[dict[str, Any]] = [{} for _ in range(count)]
    taken = {_GATED_OUT}
    for function, output in outputs.items():
        for column in dict.fromkeys(
            [*(column for extras in output.extras for column in extras), *output.misfit_extras]
        ):
            key = column if column not in taken else f"{function}/{column}"
            if column not in output.misfit_extras:
                taken.add(key)
                for row, extras in zip(rows, output.extras, strict=True):
                    row[key] = extras.get(column)
            elif key not in warned:
                warned.add(key)
                _logger.warning(
                    "reward %r logged %d values in column %r for %d completions: left out (shown once)",
                    function,
                    output.misfit_extras[column],
                    column,
                    count,
                )
    for place, row in enumerate(rows):
        withheld = {function: output.withheld[place] for function, output in outputs.items() if output.withheld}
        if gated_out := {function: reward for function, reward in withheld.items() if reward is not None}:
            row[_GATED_OUT] = gated_out
    return rows
