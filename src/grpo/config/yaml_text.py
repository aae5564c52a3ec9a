"""YAML as configurations use it: `1e-6` is a number, a date is text, and a repeated key is an error.

A text of a few lines whose aliases stand for billions of values is an error, too.
"""

from __future__ import annotations

import re
from collections.abc import Hashable
from typing import Any

import yaml

from grpo.errors import ConfigError

__all__ = ["MOST_BYTES", "dump_yaml", "parse_options", "parse_yaml"]

_NUMBERS = {
    "int": r"[-+]?(?:0|[1-9][0-9_]*)",
    "float": r"""[-+]?(?:[0-9][0-9_]*\.?[0-9_]*|\.[0-9][0-9_]*)[eE][-+]?[0-9]+
        |[-+]?(?:[0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*)
        |[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)""",
}
"""Plain scalars that are numbers, in place of YAML 1.1's, which reads 007 as octal and 1e-6 as text."""


MOST_BYTES = 1_000_000
"""Size that the file of a configuration may have."""

_MOST_VALUES = 100_000
"""Values that a text may stand for, aliases written out."""

_SHOWN = 60
"""Most characters of a text that a message repeats."""


class _Loader(yaml.SafeLoader):
    """Plain scalars are null, booleans, decimal numbers or text."""

    def get_single_node(self) -> yaml.Node | None:
        # Before any value is made: merge keys (`<<`) copy what they merge.
        node: yaml.Node | None = super().get_single_node()
        if node is not None:
            _count_values(node, {})
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = str(self.construct_object(key_node, deep=True))
            if key in seen:
                problem = f"the key {key!r} is there twice"
                raise yaml.constructor.ConstructorError(None, None, problem, key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep=deep)


def _count_values(node: yaml.Node, counted: dict[int, int]) -> int:
    """Return the number of values that `node` stands for, aliases written out.

    Args:
        counted: results by id; 0 while a node is being counted.

    Raises:
        yaml.YAMLError: they are too many, or a value contains itself.
    """
    if (number := counted.get(id(node))) is not None:
        if number == 0:
            raise yaml.constructor.ConstructorError(None, None, "a value contains itself", node.start_mark)
        return number
    counted[id(node)] = 0
    parts = node.value if isinstance(node, yaml.CollectionNode) else []
    inner = [part for pair in parts for part in pair] if isinstance(node, yaml.MappingNode) else parts
    number = 1 + sum(_count_values(part, counted) for part in inner)
    if number > _MOST_VALUES:
        problem = f"it stands for more than {_MOST_VALUES:,} values, aliases written out"
        raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
    counted[id(node)] = number
    return number


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
        place = f"{origin}, line {mark.line + 1}" if origin and mark is not None else origin or _shown(text)
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise ConfigError(f"{place}: not valid YAML: {problem}: correct it") from None
    except RecursionError:
        raise ConfigError(f"{origin or _shown(text)}: values are nested too deeply: write them flat") from None
    except (ValueError, AttributeError, TypeError, LookupError) as error:  # thousands of digits, or a tag that misfits
        raise ConfigError(
            f"{origin or _shown(text)}: not a usable value: {str(error).partition(';')[0]}: write another"
        ) from None


def _shown(text: str) -> str:
    return repr(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…")


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
