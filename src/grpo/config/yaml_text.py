"""YAML as configurations use it: `1e-6` is a number, a date is text, and a repeated key is an error."""

from __future__ import annotations

import re
from collections.abc import Hashable
from typing import Any

import yaml

from grpo.errors import ConfigError

__all__ = ["dump_yaml", "parse_options", "parse_yaml"]

_NUMBERS = {
    "int": r"[-+]?(?:0|[1-9][0-9_]*)",
    "float": r"""[-+]?(?:[0-9][0-9_]*\.?[0-9_]*|\.[0-9][0-9_]*)[eE][-+]?[0-9]+
        |[-+]?(?:[0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*)
        |[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)""",
}
"""Plain scalars that are numbers, in place of YAML 1.1's, which reads 007 as octal and 1e-6 as text."""


class _Loader(yaml.SafeLoader):
    """Plain scalars are null, booleans, decimal numbers or text."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = str(self.construct_object(key_node, deep=True))
            if key in seen:
                problem = f"the key {key!r} is there twice"
                raise yaml.constructor.ConstructorError(None, None, problem, key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep=deep)


class _Dumper(yaml.SafeDumper):
    """Quotes text that `_Loader` would read as something else."""


for _class in (_Loader, _Dumper):
    _class.yaml_implicit_resolvers = {
        letter: [entry for entry in entries if entry[0].rpartition(":")[2] in ("bool", "null", "merge")]
        for letter, entries in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    for _type, _pattern in _NUMBERS.items():
        _class.add_implicit_resolver(
            f"tag:yaml.org,2002:{_type}", re.compile(f"^(?:{_pattern})$", re.VERBOSE), list("-+.0123456789")
        )
_Dumper.add_representer(
    str, lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, "|" if "\n" in text else None)
)


def parse_yaml(text: str, origin: str = "") -> Any:
    """Return the value that `text` spells; `origin` names its file in messages.

    Raises:
        ConfigError: it is not YAML; the message has the line.

    Example:
        >>> parse_yaml("1e-6"), parse_yaml("[correctness, 2]"), parse_yaml("2026-01-01")
        (1e-06, ['correctness', 2], '2026-01-01')
    """
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{origin}, line {mark.line + 1}" if origin and mark is not None else origin or repr(text)
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise ConfigError(f"{place}: not valid YAML: {problem}") from None


def parse_options(text: str, origin: str) -> dict[Any, Any]:
    """Return the options that YAML `text` holds, by the names written there.

    Raises:
        ConfigError: it is not YAML, or not a mapping.
    """
    options = parse_yaml(text, origin)
    if not isinstance(options, dict | None):
        raise ConfigError(f"{origin or 'the text'} is not a configuration: it should have lines like `steps: 100`")
    return options or {}


def dump_yaml(value: Any) -> str:
    """Return YAML text that `parse_yaml` reads back as the same value."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)
