"""Layers of settings → one: a higher layer wins, also over what it contradicts below."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, get_args

from grpo.config.rewards import reward_specs
from grpo.config.rules import GENERATED
from grpo.config.sections import SECTIONS
from grpo.config.settings import REWARD_CHANGES, Settings
from grpo.config.synonyms import LEAVES
from grpo.config.yaml_text import parse_yaml
from grpo.errors import ConfigError

__all__ = ["OWN_ROWS", "merge_layers", "resolve"]

_DISPLACES: Mapping[str, tuple[str, ...]] = {
    "steps": ("num_epochs",),
    "num_epochs": ("steps",),
    "batch_size": ("prompts_per_step",),
    "prompts_per_step": ("batch_size",),
    "warmup_steps": ("warmup_ratio",),
    "warmup_ratio": ("warmup_steps",),
    "train_file": ("dataset", "dataset_config", "train_split", "eval_split"),
    "dataset": ("train_file", "eval_file", "dataset_config", "train_split", "eval_split"),
    "eval_file": ("eval_split",),
    "eval_split": ("eval_file",),
    "functions": (REWARD_CHANGES, "reward_weights"),
    "reward_weights": (REWARD_CHANGES,),
}
"""What setting an option takes back in the layers below it."""


OWN_ROWS = frozenset({"train_file", "eval_file", "dataset"})
"""Options that bring rows of the user's own."""

_ARITHMETIC_EVAL_SIZE = 64


def merge_layers(layers: Iterable[Settings]) -> Settings:
    """Return one table of settings; later layers win, and take back what contradicts them in earlier ones.

    Example:
        >>> merge_layers([{"steps": 60, "seed": 1}, {"num_epochs": 3}])
        {'seed': 1, 'num_epochs': 3}
    """
    merged: Settings = {}
    for layer in layers:
        changed = {name for name, value in layer.items() if value is not None and value != merged.get(name)}
        displaced = {below for name in changed for below in _DISPLACES.get(name, ())} - layer.keys()
        if changed & OWN_ROWS and merged.get("task") in GENERATED:
            displaced |= {"task"} - layer.keys()
        kept = {name: value for name, value in merged.items() if name not in displaced}
        changes = {**kept.get(REWARD_CHANGES, {})}
        for function, settings in layer.get(REWARD_CHANGES, {}).items():
            changes[function] = {**changes.get(function, {}), **settings}
        merged = {**kept, **layer, **({REWARD_CHANGES: changes} if changes else {})}
    return merged


def resolve(settings: Settings) -> tuple[Settings, Settings]:
    """Return what was set, with calculations done, and what follows from it where nothing was set.

    Raises:
        ConfigError: two options contradict each other.
    """
    given = {name: value for name, value in settings.items() if value is not None or _may_be_null(name)}
    _fold_batch_size(given)
    derived: Settings = {}
    _derive_length(given, derived)
    _derive_data(given, derived)
    _fold_rewards(given, derived)
    return given, derived


def _may_be_null(name: str) -> bool:
    if name not in LEAVES:
        return False
    annotation = SECTIONS[LEAVES[name]].model_fields[name].annotation
    return type(None) in get_args(annotation)


def _fold_batch_size(given: Settings) -> None:
    if "batch_size" not in given:
        return
    size = _at_least_one("batch_size", given.pop("batch_size"))
    accumulation = _at_least_one("gradient_accumulation_steps", given.get("gradient_accumulation_steps", 1))
    prompts = given.setdefault("prompts_per_step", size * accumulation)
    if prompts != size * accumulation:
        raise ConfigError(
            f"prompts_per_step {prompts} contradicts batch_size {size} × gradient_accumulation_steps {accumulation} "
            f"= {size * accumulation} prompts: give one of them"
        )


def _at_least_one(name: str, value: Any) -> int:
    try:
        number = int(value)
        if isinstance(value, bool) or number != float(value) or number < 1:
            raise ValueError
    except (TypeError, ValueError):
        raise ConfigError(f"{name} was given {value!r}: it should be a whole number of at least 1") from None
    return number


def _derive_length(given: Settings, derived: Settings) -> None:
    steps, epochs = given.get("steps"), given.get("num_epochs")
    if steps is not None and epochs is not None:
        raise ConfigError(f"steps {steps} and num_epochs {epochs} both say how long to train: give one of them")
    if steps is None and epochs is None:
        given.pop("num_epochs", None)
        derived["num_epochs"] = 1.0


def _derive_data(given: Settings, derived: Settings) -> None:
    if "task" not in given:
        own = any(given.get(name) is not None for name in OWN_ROWS)
        derived["task"] = "rows" if own else "arithmetic"
    task = str(given.get("task", derived.get("task"))).lower()
    if task == "gsm8k" and given.get("train_file") is None and given.get("dataset") is None:
        derived.update({"dataset": "openai/gsm8k", "dataset_config": "main"})
        if given.get("eval_file") is None and given.get("eval_split") is None:
            derived["eval_split"] = "test"
    if task == "arithmetic" and given.get("eval_size") is None:
        derived["eval_size"] = _ARITHMETIC_EVAL_SIZE
    if "answer_format" not in given:
        derived["answer_format"] = "plain" if task == "rows" else "answer_tags"
    for name in derived.keys() & given.keys():
        del given[name]


def _fold_rewards(given: Settings, derived: Settings) -> None:
    changes = given.pop(REWARD_CHANGES, {})
    weights = given.pop("reward_weights", None)
    specs = _as_config_error(reward_specs, given.pop("functions", None))
    explicit = bool(specs or changes or weights is not None)
    if not specs:
        plain = given.get("answer_format", derived.get("answer_format")) == "plain"
        specs = reward_specs(["last_integer"] if plain else ["strict_format", "correctness"])
    if weights is not None:
        specs = [{**spec, "weight": weight} for spec, weight in zip(specs, _weights(weights, len(specs)), strict=True)]
    for name, change in changes.items():
        spec = next((spec for spec in specs if spec["name"] == name), None)
        if spec is None:
            specs.append({"name": name, **change})
        else:
            spec.update(change)
    (given if explicit else derived)["functions"] = specs


def _weights(value: Any, count: int) -> list[Any]:
    values = parse_yaml(f"[{value}]") if isinstance(value, str) else value
    weights = list(values) if isinstance(values, list | tuple) else [values]
    if len(weights) != count:
        raise ConfigError(f"reward_weights has {len(weights)} weights for {count} reward functions: give one for each")
    return weights


def _as_config_error(read: Callable[[Any], list[dict[str, Any]]], value: Any) -> list[dict[str, Any]]:
    try:
        return read(value)
    except ValueError as error:
        raise ConfigError(f"rewards: {str(error).replace('Input should', 'it should')}") from None
