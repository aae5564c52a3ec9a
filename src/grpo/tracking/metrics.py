"""Metrics as the curves of TensorBoard and Weights & Biases: one number under one name."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard

__all__ = ["answer_counts", "each_reward", "flatten_evaluation", "flatten_step", "is_finite", "reward_means"]

_TAKEN = frozenset({"reward", "step", "kl", "length", "cut", "zero-var", "failed", "lr", "left"})
"""Names that the screen uses for other numbers."""


def flatten_step(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Return the finite numbers of a step, those without a section of their own under `train/`.

    Example:
        >>> flatten_step({"reward": 0.5, "rewards/format/mean": 1, "kl": None, "step": 3})
        {'train/reward': 0.5, 'rewards/format/mean': 1.0}
    """
    return {
        name if "/" in name else f"train/{name}": float(value)
        for name, value in metrics.items()
        if name != "step" and is_finite(value)
    }


def flatten_evaluation(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Return the finite numbers of an evaluation under `eval/`; intervals as `_low` and `_high`, pass@k by its k, each
    reward's mean and interval under `rewards/`.

    Example:
        >>> flatten_evaluation({"accuracy": 0.5, "accuracy_ci95": [0.4, 0.6], "pass_at_k": {"1": 0.5}})
        {'eval/accuracy': 0.5, 'eval/accuracy_ci95_low': 0.4, 'eval/accuracy_ci95_high': 0.6, 'eval/pass_at_1': 0.5}
    """
    flat: dict[str, Any] = {}
    for name, value in metrics.items():
        if name == "rewards_ci95":
            for reward, bounds in value.items():
                flat |= _bounds(f"rewards/{reward}_ci95", bounds)
        elif name.endswith("_ci95"):
            flat |= _bounds(name, value)
        elif name == "pass_at_k":
            flat |= {f"pass_at_{k}": share for k, share in value.items()}
        elif name == "rewards":
            flat |= {f"rewards/{reward}": mean for reward, mean in value.items()}
        elif name not in ("step", "answers"):
            flat[name] = value
    return {f"eval/{name}": float(value) for name, value in flat.items() if is_finite(value)}


def _bounds(name: str, bounds: Sequence[float] | None) -> dict[str, float]:
    return {} if bounds is None else {f"{name}_low": bounds[0], f"{name}_high": bounds[1]}


def answer_counts(metrics: Mapping[str, Any]) -> dict[str, int]:
    """Return how often each answer was given, most frequent first; empty when the task verifies no answers."""
    answers: Mapping[str, int] = metrics.get("answers") or {}
    return dict(sorted(answers.items(), key=lambda answer: (-answer[1], answer[0])))


def each_reward(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Return the mean of each reward in an evaluation by its name, and its interval under the name with `_ci95`.

    Example:
        >>> each_reward({"rewards": {"brevity": 0.5}, "rewards_ci95": {"brevity": [0.4, 0.6]}})
        {'brevity': 0.5, 'brevity_ci95': [0.4, 0.6]}
    """
    intervals = metrics.get("rewards_ci95") or {}
    return {**(metrics.get("rewards") or {}), **{f"{name}_ci95": bounds for name, bounds in intervals.items()}}


def reward_means(metrics: Mapping[str, Any]) -> dict[str, float | None]:
    """Return the mean of each reward in a step by its name, None where it gave no number.

    A function is shown as `length()` if the screen uses its name for another number: `reward` is the total,
    `length` that of completions.

    Example:
        >>> reward_means({"rewards/format/mean": 0.5, "rewards/format/failed": 0, "rewards/own/failed": 8})
        {'format': 0.5, 'own': None}
        >>> reward_means({"rewards/length/mean": 0.5})
        {'length()': 0.5}
    """
    keys = [key for key in metrics if key.startswith("rewards/") and key.endswith(("/mean", "/failed"))]
    names = dict.fromkeys(key.removeprefix("rewards/").rpartition("/")[0] for key in keys)
    return {f"{name}()" if name in _TAKEN else name: metrics.get(f"rewards/{name}/mean") for name in names}


def is_finite(value: object) -> TypeGuard[float]:
    """Return whether `value` is a finite number."""
    return isinstance(value, (int, float)) and math.isfinite(value)
