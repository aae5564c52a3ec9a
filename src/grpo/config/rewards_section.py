"""The section `rewards`, and the ways to write a reward function: a name, or a mapping with weight and settings."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_serializer,
    model_validator,
)

from grpo.config.fields import Positive, Section, Share, option

__all__ = ["RewardOptions", "RewardsSection", "WeightOptions", "function_settings", "reward_specs"]


class WeightOptions(BaseModel):
    """A weight that changes linearly `from` one value `to` another over the first `steps` steps."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    start: float = Field(alias="from")
    end: float = Field(alias="to")
    steps: int = Field(ge=1)


class RewardOptions(BaseModel):
    """One reward function: its name, weight, gate and execution, and the keyword arguments it is made with.

    Example:
        >>> RewardOptions.model_validate({"name": "reasoning_length", "weight": 0.5, "target": 40}).parameters
        {'target': 40}
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: str = Field(min_length=1, description="a built-in, or 'package.module:function', or 'file.py:function'")
    weight: float | WeightOptions = Field(
        1.0, description="factor of its rewards: a number, or {from: 0.0, to: 1.0, steps: 100}"
    )
    gate: str | None = Field(
        None, min_length=1, description="name of another reward; this one counts only where that one is above gate_at"
    )
    gate_at: float | None = Field(None, description="value that the gate's reward has to exceed; null: 0")
    normalise: Literal["running"] | None = Field(
        None, description="running: it counts as its deviation from its mean over the run, in standard deviations"
    )
    overlap: bool | None = Field(
        None, description="call it while other completions are sampled; null: if it is async or has processes"
    )
    processes: int = Field(0, ge=0, description="number of processes of its own; 0: it runs in a thread")
    parameters: dict[str, Any] = Field(default_factory=dict, description="keyword arguments of the function's own")

    @model_validator(mode="before")
    @classmethod
    def _gather_parameters(cls, value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        own = {key: item for key, item in value.items() if key in cls.model_fields}
        others = {key: item for key, item in value.items() if key not in cls.model_fields}
        return {**own, "parameters": {**(own.get("parameters") or {}), **others}}

    @field_validator("parameters")
    @classmethod
    def _refuse_infinite_parameters(cls, parameters: dict[str, Any]) -> dict[str, Any]:
        for name, value in parameters.items():
            if not _is_finite(value):
                raise ValueError(f"Input should have a finite {name}")
        return parameters

    @field_validator("weight", mode="wrap")
    @classmethod
    def _read_weight(cls, value: Any, read: Callable[[Any], float | WeightOptions]) -> float | WeightOptions:
        numbers = value.values() if isinstance(value, Mapping) else [value]
        try:
            if not any(isinstance(number, bool) for number in numbers):
                return read(value)
        except ValidationError:
            pass
        raise ValueError("Input should be a number, or a schedule as {from: 0.0, to: 1.0, steps: 100}")

    @model_serializer
    def _as_written(self) -> dict[str, Any]:
        fields = type(self).model_fields
        weight = self.weight.model_dump(by_alias=True) if isinstance(self.weight, WeightOptions) else self.weight
        changed = {
            key: getattr(self, key)
            for key, field in fields.items()
            if key not in ("name", "weight", "parameters") and getattr(self, key) != field.default
        }
        clash = self.parameters.keys() & fields.keys()
        own = {"parameters": dict(self.parameters)} if clash else self.parameters
        return {"name": self.name, "weight": weight, **changed, **own}


def _is_finite(value: Any) -> bool:
    """Return whether no number in `value`, which may be nested, is NaN or infinite."""
    if isinstance(value, Mapping):
        return all(map(_is_finite, value.values()))
    if isinstance(value, list | tuple):
        return all(map(_is_finite, value))
    return not isinstance(value, float) or math.isfinite(value)


def reward_specs(value: Any) -> list[dict[str, Any]]:
    """Return reward functions, in any of the ways to write them, as `{"name": …, "weight": …, …parameters}`.

    Raises:
        ValueError: `value` names no reward functions, or names one twice with the same parameters.

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
    elif isinstance(value, RewardOptions) or (isinstance(value, Mapping) and "name" in value):
        value = [value]
    elif isinstance(value, Mapping):
        value = [{name: settings} for name, settings in value.items()]
    elif not isinstance(value, list | tuple):
        raise ValueError("Input should be a name, a list of names, or a mapping from names to weights")
    specs = [_spec(entry) for entry in value]
    # Two judges, or one scorer on two devices, are two rewards; the same thing twice is a slip.
    unweighted = [{key: setting for key, setting in spec.items() if key != "weight"} for spec in specs]
    twice = next((spec["name"] for spec in unweighted if unweighted.count(spec) > 1), None)
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
    if isinstance(entry, Mapping) and len(entry) == 1 and not entry.keys() & RewardOptions.model_fields.keys():
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
        return {"weight": dict(value)} if set(value) == {"from", "to", "steps"} else dict(value)
    return {"weight": value}


class RewardsSection(Section):
    """The reward functions, their weights and their limits."""

    functions: Annotated[tuple[RewardOptions, ...], BeforeValidator(reward_specs)] = option(
        (),
        "names, 'module:function' or 'file.py:function', with weights; empty: those that fit answer_format",
        alias="rewards",
        synonyms=("functions", "reward_funcs", "reward_functions"),
        displaces=("reward_weights",),
    )
    combine: Literal["sum", "normalise"] | None = option(
        None,
        "sum: add up the weighted rewards, then normalise; normalise: normalise each reward in its group, then add up "
        "(GDPO); null: the method's",
        synonyms={"multi_objective_aggregation": {"sum_then_normalize": "sum", "normalize_then_sum": "normalise"}},
        spellings={"normalize": "normalise"},
    )
    correct_reward: float | None = option(
        None, "reward for a right answer, for functions that compare with the reference; null: each function's own"
    )
    wrong_reward: float | None = option(
        None, "reward for any other answer, for the same functions; null: each function's own"
    )
    environment_weights: dict[str, float] = option(
        {}, "weights of the rewards that an environment gives, by name; a name that is not there has weight 1"
    )
    reward_timeout_s: Positive | None = option(60.0, "seconds a reward function may take; null: no limit")
    max_failed_share: Share = option(
        0.5, "share of a step's completions (and of its episodes) that may fail before the run stops"
    )
