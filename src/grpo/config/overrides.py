"""Words of a command line → settings: `key=value`, `--key value`, `--key=value`, `--flag`, `--no-flag`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Literal, get_args, get_origin

from grpo.config.fields import option_types
from grpo.config.rewards import reward_specs
from grpo.config.sections import SECTIONS
from grpo.config.settings import Settings, read_settings
from grpo.config.synonyms import COMPUTED, LEAVES, SWITCHES, SYNONYMS, canonical_name, normalise
from grpo.config.yaml_text import parse_yaml
from grpo.errors import ConfigError

__all__ = ["parse_overrides", "split_words"]

_KEY_VALUE = re.compile(r"([A-Za-z_][\w.\-/:]*)=(.*)", re.DOTALL)
_NOTHING = frozenset({"", "~", "null", "none"})
_TRUTH = frozenset({"true", "false", "yes", "no", "on", "off"})


def split_words(words: Sequence[str], switches: Sequence[str] = ()) -> tuple[list[str], list[str]]:
    """Return the words that set nothing, and `key=value` for each option that the others set.

    After `--` no word sets anything.

    Args:
        switches: what the command takes besides options (`--resume`), to suggest for an unknown flag.

    Raises:
        ConfigError: a flag is unknown or has no value.

    Example:
        >>> split_words(["gsm8k", "--learning-rate", "1e-6", "--use-wandb", "steps=3"])
        (['gsm8k'], ['learning_rate=1e-6', 'use_wandb=true', 'steps=3'])
    """
    plain: list[str] = []
    pairs: list[str] = []
    left = list(words)
    while left:
        word = left.pop(0)
        if word == "--":
            plain.extend(left)
            break
        if word.startswith("--"):
            pairs.append(_flag(word, left, switches))
        elif _KEY_VALUE.fullmatch(word):
            pairs.append(word)
        else:
            plain.append(word)
    return plain, pairs


def parse_overrides(words: Sequence[str]) -> Settings:
    """Return the settings that command-line words describe; the last of two values for one name counts.

    Raises:
        ConfigError: a word sets nothing, or an option is unknown.

    Example:
        >>> parse_overrides(["--learning-rate", "1e-6", "rewards.correctness=2", "--no-shuffle"])
        {'learning_rate': 1e-06, 'reward_changes': {'correctness': {'weight': 2}}, 'shuffle': False}
    """
    plain, pairs = split_words(words)
    if plain:
        raise ConfigError(f"{plain[0]!r} sets no option: write key=value or --key value")
    options: dict[str, Any] = {}
    for pair in pairs:
        key, _, text = pair.partition("=")
        name = key if "." in key else normalise(key)
        options[name] = _value(key, text)
    return read_settings(options)


def _flag(word: str, left: list[str], switches: Sequence[str]) -> str:
    """Return `key=value` for a flag, taking its value from `left` where it has one."""
    key, equals, text = word[2:].partition("=")
    # Dots may belong to a reward function's name, which keeps its spelling.
    key = key if "." in key else normalise(key)
    if equals:
        _types(key, switches)
        return f"{key}={text}"
    if key.startswith("no_") and _is_switch(key.removeprefix("no_")):
        return f"{key.removeprefix('no_')}=false"
    if _is_switch(key):
        return f"{key}={left.pop(0) if left and left[0].lower() in _TRUTH else 'true'}"
    _types(key, switches)
    if not left or left[0].startswith("--"):
        raise ConfigError(f"{word} needs a value: write {word} VALUE")
    return f"{key}={left.pop(0)}"


def _is_switch(key: str) -> bool:
    if normalise(key) in SWITCHES:
        return True
    try:
        return _types(key) == {bool}
    except ConfigError:
        return False


def _types(key: str, switches: Sequence[str] = ()) -> frozenset[Any]:
    """Return the types an option allows; none for what is calculated, and for a single reward function.

    Raises:
        ConfigError: there is no such option.
    """
    section, _, rest = key.partition(".")
    if rest and normalise(section) == "rewards":
        name = normalise(rest)
        return _types(name) if name in LEAVES else frozenset()
    if normalise(key) in SECTIONS:
        return frozenset()
    name = canonical_name(rest if rest and normalise(section) in SECTIONS else key, switches)
    return frozenset() if name in COMPUTED else option_types(SECTIONS[LEAVES[name]].model_fields[name].annotation)


def _value(key: str, text: str) -> Any:
    types = _types(key)
    choices = {choice for kind in types if get_origin(kind) is Literal for choice in get_args(kind)}
    lists = any(get_origin(kind) is tuple for kind in types)
    if text.strip().lower() in _NOTHING - choices and normalise(key) != "report_to":
        return None
    if _names_functions(key) and text.lstrip()[:1] not in ("[", "{"):
        return reward_specs(text)
    # Text stays as it was typed: a run may be called 007, and a prompt may end in a colon.
    if types and not types & {int, float, bool} and not (lists and text.startswith("[")):
        return text
    return parse_yaml(text)


def _names_functions(key: str) -> bool:
    name = normalise(key).removeprefix("rewards.")
    return name in ("rewards", "functions") or SYNONYMS.get(name) == "functions"
