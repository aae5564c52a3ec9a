"""Names, paths, functions and models → reward functions ready for a suite."""

from __future__ import annotations

import difflib
import functools
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any, TypeAlias

from grpo.errors import ConfigError
from grpo.rewards import answer, format, length
from grpo.rewards.function import RewardFunction, reward_function
from grpo.rewards.learned import SequenceClassifierReward
from grpo.rewards.readout import Failed, in_one_line, origin, read_rewards

__all__ = ["BUILT_IN", "RewardSpec", "resolve_rewards"]

RewardSpec: TypeAlias = Any
"""A name, a callable, a model, or `{"name": any of these, "weight": 2.0, **parameters}`; see `resolve_rewards`."""

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

_CALL_IT = (
    "use {names}, your own as 'package.module:function' or 'file.py:function', or a classifier's Hub id or directory"
)


def resolve_rewards(
    specs: RewardSpec | Sequence[RewardSpec],
    *,
    weights: Sequence[float] | None = None,
    defaults: Mapping[str, Any] | None = None,
) -> list[RewardFunction]:
    """Return reward functions with distinct names, in the order given.

    Args:
        specs: one or several of: a built-in's name; `"package.module:function"`; `"path/to/file.py:function"`;
            a callable; a sequence classifier as object, Hub id or directory; or a mapping with one of
            these as `name`, a `weight` and the function's own parameters.
        weights: one a spec, instead of weights in mappings.
        defaults: parameters for those built-ins that take them and are not given them (`format`, …).

    Raises:
        ConfigError: a name is unknown, a file or module cannot be imported, a parameter does not exist.
        ModelError: a classifier cannot be loaded.
    """
    several = list(specs) if isinstance(specs, (list, tuple)) else [specs]
    if weights is not None and len(weights) != len(several):
        raise ConfigError(f"{len(several)} reward functions have {len(weights)} weights: give one each")
    found: list[RewardFunction] = []
    for place, spec in enumerate(several):
        resolved = _resolve(spec, None if weights is None else weights[place], defaults or {})
        found.append(_with_distinct_name(resolved, {other.name for other in found}))
    return found


def _resolve(spec: RewardSpec, weight: float | None, defaults: Mapping[str, Any]) -> RewardFunction:
    if isinstance(spec, RewardFunction):
        return spec
    parameters: dict[str, Any] = {}
    if isinstance(spec, Mapping):
        parameters = dict(spec)
        if "name" not in parameters:
            raise ConfigError(f"reward {dict(spec)!r} has no name: write {{name: correctness, weight: 2.0}}")
        spec = parameters.pop("name")
        given = parameters.pop("weight", 1.0)
        weight = given if weight is None else weight
        parameters |= parameters.pop("parameters", None) or {}
    weight = 1.0 if weight is None else weight
    if isinstance(spec, str):
        return _from_name(spec.strip(), weight, parameters, defaults)
    return _from_object(spec, weight, parameters, defaults)


def _from_name(name: str, weight: float, parameters: dict[str, Any], defaults: Mapping[str, Any]) -> RewardFunction:
    built_in = name.removesuffix("_func").removesuffix("_reward")
    if built_in in BUILT_IN:
        return _built_in(BUILT_IN[built_in], built_in, weight, parameters, defaults)
    if ":" in name:
        return _from_object(_imported(name), weight, parameters, defaults)
    if name.endswith(".py"):
        raise ConfigError(f"reward {name!r} is a file: add the function's name, as in '{name}:my_reward'")
    if "/" in name or (name and Path(name).is_dir()):
        return _classifier(name, weight, parameters)
    close = difflib.get_close_matches(built_in, BUILT_IN, n=1)
    hint = f" (did you mean {close[0]!r}?)" if close else ""
    allowed = _CALL_IT.format(names=f"one of {sorted(BUILT_IN)}")
    raise ConfigError(f"no reward named {name!r}{hint}: {allowed}")


def _from_object(thing: Any, weight: float, parameters: dict[str, Any], defaults: Mapping[str, Any]) -> RewardFunction:
    for built_in, function in BUILT_IN.items():
        if thing is function:
            return _built_in(function, built_in, weight, parameters, defaults)
    if _is_model(thing):
        return _classifier(thing, weight, parameters)
    if inspect.isclass(thing) or not callable(thing):
        kind = f"the class {thing.__name__}" if inspect.isclass(thing) else f"{thing!r} ({type(thing).__name__})"
        allowed = _CALL_IT.format(names="a callable object, a built-in's name")
        raise ConfigError(f"{kind} is not a reward function: {allowed}")
    return reward_function(thing, weight=weight, parameters=parameters)


def _built_in(
    function: Callable[..., Any], name: str, weight: float, parameters: dict[str, Any], defaults: Mapping[str, Any]
) -> RewardFunction:
    takes = inspect.signature(function).parameters
    fitting = {key: value for key, value in defaults.items() if key in takes}
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


def _classifier(model: Any, weight: float, parameters: dict[str, Any]) -> RewardFunction:
    takes = [key for key in inspect.signature(SequenceClassifierReward).parameters if key != "model"]
    unknown = [key for key in parameters if key not in takes]
    if unknown:
        raise ConfigError(f"a reward model has no parameter {unknown[0]!r}: it takes {takes}, besides name and weight")
    return reward_function(SequenceClassifierReward(model, **parameters), weight=weight)


def _is_model(thing: Any) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(thing, torch.nn.Module) and hasattr(thing, "config")


def _imported(name: str) -> Any:
    """Return the object that `"module:name"` or `"file.py:name"` stands for."""
    place, _, path = name.rpartition(":")
    is_file = place.endswith(".py") or "/" in place
    try:
        module = _file_module(place) if is_file else _module(place)
    except (Exception, SystemExit) as error:
        if isinstance(error, ConfigError):
            raise
        line = origin(error)
        where = "" if line is None else f" (at {line})"
        raise ConfigError(f"cannot import reward {name!r}: {in_one_line(error)}{where}: mend it or the name") from error
    try:
        return functools.reduce(getattr, path.split("."), module)
    except AttributeError as error:
        own = [
            key
            for key, value in vars(module).items()
            if callable(value) and not key.startswith("_") and getattr(value, "__module__", None) == module.__name__
        ]
        raise ConfigError(f"{place!r} has no {path!r}: its functions are {sorted(own)}") from error


def _module(name: str) -> ModuleType:
    # An installed command does not have the working directory on its path, as `python script.py` would.
    _search_in(Path.cwd())
    return importlib.import_module(name)


def _file_module(place: str) -> ModuleType:
    """Return the module that a file makes; functions of one file share it for as long as the file is unchanged."""
    path = Path(place).expanduser().resolve()
    if not path.is_file():
        raise ConfigError(f"no file {place!r} for a reward: give a path as seen from {str(Path.cwd())!r}")
    name = f"grpo_user_{path.stem}_{abs(hash((str(path), path.stat().st_mtime_ns))):x}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"{place!r} is not a Python file: a reward is 'file.py:function'")
    module = importlib.util.module_from_spec(spec)
    _search_in(path.parent)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _search_in(directory: Path) -> None:
    # Last, so that a user's `types.py` hides nobody else's.
    if str(directory) not in sys.path:
        sys.path.append(str(directory))


def _with_distinct_name(function: RewardFunction, taken: set[str]) -> RewardFunction:
    if function.name not in taken:
        return function
    number = next(number for number in range(2, len(taken) + 3) if f"{function.name}_{number}" not in taken)
    return function.renamed(f"{function.name}_{number}")
