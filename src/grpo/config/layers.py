"""Layers of settings → one table, in which a higher layer wins; and the values that follow from others."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import chain
from typing import Any

from grpo.config.options import OPTIONS
from grpo.config.overrides import REWARD, Settings
from grpo.config.rewards_section import reward_specs
from grpo.config.sections import GENERATED, OptimizerSection, Shorthands
from grpo.config.yaml_text import parse_yaml
from grpo.errors import ConfigError

__all__ = ["OWN_ROWS", "fill_in", "merge_layers"]

OWN_ROWS = frozenset({"train_file", "eval_file", "dataset"})
"""Options that bring rows of the user's own."""

_ARITHMETIC_EVAL_SIZE = 64


def merge_layers(layers: Iterable[Settings]) -> Settings:
    """Return one table of settings; a layer wins over earlier ones and removes options that contradict its own.

    Example:
        >>> merge_layers([{"steps": 60, "seed": 1}, {"num_epochs": 3}])
        {'seed': 1, 'num_epochs': 3}
    """
    merged: Settings = {}
    for layer in layers:
        changed = {name for name, value in layer.items() if value is not None and value != merged.get(name)}
        known = [OPTIONS[name].known(key) for name in changed & OPTIONS.keys() for key in ("excludes", "displaces")]
        displaced = set(chain.from_iterable(known))
        if changed & OWN_ROWS and merged.get("task") in GENERATED:
            displaced.add("task")
        if changed & {"rewards", "reward_weights"}:
            displaced |= {name for name in merged if name.startswith(REWARD)}
        merged = {name: value for name, value in merged.items() if name not in displaced}
        for name, value in layer.items():
            merged[name] = {**merged.get(name, {}), **value} if name.startswith(REWARD) else value
    return merged


def fill_in(settings: Settings) -> tuple[Settings, Settings]:
    """Return the options that are set, with shorthands replaced, and those that follow from them.

    Raises:
        ConfigError: shorthands contradict the options they stand for.
        pydantic.ValidationError: a shorthand has a value it cannot have.
    """
    explicit = {
        name: value
        for name, value in settings.items()
        if value is not None or (name in OPTIONS and OPTIONS[name].may_be_null)
    }
    _replace_batch_size(explicit)
    derived = {name: value for name, value in _derived(explicit).items() if explicit.get(name) is None}
    changes = {
        name.removeprefix(REWARD): explicit.pop(name)
        for name in settings
        if name.startswith(REWARD) and name in explicit
    }
    weights = explicit.pop("reward_weights", None)
    specs = _specs(explicit.pop("rewards", None))
    is_set = bool(specs or changes or weights is not None)
    if not specs:
        plain = explicit.get("answer_format", derived.get("answer_format")) == "plain"
        specs = reward_specs(["last_integer"] if plain else ["strict_format", "correctness"])
    (explicit if is_set else derived)["rewards"] = _changed_rewards(specs, weights, changes)
    return {name: value for name, value in explicit.items() if name not in derived}, derived


def _replace_batch_size(explicit: Settings) -> None:
    size = Shorthands(batch_size=explicit.pop("batch_size", None)).batch_size
    if size is None:
        return
    steps = explicit.get("gradient_accumulation_steps", 1)
    accumulation = OptimizerSection(gradient_accumulation_steps=steps).gradient_accumulation_steps
    prompts = explicit.setdefault("prompts_per_step", size * accumulation)
    if prompts != size * accumulation:
        raise ConfigError(
            f"prompts_per_step {prompts} contradicts batch_size {size} × gradient_accumulation_steps {accumulation} "
            f"= {size * accumulation} prompts: give one of them"
        )


def _derived(explicit: Settings) -> Settings:
    """Return the values that options have where they are not set and others decide."""
    given = {name for name, value in explicit.items() if value is not None}
    task = str(explicit.get("task", "rows" if given & OWN_ROWS else "arithmetic")).lower()
    derived: Settings = {"task": task, "answer_format": "plain" if task == "rows" else "answer_tags"}
    if not given & {"steps", "num_epochs"}:
        derived["num_epochs"] = 1.0
    if task == "arithmetic":
        derived["eval_size"] = _ARITHMETIC_EVAL_SIZE
    if task == "gsm8k" and not given & {"train_file", "dataset"}:
        derived |= {"dataset": "openai/gsm8k", "dataset_config": "main"}
        if "eval_file" not in given:
            derived["eval_split"] = "test"
    return derived


def _specs(value: Any) -> list[dict[str, Any]]:
    try:
        return reward_specs(value)
    except ValueError as error:
        raise ConfigError(f"rewards: {str(error).replace('Input should', 'it should')}") from None


def _changed_rewards(
    specs: list[dict[str, Any]], weights: Any, changes: Mapping[str, dict[str, Any]]
) -> list[dict[str, Any]]:
    """Return reward functions with `reward_weights` and the settings of single functions put into them."""
    if weights is not None:
        values = parse_yaml(f"[{weights}]") if isinstance(weights, str) else weights
        values = list(values) if isinstance(values, list | tuple) else [values]
        if len(values) != len(specs):
            raise ConfigError(
                f"reward_weights has {len(values)} weights for {len(specs)} reward functions: give one for each"
            )
        specs = [{**spec, "weight": weight} for spec, weight in zip(specs, values, strict=True)]
    for name, change in changes.items():
        spec = next((spec for spec in specs if spec["name"] == name), None)
        if spec is None:
            specs.append({"name": name, **change})
        else:
            spec.update(change)
    return specs
