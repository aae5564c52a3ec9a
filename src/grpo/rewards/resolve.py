"""Names, paths, functions and models → reward functions ready for a suite."""

from __future__ import annotations

import difflib
import importlib
import inspect
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeAlias

from grpo.errors import ConfigError
from grpo.rewards.function import SUITE_OPTIONS, RewardFunction, reward_function
from grpo.rewards.imports import import_object
from grpo.rewards.models.backbones import Backbones
from grpo.rewards.models.classifier import SequenceClassifierReward
from grpo.rewards.readout import Failed, in_one_line, read_rewards
from grpo.rewards.rules import answer, format, length
from grpo.rewards.weights import read_weight

__all__ = ["BUILT_IN", "ON_DEMAND", "RewardSpec", "resolve_rewards"]

RewardSpec: TypeAlias = Any
"""A name, a callable, a model, or `{"name": any of these, "weight": 2.0, "gate": …, **parameters}`; see
`resolve_rewards`."""

BUILT_IN: Mapping[str, Callable[..., list[float | None]]] = MappingProxyType(
    {
        "accuracy": answer.accuracy,
        "correctness": answer.correctness,
        "int": answer.integer_answer,
        "last_integer": answer.last_integer,
        "reasoning_length": length.reasoning_length,
        "soft_format": format.soft_format,
        "strict_format": format.strict_format,
        "think_soft_format": format.think_soft_format,
        "think_strict_format": format.think_strict_format,
        "think_xmlcount": format.think_xmlcount,
        "xmlcount": format.xmlcount,
    }
)
"""Functions by the name that configuration uses; the same name with `_reward_func` or `_reward` is accepted too."""

ON_DEMAND: Mapping[str, str] = MappingProxyType(
    {
        "clicks_by_rule": "grpo.rewards.rules.generated:clicks_by_rule",
        "criteria_by_rule": "grpo.rewards.rules.generated:criteria_by_rule",
        "ctr": "grpo.rewards.models.ctr:CTRReward",
        "judge": "grpo.rewards.judge:JudgeReward",
        "preference": "grpo.rewards.models.preference:PreferenceReward",
        "unit_tests": "grpo.rewards.code:UnitTestReward",
    }
)
"""Rewards that bring models, servers or processes: functions, or classes that make one of the parameters; imported
when they are named."""

_CALL_IT = (
    "use {names}, your own as 'package.module:function' or 'file.py:function', or a classifier's Hub id or directory"
)


def resolve_rewards(
    specs: RewardSpec | Sequence[RewardSpec],
    *,
    weights: Sequence[float] | None = None,
    defaults: Mapping[str, Any] | None = None,
    backbones: Backbones | None = None,
) -> list[RewardFunction]:
    """Return reward functions with distinct names, in the order given.

    Args:
        specs: one or several of: a built-in's name; `"package.module:function"`; `"path/to/file.py:function"`;
            a callable; a sequence classifier as object, Hub id or directory; or a mapping with one of
            these as `name`, a `weight`, what `SUITE_OPTIONS` lists, and the function's own parameters.
        weights: one a spec, instead of weights in mappings.
        defaults: parameters for those built-ins that take them and are not given them (`format`, …).
        backbones: where rewards get their models from; None: these rewards share among themselves.

    Raises:
        ConfigError: a name is unknown, a file or module cannot be imported, a parameter does not exist.
        CheckpointError: a scorer does not fit its backbone.
        ModelError: a classifier cannot be loaded.
    """
    made_with = _MadeWith(defaults or {}, backbones or Backbones())
    several = list(specs) if isinstance(specs, (list, tuple)) else [specs]
    if weights is not None and len(weights) != len(several):
        raise ConfigError(f"{len(several)} reward functions have {len(weights)} weights: give one each")
    found: list[RewardFunction] = []
    for place, spec in enumerate(several):
        resolved = _resolve(spec, None if weights is None else weights[place], made_with)
        found.append(_with_distinct_name(resolved, {other.name for other in found}))
    return found


@dataclass(frozen=True, slots=True)
class _MadeWith:
    """What rewards are given besides their own parameters, if they take it."""

    defaults: Mapping[str, Any]
    backbones: Backbones

    def fitting(self, takes: Collection[str]) -> dict[str, Any]:
        """Return the defaults among the parameters that something takes."""
        return {key: value for key, value in self.defaults.items() if key in takes}


def _resolve(spec: RewardSpec, weight: Any, made_with: _MadeWith) -> RewardFunction:
    if isinstance(spec, RewardFunction):
        return spec if weight is None else replace(spec, weight=read_weight(weight, spec.name))
    parameters: dict[str, Any] = {}
    options: dict[str, Any] = {}
    if isinstance(spec, Mapping):
        parameters = dict(spec)
        if "name" not in parameters:
            raise ConfigError(f"reward {dict(spec)!r} has no name: write {{name: correctness, weight: 2.0}}")
        spec = parameters.pop("name")
        given = parameters.pop("weight", 1.0)
        weight = given if weight is None else weight
        options = {key: parameters.pop(key) for key in SUITE_OPTIONS if key in parameters}
        parameters |= parameters.pop("parameters", None) or {}
    weight = 1.0 if weight is None else weight
    if isinstance(spec, str):
        return _from_name(spec.strip(), weight, parameters, made_with).with_options(**options)
    return _from_object(spec, weight, parameters, made_with).with_options(**options)


def _from_name(name: str, weight: Any, parameters: dict[str, Any], made_with: _MadeWith) -> RewardFunction:
    built_in = name.removesuffix("_func").removesuffix("_reward")
    if built_in in BUILT_IN:
        return _built_in(BUILT_IN[built_in], built_in, weight, parameters, made_with)
    if built_in in ON_DEMAND:
        return _on_demand(built_in, weight, parameters, made_with)
    if ":" in name:
        return _from_object(import_object(name), weight, parameters, made_with)
    if name.endswith(".py"):
        raise ConfigError(f"reward {name!r} is a file: add the function's name, as in '{name}:my_reward'")
    if "/" in name or (name and Path(name).is_dir()):
        return _classifier(name, weight, parameters, made_with)
    known = sorted([*BUILT_IN, *ON_DEMAND])
    close = difflib.get_close_matches(built_in, known, n=1)
    hint = f" (did you mean {close[0]!r}?)" if close else ""
    raise ConfigError(f"no reward named {name!r}{hint}: {_CALL_IT.format(names=f'one of {known}')}")


def _from_object(thing: Any, weight: Any, parameters: dict[str, Any], made_with: _MadeWith) -> RewardFunction:
    for built_in, function in BUILT_IN.items():
        if thing is function:
            return _built_in(function, built_in, weight, parameters, made_with)
    if _is_model(thing):
        return _classifier(thing, weight, parameters, made_with)
    if inspect.isclass(thing) or not callable(thing):
        kind = f"the class {thing.__name__}" if inspect.isclass(thing) else f"{thing!r} ({type(thing).__name__})"
        allowed = _CALL_IT.format(names="a callable object, a built-in's name")
        raise ConfigError(f"{kind} is not a reward function: {allowed}")
    return reward_function(thing, weight=weight, parameters=parameters)


def _built_in(
    function: Callable[..., Any], name: str, weight: Any, parameters: dict[str, Any], made_with: _MadeWith
) -> RewardFunction:
    fitting = made_with.fitting(inspect.signature(function).parameters)
    resolved = reward_function(
        function, name=name, weight=weight, parameters=fitting | parameters, options_are_fixed=True
    )
    # An empty completion shows a parameter with an impossible value now and not at the first step.
    try:
        readings = read_rewards(resolved.call({"completions": lambda: [""], "answer": lambda: ["0"]}), [0])
    except (TypeError, ValueError) as error:
        if isinstance(error, ConfigError):
            raise
        readings = [Failed(error)]
    if isinstance(readings[0], Failed):
        said = in_one_line(readings[0].error)
        raise ConfigError(
            f"reward {name!r} cannot work with {fitting | parameters}: {said}: use numbers for its amounts"
        )
    return resolved


def _on_demand(name: str, weight: Any, parameters: dict[str, Any], made_with: _MadeWith) -> RewardFunction:
    module, _, attribute = ON_DEMAND[name].partition(":")
    maker = getattr(importlib.import_module(module), attribute)
    if inspect.isclass(maker):
        maker, parameters = _made(maker, f"reward {name!r}", parameters, made_with), {}
    else:
        parameters = made_with.fitting(inspect.signature(maker).parameters) | parameters
    return reward_function(maker, name=name, weight=weight, parameters=parameters)


def _classifier(model: Any, weight: Any, parameters: dict[str, Any], made_with: _MadeWith) -> RewardFunction:
    made = _made(SequenceClassifierReward, "a reward model", parameters, made_with, model=model)
    return reward_function(made, weight=weight)


def _made(
    maker: Callable[..., Any], what: str, parameters: dict[str, Any], made_with: _MadeWith, **ours: Any
) -> Callable[..., Any]:
    """Return the reward that a class makes of the parameters, with backbones to share if it takes them."""
    every = inspect.signature(maker).parameters
    takes = [key for key in every if key not in ("backbones", *ours)]
    unknown = [key for key in parameters if key not in takes]
    if unknown:
        known = ", ".join(("name", "weight", *SUITE_OPTIONS))
        raise ConfigError(f"{what} has no parameter {unknown[0]!r}: it takes {takes}, besides {known}")
    if "backbones" in every:
        ours["backbones"] = made_with.backbones
    made: Callable[..., Any] = maker(**ours, **(made_with.fitting(takes) | parameters))
    return made


def _is_model(thing: Any) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(thing, torch.nn.Module) and hasattr(thing, "config")


def _with_distinct_name(function: RewardFunction, taken: set[str]) -> RewardFunction:
    if function.name not in taken:
        return function
    number = next(number for number in range(2, len(taken) + 3) if f"{function.name}_{number}" not in taken)
    return function.renamed(f"{function.name}_{number}")
