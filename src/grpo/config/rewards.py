"""How reward functions are written down: as a name, a list, or a mapping from names to weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_serializer, model_validator

__all__ = ["RewardFunction", "function_settings", "reward_specs"]

_KEYS = ("name", "weight", "parameters")


class RewardFunction(BaseModel):
    """One reward function: which, with what weight, and the keyword arguments it is made with.

    Example:
        >>> RewardFunction.model_validate({"name": "reasoning_length", "weight": 0.5, "target": 40}).parameters
        {'target': 40}
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: str = Field(min_length=1, description="a built-in, or 'package.module:function', or 'file.py:function'")
    weight: float = Field(1.0, description="what its rewards are multiplied with before they are added up")
    parameters: dict[str, Any] = Field(default_factory=dict, description="keyword arguments of the function's own")

    @model_validator(mode="before")
    @classmethod
    def _gather_parameters(cls, value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        own = {key: value[key] for key in _KEYS if key in value}
        others = {key: setting for key, setting in value.items() if key not in _KEYS}
        return {**own, "parameters": {**(own.get("parameters") or {}), **others}}

    @model_serializer
    def _as_written(self) -> dict[str, Any]:
        clash = set(self.parameters) & set(_KEYS)
        if clash:
            return {"name": self.name, "weight": self.weight, "parameters": dict(self.parameters)}
        return {"name": self.name, "weight": self.weight, **self.parameters}


def reward_specs(value: Any) -> list[dict[str, Any]]:
    """Return reward functions, however they were written, as `{"name": …, "weight": …, …parameters}`.

    Raises:
        ValueError: it is no way to name reward functions, or one is named twice.

    Example:
        >>> reward_specs("correctness, strict_format")
        [{'name': 'correctness'}, {'name': 'strict_format'}]
        >>> reward_specs({"correctness": 2.0, "reasoning_length": {"target": 40}})
        [{'name': 'correctness', 'weight': 2.0}, {'name': 'reasoning_length', 'target': 40}]
    """
    if value is None:
        return []
    if isinstance(value, str):
        value = [part.strip() for part in value.split(",") if part.strip()]
    elif isinstance(value, RewardFunction):
        value = [value]
    elif isinstance(value, Mapping):
        value = [value] if "name" in value else [{name: settings} for name, settings in value.items()]
    elif not isinstance(value, list | tuple):
        raise ValueError("Input should be a name, a list of names, or a mapping from names to weights")
    specs = [_spec(entry) for entry in value]
    names = [spec["name"] for spec in specs]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"Input should name each function once, but {twice!r} is there twice")
    return specs


def _spec(entry: Any) -> dict[str, Any]:
    """Return one function's settings from `"name"`, `{"name": …}`, `{name: weight}` or `{name: {…}}`."""
    if isinstance(entry, RewardFunction):
        return entry.model_dump()
    if isinstance(entry, str):
        return {"name": entry}
    if isinstance(entry, Mapping) and "name" in entry:
        return dict(entry)
    if isinstance(entry, Mapping) and len(entry) == 1 and not set(entry) & set(_KEYS):
        (name, settings), *_ = entry.items()
        return {"name": str(name), **function_settings(settings)}
    raise ValueError(
        f"Input should name a function and its weight, as in {{name: correctness, weight: 2.0}}: {entry!r}"
    )


def function_settings(value: Any) -> dict[str, Any]:
    """Return `{"weight": …}` for a number, a mapping as it is, and `{}` for None."""
    if value is None:
        return {}
    if isinstance(value, Mapping):
        return dict(value)
    return {"weight": value}
