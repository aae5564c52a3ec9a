"""Names, paths, functions and models → reward functions ready for a suite."""

from __future__ import annotations

import difflib
import inspect
import pkgutil
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeAlias

from grpo.errors import ConfigError
from grpo.rewards.failures import describe_error
from grpo.rewards.function import SUITE_OPTIONS, RewardFunction, reward_function
from grpo.rewards.imports import import_object
from grpo.rewards.models.backbones import Backbones
from grpo.rewards.models.classifier import SequenceClassifierReward
from grpo.rewards.output import Failure
from grpo.rewards.reward_parsing import parse_rewards
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
"""Functions by their names in configuration, which may end in `_reward_func` or `_reward` as well."""

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
"""Rewards that need models, servers or processes, imported when they are named: functions, or classes that take the
parameters and make one."""

_NAMES = (
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
            these as `name`, a `weight`, options in `SUITE_OPTIONS`, and the function's own parameters.
        weights: one a spec, instead of weights in mappings.
        defaults: parameters (`format`, …) for the built-ins that take them and are not given them.
        backbones: source of the models of rewards; None: these rewards share models among themselves.

    Raises:
        ConfigError: a name is unknown, a file or module cannot be imported, a parameter does not exist.
        CheckpointError: a reward model does not fit its backbone.
        ModelError: a classifier cannot be loaded.
    """
    resolver = _Resolver(defaults or {}, backbones or Backbones())
    several = list(specs) if isinstance(specs, (list, tuple)) else [specs]
    if weights is not None and len(weights) != len(several):
        raise ConfigError(f"{len(several)} reward functions have {len(weights)} weights: give one each")
    found: list[RewardFunction] = []
    for place, spec in enumerate(several):
        resolved = resolver.resolve(spec, None if weights is None else weights[place])
        found.append(_with_distinct_name(resolved, {other.name for other in found}))
    return found


@dataclass(frozen=True, slots=True)
class _Resolver:
    """Makes reward functions with default parameters and shared models."""

    defaults: Mapping[str, Any]
    backbones: Backbones

    def resolve(self, spec: RewardSpec, weight: Any) -> RewardFunction:
        """Return the function of one spec; its weight is `weight`, if that is not None."""
        if isinstance(spec, RewardFunction):
            return spec if weight is None else replace(spec, weight=read_weight(weight, spec.name))
        parameters: dict[str, Any] = {}
        options: dict[str, Any] = {}
        if isinstance(spec, Mapping):
            parameters = dict(spec)
            if "name" not in parameters:
                raise ConfigError(f"reward {dict(spec)!r} has no name: write {{name: correctness, weight: 2.0}}")
            spec = parameters.pop("name")
            own_weight = parameters.pop("weight", 1.0)
            weight = own_weight if weight is None else weight
            options = {key: parameters.pop(key) for key in SUITE_OPTIONS if key in parameters}
            parameters |= parameters.pop("parameters", None) or {}
        from_spec = self._from_name if isinstance(spec, str) else self._from_object
        return from_spec(spec, 1.0 if weight is None else weight, parameters).with_options(**options)

    def _from_name(self, name: str, weight: Any, parameters: dict[str, Any]) -> RewardFunction:
        name = name.strip()
        built_in = name.removesuffix("_func").removesuffix("_reward")
        if built_in in BUILT_IN or built_in in ON_DEMAND:
            return self._built_in(built_in, weight, parameters)
        if ":" in name:
            return self._from_object(import_object(name), weight, parameters)
        if name.endswith(".py"):
            raise ConfigError(f"reward {name!r} is a file: add the function's name, as in '{name}:my_reward'")
        if "/" in name or (name and Path(name).is_dir()):
            return self._classifier(name, weight, parameters)
        known = sorted([*BUILT_IN, *ON_DEMAND])
        close = difflib.get_close_matches(built_in, known, n=1)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        raise ConfigError(f"no reward named {name!r}{hint}: {_NAMES.format(names=f'one of {known}')}")

    def _from_object(self, thing: Any, weight: Any, parameters: dict[str, Any]) -> RewardFunction:
        for built_in, function in BUILT_IN.items():
            if thing is function:
                return self._built_in(built_in, weight, parameters)
        if _is_model(thing):
            return self._classifier(thing, weight, parameters)
        if inspect.isclass(thing) or not callable(thing):
            kind = f"the class {thing.__name__}" if inspect.isclass(thing) else f"{thing!r} ({type(thing).__name__})"
            allowed = _NAMES.format(names="a callable object, a built-in's name")
            raise ConfigError(f"{kind} is not a reward function: {allowed}")
        return reward_function(thing, weight=weight, parameters=parameters)

    def _built_in(self, name: str, weight: Any, parameters: dict[str, Any]) -> RewardFunction:
        function = BUILT_IN[name] if name in BUILT_IN else pkgutil.resolve_name(ON_DEMAND[name])
        if inspect.isclass(function):
            return reward_function(self._make(function, f"reward {name!r}", parameters), name=name, weight=weight)
        parameters = self._fitting_defaults(inspect.signature(function).parameters) | parameters
        resolved = reward_function(function, name=name, weight=weight, parameters=parameters, options_are_fixed=True)
        # An empty completion shows a parameter with an impossible value now and not at the first step.
        try:
            returned = resolved.call({"prompts": lambda: [""], "completions": lambda: [""], "answer": lambda: ["0"]})
            (value,) = parse_rewards(returned, [0])
        except ConfigError:
            raise
        except (TypeError, ValueError) as error:
            value = Failure(error)
        if isinstance(value, Failure):
            reason = describe_error(value.error)
            raise ConfigError(f"reward {name!r} cannot work with {parameters}: {reason}: use numbers for its amounts")
        return resolved

    def _classifier(self, model: Any, weight: Any, parameters: dict[str, Any]) -> RewardFunction:
        made = self._make(SequenceClassifierReward, "a reward model", parameters, model=model)
        return reward_function(made, weight=weight)

    def _make(
        self, make: Callable[..., Any], label: str, parameters: dict[str, Any], **ours: Any
    ) -> Callable[..., Any]:
        """Return the reward that a class makes from the parameters, with the shared models if it takes them."""
        accepted = inspect.signature(make).parameters
        takes = [key for key in accepted if key not in ("backbones", *ours)]
        unknown = [key for key in parameters if key not in takes]
        if unknown:
            known = ", ".join(("name", "weight", *SUITE_OPTIONS))
            raise ConfigError(f"{label} has no parameter {unknown[0]!r}: it takes {takes}, besides {known}")
        if "backbones" in accepted:
            ours["backbones"] = self.backbones
        made: Callable[..., Any] = make(**ours, **(self._fitting_defaults(takes) | parameters))
        return made

    def _fitting_defaults(self, takes: Collection[str]) -> dict[str, Any]:
        return {key: value for key, value in self.defaults.items() if key in takes}


def _is_model(thing: Any) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(thing, torch.nn.Module) and hasattr(thing, "config")


def _with_distinct_name(function: RewardFunction, taken: set[str]) -> RewardFunction:
    if function.name not in taken:
        return function
    number = next(number for number in range(2, len(taken) + 3) if f"{function.name}_{number}" not in taken)
    return replace(function, name=f"{function.name}_{number}")
