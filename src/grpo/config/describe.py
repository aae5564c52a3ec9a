"""The reference of all options, written from the schema, so that it cannot be out of date."""

from __future__ import annotations

import textwrap
from typing import Any, Literal, get_args, get_origin

from pydantic.fields import FieldInfo

from grpo.config.fields import option_types
from grpo.config.sections import SECTIONS
from grpo.config.synonyms import COMPUTED, SYNONYMS

__all__ = ["option_reference"]

_INDENT = 34


def option_reference(width: int = 110) -> str:
    """Return all options by section: flag, values, meaning, default and other names."""
    parts = []
    for name, section in SECTIONS.items():
        lines = [f"{name}: {(section.__doc__ or '').strip()}"]
        for leaf, field in section.model_fields.items():
            lines.append(_entry(f"--{leaf.replace('_', '-')} {_values(field)}".rstrip(), _meaning(leaf, field), width))
        parts.append("\n".join(lines))
    others = [_entry(f"--{name.replace('_', '-')}", meaning, width) for name, meaning in COMPUTED.items()]
    parts.append("\n".join(["also understood:", *others]))
    return "\n\n".join(parts)


def _entry(flag: str, meaning: str, width: int) -> str:
    lines = textwrap.wrap(meaning, width - _INDENT, break_on_hyphens=False)
    head = f"  {flag}"
    if len(head) > _INDENT - 2:
        return "\n".join([head, *(" " * _INDENT + line for line in lines)])
    return "\n".join([head.ljust(_INDENT) + lines[0], *(" " * _INDENT + line for line in lines[1:])])


def _values(field: FieldInfo) -> str:
    types = option_types(field.annotation)
    for kind in types:
        if get_origin(kind) is Literal:
            return "|".join(map(str, get_args(kind)))
    if any(get_origin(kind) is tuple for kind in types):
        return "NAME,…"
    words = {bool: "", int: "N", float: "X", str: "TEXT"}
    return next(words[kind] for kind in (bool, float, int, str) if kind in types)


def _meaning(leaf: str, field: FieldInfo) -> str:
    also = [name for name, ours in SYNONYMS.items() if ours == leaf]
    return f"{field.description} [{_default(field.default)}]" + (f" (also {', '.join(also)})" if also else "")


def _default(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if value != () else "empty"
