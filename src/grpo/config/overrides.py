"""The reader of options: from a command line, a file or Python to one flat table under our names."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, get_origin

from grpo.config.fields import Section, choices_of
from grpo.config.options import OPTIONS, Option, find_option, normalise, unknown_option
from grpo.config.rewards_section import function_settings
from grpo.config.sections import SECTIONS
from grpo.config.yaml_text import parse_yaml
from grpo.errors import ConfigError

__all__ = ["REWARD", "Settings", "parse_overrides", "read_settings", "split_args"]

Settings = dict[str, Any]
"""Values by option name; settings of one reward function lie under `rewards.NAME`."""

REWARD = "rewards."
"""Prefix of the settings of one reward function (`rewards.correctness=2.0`)."""

_REWARDS_OPTIONS = frozenset(
    name
    for option in OPTIONS.values()
    if option.section == "rewards" or option.name == "reward_weights"
    for name in (option.name, *option.known("synonyms"))
)
_KEY_VALUE = re.compile(r"([A-Za-z_][\w.\-/:]*)=(.*)", re.DOTALL)
_NULL = frozenset({"", "~", "null", "none"})
_TRUTH = frozenset({"true", "false", "yes", "no", "on", "off"})


def parse_overrides(overrides: Sequence[str] | Mapping[str, Any]) -> Settings:
    """Return the settings in command-line arguments or in a mapping.

    Args:
        overrides: `key=value`, `--key value`, `--key=value`, `--switch` and `--no-switch`, where the last value of a
            name counts; or a mapping as `read_settings` takes it.

    Raises:
        ConfigError: an argument sets nothing, an option is unknown, or two names of one option differ.

    Example:
        >>> parse_overrides(["--learning-rate", "1e-6", "rewards.correctness=2", "--no-shuffle"])
        {'learning_rate': 1e-06, 'rewards.correctness': {'weight': 2}, 'shuffle': False}
    """
    if isinstance(overrides, Mapping):
        return read_settings(overrides)
    plain, pairs = split_args(overrides)
    if plain:
        raise ConfigError(f"{plain[0]!r} sets no option: write key=value or --key value")
    options: dict[str, Any] = {}
    for key, _, text in (pair.partition("=") for pair in pairs):
        options[key if "." in key else normalise(key)] = _read_text(_find(key), text)
    return read_settings(options)


def split_args(args: Sequence[str], switches: Sequence[str] = ()) -> tuple[list[str], list[str]]:
    """Return the arguments that set no option, and `key=value` for each option that the others set.

    Arguments after `--` set no option.

    Args:
        switches: flags of the command itself (`--resume`), to suggest for an unknown flag.

    Raises:
        ConfigError: a flag is unknown or has no value.

    Example:
        >>> split_args(["gsm8k", "--learning-rate", "1e-6", "--use-wandb", "steps=3"])
        (['gsm8k'], ['learning_rate=1e-6', 'use_wandb=true', 'steps=3'])
    """
    plain: list[str] = []
    pairs: list[str] = []
    rest = list(args)
    while rest:
        arg = rest.pop(0)
        if arg == "--":
            return [*plain, *rest], pairs
        if arg.startswith("--"):
            pairs.append(_read_flag(arg, rest, switches))
        else:
            (pairs if _KEY_VALUE.fullmatch(arg) else plain).append(arg)
    return plain, pairs


def _read_flag(flag: str, rest: list[str], switches: Sequence[str]) -> str:
    """Return `key=value` for a flag, and take its value from `rest` if it has one there."""
    key, equals, text = flag[2:].partition("=")
    # Dots may belong to a reward function's name, which keeps its spelling.
    key = key if "." in key else normalise(key)
    if not equals and key.startswith("no_") and _is_switch(key.removeprefix("no_")):
        return f"{key.removeprefix('no_')}=false"
    if not equals and _is_switch(key):
        return f"{key}={rest.pop(0) if rest and rest[0].lower() in _TRUTH else 'true'}"
    _find(key, switches)
    if not equals and (not rest or rest[0].startswith("--")):
        raise ConfigError(f"{flag} needs a value: write {flag} VALUE")
    return f"{key}={text if equals else rest.pop(0)}"


def _is_switch(key: str) -> bool:
    try:
        option = _find(key)
    except ConfigError:
        return False
    return option is not None and option.is_switch(key.rpartition(".")[2])


def _find(key: str, switches: Sequence[str] = ()) -> Option | None:
    """Return the option that a key names; None for a section and for one reward function (`rewards.NAME`).

    Raises:
        ConfigError: there is no such option.
    """
    first, _, rest = key.partition(".")
    section = normalise(first)
    if section not in SECTIONS:
        return find_option(key, switches)
    if not rest:
        return OPTIONS.get(section)
    return None if section == "rewards" and not _is_rewards_option(rest) else find_option(rest, switches)


def _read_text(option: Option | None, text: str) -> Any:
    """Return the value that `text` from a command line has for an option, or for a reward function (None)."""
    types = frozenset() if option is None else option.types
    if text.strip().lower() in _NULL - set(choices_of(types)):
        return None
    is_list = any(get_origin(kind) is tuple for kind in types) and text.lstrip().startswith(("[", "{"))
    is_mapping = any(get_origin(kind) is dict for kind in types)
    # Text stays as it was typed: a run may be called 007, and a prompt may end in a colon.
    is_parsed = is_list or is_mapping or not types or types & {int, float, bool}
    return parse_yaml(text) if is_parsed else text


def read_settings(options: Mapping[Any, Any], origin: str = "") -> Settings:
    """Return the settings in `options`, which may be flat, nested by section, dotted, or all three; paths as text.

    Args:
        origin: the file they are from, for messages.

    Raises:
        ConfigError: an unknown name, or two names of one option with different values.

    Example:
        >>> read_settings({"optimizer": {"lr": 1e-3}, "rollout.group_size": 4, "KL_BETA": 0.04})
        {'learning_rate': 0.001, 'group_size': 4, 'beta': 0.04}
    """
    settings: Settings = {}
    keys: dict[str, str] = {}
    try:
        for key, given in _entries(options):
            value = os.fspath(given) if isinstance(given, os.PathLike) else given
            for name, ours in _named(key, value):
                before = settings.get(name)
                if name.startswith(REWARD):
                    settings[name] = {**(before or {}), **ours}
                elif before is None:
                    settings[name], keys[name] = ours, key
                elif ours is not None and ours != before:
                    raise ConfigError(
                        f"{keys[name]} and {key} are one option, but were given {before!r} and {ours!r}: "
                        f"give one of them"
                    )
    except ConfigError as error:
        raise (ConfigError(f"{origin}: {error}") if origin else error) from None
    return settings


def _entries(options: Mapping[Any, Any]) -> Iterator[tuple[str, Any]]:
    """Yield each option's key, dotted if it stood in a section, and its value."""
    for written, value in options.items():
        key, section = str(written), normalise(str(written))
        inner = value.model_dump(exclude_unset=True) if isinstance(value, Section) else value
        if section not in SECTIONS or (section == "rewards" and not isinstance(inner, Mapping)):
            yield key, value
        elif isinstance(inner, Mapping):
            functions = {
                name: item for name, item in inner.items() if section == "rewards" and not _is_rewards_option(name)
            }
            yield from ((f"{key}.{name}", item) for name, item in inner.items() if name not in functions)
            if functions:
                yield key, functions
        elif value is not None:
            some = ", ".join(list(SECTIONS[section].model_fields)[:3])
            raise ConfigError(
                f"{key} is a section of options, such as {some}, but was given {value!r}: set its options one by one"
            )


def _named(key: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Yield the options that an entry sets, with their values in our spelling; several for `report_to`."""
    option = _find(key)
    first, _, rest = key.partition(".")
    if option is None:
        # `module.name:function` and `file.py:function` have dots of their own.
        name, _, parameter = (rest, "", "") if ":" in rest else rest.partition(".")
        yield f"{REWARD}{name}", {parameter: value} if parameter else function_settings(value)
    elif option.name == "report_to":
        yield from _trackers(value).items()
    elif rest and option.section in SECTIONS and option.section != normalise(first):
        home = f"{option.section}.{option.name}"
        raise ConfigError(f"no option {rest!r} in section {normalise(first)}: write {home}, or just {option.name}")
    else:
        yield option.name, option.value(rest or key, value)


def _is_rewards_option(key: Any) -> bool:
    """Return whether a key of section `rewards` is an option; any other key names a reward function.

    Raises:
        ConfigError: it is neither, but close to an option.
    """
    name = normalise(str(key))
    if name in _REWARDS_OPTIONS:
        return True
    if ":" not in str(key) and difflib.get_close_matches(name, _REWARDS_OPTIONS, n=1, cutoff=0.85):
        raise unknown_option(str(key))
    return False


def _trackers(value: Any) -> dict[str, bool]:
    names = list(value) if isinstance(value, list | tuple | set | frozenset) else [] if value is None else [value]
    wanted = {normalise(part) for name in names for part in str(name).split(",") if part.strip()}
    if wanted - {"wandb", "tensorboard", "all", "none"}:
        raise ConfigError(f"report_to was given {value!r}: it should be wandb, tensorboard, all or none")
    return {name: bool(wanted & {name, "all"}) for name in ("wandb", "tensorboard")}
