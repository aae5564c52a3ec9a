"""Rewards that count only where another reward holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from grpo.errors import ConfigError
from grpo.rewards.columns import Column
from grpo.rewards.function import RewardFunction
from grpo.rewards.readout import Failed, Reading, reward_sum

__all__ = ["apply_gates", "find_gate", "with_gates_found"]


def with_gates_found(functions: Sequence[RewardFunction]) -> tuple[RewardFunction, ...]:
    """Return the functions with each gate by the name that its function has in the suite.

    Raises:
        ConfigError: a gate is no reward of the suite, or rewards gate each other in a circle.
    """
    names = [function.name for function in functions]
    found = [
        function if function.gate is None else replace(function, gate=_find(function, function.gate, names))
        for function in functions
    ]
    gates = {function.name: function.gate for function in found}
    for name in names:
        passed, gate = [name], gates[name]
        while gate is not None:
            passed.append(gate)
            if gate in passed[:-1]:
                raise ConfigError(f"rewards gate each other in a circle, {' ← '.join(passed)}: leave out one gate")
            gate = gates[gate]
    return tuple(found)


def _find(function: RewardFunction, gate: str, names: Sequence[str]) -> str:
    found = find_gate(gate, names)
    if found is None:
        raise ConfigError(
            f"reward {function.name!r} has gate={gate!r}, which is no reward here: "
            f"use one of {[name for name in names if name != function.name]}"
        )
    return found


def find_gate(gate: str, names: Sequence[str]) -> str | None:
    """Return which of a suite's rewards is meant as a gate; None if there is no such.

    It may be given by its name there, or as the reward is written in a configuration.

    Example:
        >>> find_gate("mine.py:brief", ["correctness", "brief"]), find_gate("strict_format_reward", ["strict_format"])
        ('brief', 'strict_format')
    """
    plain = gate.removesuffix("_func").removesuffix("_reward")
    candidates = (gate, plain, gate.rpartition(":")[2], gate.rstrip("/").rpartition("/")[2])
    return next((candidate for candidate in candidates if candidate in names), None)


def apply_gates(columns: Sequence[Column]) -> list[Column]:
    """Return the columns as they count: 0 for a completion where the gate is shut, with what was given kept beside it.

    A gate is open where its reward, before any normalisation, is above `gate_at`. It is shut where that reward does
    not apply or failed, and where it does not count itself. What does not apply or failed is no number behind a gate
    either.
    """
    by_name = {column.function.name: column for column in columns}
    return [_gated(column, by_name) for column in columns]


def _gated(column: Column, by_name: Mapping[str, Column]) -> Column:
    if column.function.gate is None:
        return column
    is_open = [_is_open(column.function, place, by_name) for place in range(len(column.readings))]
    return replace(
        column,
        readings=[
            reading if counts else _nothing(reading) for reading, counts in zip(column.readings, is_open, strict=True)
        ],
        withheld=[
            None if counts else reward_sum(reading) for reading, counts in zip(column.readings, is_open, strict=True)
        ],
    )


def _is_open(function: RewardFunction, place: int, by_name: Mapping[str, Column]) -> bool:
    if function.gate is None:
        return True
    gate = by_name[function.gate]
    reward = reward_sum(gate.as_given[place])
    return reward is not None and reward > function.gate_at and _is_open(gate.function, place, by_name)


def _nothing(reading: Reading) -> Reading:
    if isinstance(reading, tuple):
        return tuple(None if reward is None else 0.0 for reward in reading)
    return reading if reading is None or isinstance(reading, Failed) else 0.0
