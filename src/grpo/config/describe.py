"""The reference of all options, written from their fields, so that it cannot be out of date."""

from __future__ import annotations

import textwrap
from typing import get_origin

from grpo.config.fields import choices_of
from grpo.config.options import ALL_SECTIONS, OPTIONS, Option
from grpo.config.schema import as_text

__all__ = ["option_reference"]

_INDENT = 34


def option_reference(width: int = 110) -> str:
    """Return all options by section: flag, values, description, default and synonyms."""
    parts = []
    for name, section in ALL_SECTIONS.items():
        entries = [_entry(option, width) for option in OPTIONS.values() if option.section == name]
        parts.append("\n".join([f"{name}: {(section.__doc__ or '').strip()}", *entries]))
    return "\n\n".join(parts)


def _entry(option: Option, width: int) -> str:
    head = f"  --{option.name.replace('_', '-')} {_values(option)}".rstrip()
    default = option.field.default
    text = f"{option.field.description} [{'empty' if default == () else as_text(default)}]"
    if synonyms := ", ".join(option.known("synonyms")):
        text += f" (also {synonyms})"
    lines = textwrap.wrap(text, width - _INDENT, break_on_hyphens=False)
    if len(head) > _INDENT - 2:
        lines = [head, *(" " * _INDENT + line for line in lines)]
    else:
        lines = [head.ljust(_INDENT) + lines[0], *(" " * _INDENT + line for line in lines[1:])]
    return "\n".join(lines)


def _values(option: Option) -> str:
    """Return a placeholder for the values of an option."""
    types = option.types
    if choices := choices_of(types):
        return "|".join(choices)
    if any(get_origin(kind) is tuple for kind in types):
        return "NAME,…"
    if any(get_origin(kind) is dict for kind in types):
        return "{NAME: X}"
    placeholders = {bool: "", int: "N", float: "X", str: "TEXT"}
    return next(placeholders[kind] for kind in (bool, float, int, str) if kind in types)
