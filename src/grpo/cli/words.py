"""Taking apart the words of a command line: switches and values of commands; the rest is options."""

from __future__ import annotations

from collections.abc import Sequence

from grpo.errors import ConfigError

__all__ = ["at_most_one", "split", "take_switch", "take_value", "whole_number"]


def split(words: Sequence[str], switches: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the words that set nothing, and `key=value` for each option that the others set.

    Raises:
        ConfigError: a flag is unknown, and perhaps one of `switches` mistyped, or it has no value.
    """
    from grpo.config import split_words

    return split_words(words, switches)


def take_switch(words: list[str], *names: str) -> bool:
    """Remove a switch from `words` and return whether it was there; words after `--` are left alone."""
    end = words.index("--") if "--" in words else len(words)
    kept = [word for place, word in enumerate(words) if place >= end or word not in names]
    found = len(kept) < len(words)
    words[:] = kept
    return found


def take_value(words: list[str], name: str) -> str | None:
    """Remove `--name VALUE`, `--name=VALUE` and `name=VALUE` from `words` and return the last value."""
    value: str | None = None
    kept: list[str] = []
    while words:
        word = words.pop(0)
        if word == "--":
            kept += [word, *words]
            break
        key, equals, text = word.partition("=")
        if word == name:
            if not words or words[0].startswith("--"):
                raise ConfigError(f"{name} needs a value: write {name} VALUE")
            value = words.pop(0)
        elif equals and key in (name, name.removeprefix("--")):
            value = text
        else:
            kept.append(word)
    words[:] = kept
    return value


def at_most_one(words: list[str], kind: str) -> str | None:
    """Return the only word, None if there is none; `kind` is what the message for more calls it."""
    if len(words) > 1:
        raise ConfigError(f"one {kind} is enough: given were {' and '.join(map(repr, words))}")
    return words[0] if words else None


def whole_number(name: str, text: str) -> int:
    """Return the number, at least 1, that `text` is for the switch `name`."""
    if not text.isdecimal() or int(text) < 1:
        raise ConfigError(f"{name} was given {text!r}: it should be a whole number of at least 1")
    return int(text)
