"""How reward functions are written down: as a name, a list, or a mapping from names to weights."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_serializer,
    model_validator,
)

__all__ = ["RewardOptions", "WeightOptions", "function_settings", "reward_specs"]

_OPTIONS = ("gate", "gate_at", "normalise", "overlap", "processes")
_KEYS = ("name", "weight", *_OPTIONS, "parameters")
_SCHEDULE = ("from", "to", "steps")


class WeightOptions(BaseModel):
    """A weight that goes in a straight line `from` one value `to` another over the first `steps` steps."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    start: float = Field(alias="from")
    end: float = Field(alias="to")
    steps: int = Field(ge=1)


class RewardOptions(BaseModel):
    """One reward function: which, with what weight, when it counts, and the keyword arguments it is made with.

    Example:
        >>> RewardOptions.model_validate({"name": "reasoning_length", "weight": 0.5, "target": 40}).parameters
        {'target': 40}
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: str = Field(min_length=1, description="a built-in, or 'package.module:function', or 'file.py:function'")
    weight: float | WeightOptions = Field(
        1.0, description="what its rewards are multiplied with: a number, or {from: 0.0, to: 1.0, steps: 100}"
    )
    gate: str | None = Field(None, min_length=1, description="name of the reward without which this one does not count")
    gate_at: float | None = Field(None, description="what that reward has to be above; null: 0")
    normalise: Literal["running"] | None = Field(
        None, description="running: it counts as its deviation from its mean over the run, in standard deviations"
    )
    overlap: bool | None = Field(
        None, description="call it while others are still generated; null: if it is async or has processes"
    )
    processes: int = Field(0, ge=0, description="run it in so many processes of its own; 0: in none")
    parameters: dict[str, Any] = Field(default_factory=dict, description="keyword arguments of the function's own")

    @model_validator(mode="before")
    @classmethod
    def _gather_parameters(cls, value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        own = {key: value[key] for key in _KEYS if key in value}
        others = {key: setting for key, setting in value.items() if key not in _KEYS}
        return {**own, "parameters": {**(own.get("parameters") or {}), **others}}

    @field_validator("weight", mode="before")
    @classmethod
    def _read_weight(cls, value: Any) -> float | WeightOptions:
        if isinstance(value, Mapping) and not any(isinstance(number, bool) for number in value.values()):
            try:
                return WeightOptions.model_validate(value)
            except ValidationError:
                pass
        if isinstance(value, WeightOptions):
            return value
        try:
            number = math.nan if isinstance(value, bool) else float(value)
        except (TypeError, ValueError):
            number = math.nan
        if not math.isfinite(number):
            raise ValueError("Input should be a number, or a schedule as {from: 0.0, to: 1.0, steps: 100}")
        return number

    @model_serializer
    def _as_written(self) -> dict[str, Any]:
        weight = self.weight.model_dump(by_alias=True) if isinstance(self.weight, WeightOptions) else self.weight
        said = {
            key: getattr(self, key) for key in _OPTIONS if getattr(self, key) != type(self).model_fields[key].default
        }
        clash = set(self.parameters) & set(_KEYS)
        own = {"parameters": dict(self.parameters)} if clash else self.parameters
        return {"name": self.name, "weight": weight, **said, **own}


def reward_specs(value: Any) -> list[dict[str, Any]]:
    """Return reward functions, however they were written, as `{"name": …, "weight": …, …parameters}`.

    Raises:
        ValueError: it is no way to name reward functions, or one is there twice with the same parameters.

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
    elif isinstance(value, RewardOptions):
        value = [value]
    elif isinstance(value, Mapping):
        value = [value] if "name" in value else [{name: settings} for name, settings in value.items()]
    elif not isinstance(value, list | tuple):
        raise ValueError("Input should be a name, a list of names, or a mapping from names to weights")
    specs = [_spec(entry) for entry in value]
    # Two judges, or one scorer on two devices, are two rewards; the same thing twice is a slip.
    made = [{key: setting for key, setting in spec.items() if key != "weight"} for spec in specs]
    twice = next((spec["name"] for spec in made if made.count(spec) > 1), None)
    if twice is not None:
        raise ValueError(f"Input should name each function once, but {twice!r} is there twice")
    return specs


def _spec(entry: Any) -> dict[str, Any]:
    """Return one function's settings from `"name"`, `{"name": …}`, `{name: weight}` or `{name: {…}}`."""
    if isinstance(entry, RewardOptions):
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
    """Return `{"weight": …}` for a number or a schedule of weights, any other mapping as it is, and `{}` for None.

    Example:
        >>> function_settings({"from": 0.0, "to": 1.0, "steps": 100})
        {'weight': {'from': 0.0, 'to': 1.0, 'steps': 100}}
    """
    if value is None:
        return {}
    if isinstance(value, Mapping):
        return {"weight": dict(value)} if set(value) == set(_SCHEDULE) else dict(value)
    return {"weight": value}
