"""From what a user wrote to a flat table of settings under our names: `{"learning_rate": 1e-6, …}`."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from grpo.config.fields import Section
from grpo.config.rewards import function_settings
from grpo.config.sections import SECTIONS
from grpo.config.synonyms import LEAVES, canonical_name, canonical_value, normalise, unknown_option
from grpo.errors import ConfigError

__all__ = ["REWARD_CHANGES", "Settings", "nested", "read_settings"]

Settings = dict[str, Any]
"""Options by our name, plus `batch_size`, `reward_weights` and `reward_changes`, which `resolve` works in."""

REWARD_CHANGES = "reward_changes"
"""Settings of single reward functions (`rewards.correctness=2.0`), by function; not a name users write."""


def read_settings(options: Mapping[Any, Any], origin: str = "") -> Settings:
    """Return the settings in `options`, which may be flat, nested by section, dotted, or all three.

    Args:
        origin: the file they are from, for messages.

    Raises:
        ConfigError: an unknown name, or two names of one option with different values.

    Example:
        >>> read_settings({"optimizer": {"lr": 1e-3}, "rollout.group_size": 4, "KL_BETA": 0.04})
        {'learning_rate': 0.001, 'group_size': 4, 'beta': 0.04}
    """
    reader = _Reader()
    try:
        for key, value in options.items():
            reader.read(str(key), value)
    except ConfigError as error:
        raise (ConfigError(f"{origin}: {error}") if origin else error) from None
    return reader.settings


def nested(settings: Settings) -> dict[str, dict[str, Any]]:
    """Return settings by section."""
    sections: dict[str, dict[str, Any]] = {name: {} for name in SECTIONS}
    for leaf, value in settings.items():
        sections[LEAVES[leaf]][leaf] = value
    return sections


class _Reader:
    def __init__(self) -> None:
        self.settings: Settings = {}
        self._written: dict[str, str] = {}

    def read(self, key: str, value: Any) -> None:
        first, _, rest = key.partition(".")
        section = normalise(first)
        if key == REWARD_CHANGES:
            self.settings[key] = value
        elif rest and section in SECTIONS:
            self._in_section(section, rest, value)
        elif section not in SECTIONS:
            self._add(key, value)
        elif isinstance(value, Section):
            self._section(section, value.model_dump(exclude_unset=True))
        elif isinstance(value, Mapping):
            self._section(section, value)
        elif section == "rewards":
            self._add("functions", value)
        elif value is not None:
            raise ConfigError(
                f"{key} is a section of options, such as {_some_options(section)}, but was given {value!r}"
            )

    def _section(self, section: str, options: Mapping[Any, Any]) -> None:
        if section != "rewards":
            for key, value in options.items():
                self._in_section(section, str(key), value)
            return
        functions: dict[str, Any] = {}
        for key, value in options.items():
            if _is_rewards_option(str(key)):
                self._in_section(section, str(key), value)
            else:
                functions[str(key)] = value
        if functions:
            self._add("functions", functions)

    def _in_section(self, section: str, key: str, value: Any) -> None:
        if section == "rewards" and not _is_rewards_option(key):
            self._change_reward(key, value)
            return
        home = LEAVES.get(canonical_name(key))
        if home is not None and home != section:
            name = canonical_name(key)
            raise ConfigError(f"no option {key!r} in section {section}: write {home}.{name}, or just {name}")
        self._add(key, value, shown=f"{section}.{key}")

    def _change_reward(self, key: str, value: Any) -> None:
        # `module.name:function` and `file.py:function` have dots of their own.
        name, _, parameter = (key, "", "") if ":" in key else key.partition(".")
        changes = self.settings.setdefault(REWARD_CHANGES, {}).setdefault(name, {})
        changes.update({parameter: value} if parameter else function_settings(value))

    def _add(self, written: str, value: Any, *, shown: str | None = None) -> None:
        name = canonical_name(written)
        if name == "report_to":
            for tracker, wanted in _trackers(value).items():
                self._add(tracker, wanted)
            return
        value = canonical_value(written, value)
        if name in self.settings:
            before = self.settings[name]
            if value is None:
                return
            if before is not None and before != value:
                raise ConfigError(
                    f"{self._written[name]} and {shown or written} are one option, but were given "
                    f"{before!r} and {value!r}: give one of them"
                )
        self.settings[name] = value
        self._written[name] = shown or written


def _is_rewards_option(key: str) -> bool:
    """Return whether a key of section `rewards` is an option; anything else names a reward function.

    Raises:
        ConfigError: it is neither, but close to an option.
    """
    name = normalise(key)
    options = [*SECTIONS["rewards"].model_fields, "reward_functions", "reward_funcs", "reward_weights"]
    if name in options:
        return True
    if ":" not in key and difflib.get_close_matches(name, options, n=1, cutoff=0.85):
        raise unknown_option(key)
    return False


def _trackers(value: Any) -> dict[str, bool]:
    names = [value] if isinstance(value, str) else list(value or [])
    wanted = {normalise(part) for name in names for part in str(name).split(",") if part.strip()}
    unknown = wanted - {"wandb", "tensorboard", "all", "none"}
    if unknown:
        raise ConfigError(f"report_to was given {value!r}: it should be wandb, tensorboard, all or none")
    return {name: bool(wanted & {name, "all"}) for name in ("wandb", "tensorboard")}


def _some_options(section: str) -> str:
    return ", ".join(list(SECTIONS[section].model_fields)[:3])
