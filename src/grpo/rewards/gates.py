"""Rewards that count only where another reward is high enough."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from grpo.errors import ConfigError
from grpo.rewards.function import RewardFunction
from grpo.rewards.output import Failure, RewardOutput, RewardValue, value_sum

__all__ = ["apply_gates", "find_gate", "resolve_gates"]


def resolve_gates(functions: Sequence[RewardFunction]) -> tuple[RewardFunction, ...]:
    """Return the functions with each gate under the name that its function has in the suite.

    Raises:
        ConfigError: a gate is no reward of the suite, or rewards gate each other in a circle.
    """
    names = [function.name for function in functions]
    gates: dict[str, str | None] = {}
    for function in functions:
        gates[function.name] = None if function.gate is None else find_gate(function.gate, names)
        if function.gate is not None and gates[function.name] is None:
            raise ConfigError(
                f"reward {function.name!r} has gate={function.gate!r}, which is no reward here: "
                f"use one of {[name for name in names if name != function.name]}"
            )
    for name in names:
        path = [name]
        while (gate := gates[path[-1]]) is not None:
            path.append(gate)
            if gate in path[:-1]:
                raise ConfigError(f"rewards gate each other in a circle, {' ← '.join(path)}: leave out one gate")
    return tuple(replace(function, gate=gates[function.name]) for function in functions)


def find_gate(gate: str, names: Sequence[str]) -> str | None:
    """Return the name in the suite of the reward that a gate names; None if there is no such reward.

    A gate may be given by that name, or as the reward is written in a configuration.

    Example:
        >>> find_gate("mine.py:brief", ["correctness", "brief"]), find_gate("strict_format_reward", ["strict_format"])
        ('brief', 'strict_format')
    """
    plain = gate.removesuffix("_func").removesuffix("_reward")
    candidates = (gate, plain, gate.rpartition(":")[2], gate.rstrip("/").rpartition("/")[2])
    return next((candidate for candidate in candidates if candidate in names), None)


def apply_gates(functions: Sequence[RewardFunction], outputs: Mapping[str, RewardOutput]) -> dict[str, RewardOutput]:
    """Return the outputs with value 0, and the reward in `withheld`, for completions whose gate is closed.

    A gate is open where its reward, before any normalisation, is above `gate_at`. It is closed where that reward
    does not apply or failed, and where a closed gate keeps that reward itself from counting. A failure behind a
    closed gate stays a failure, and None stays None.
    """
    by_name = {function.name: function for function in functions}

    def is_open(name: str, place: int) -> bool:
        gate = by_name[name].gate
        if gate is None:
            return True
        reward = value_sum(outputs[gate].unnormalised[place])
        return reward is not None and reward > by_name[name].gate_at and is_open(gate, place)

    def gated(name: str, output: RewardOutput) -> RewardOutput:
        if by_name[name].gate is None:
            return output
        values = [(value, is_open(name, place)) for place, value in enumerate(output.values)]
        return replace(
            output,
            values=tuple(value if counts else _zeroed(value) for value, counts in values),
            withheld=tuple(None if counts else value_sum(value) for value, counts in values),
        )

    return {name: gated(name, output) for name, output in outputs.items()}


def _zeroed(value: RewardValue) -> RewardValue:
    if isinstance(value, tuple):
        return tuple(None if reward is None else 0.0 for reward in value)
    return value if value is None or isinstance(value, Failure) else 0.0
