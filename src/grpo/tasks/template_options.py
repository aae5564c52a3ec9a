"""Variables of the chat template: from options for all rows, and from columns of a row."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from grpo.errors import DataError
from grpo.tasks.rows import Row
from grpo.tasks.values import is_missing, kind_of, plain_value

__all__ = ["options_of_row", "unused_options"]

_TAKEN = frozenset(
    {
        "add_generation_prompt",
        "chat_template",
        "continue_final_message",
        "conversation",
        "max_length",
        "messages",
        "padding",
        "return_dict",
        "return_tensors",
        "tokenize",
        "tokenizer_kwargs",
        "truncation",
    }
)
"""Names that are not the user's: the package sets what they stand for."""


def options_of_row(
    row: Row, template_options: Mapping[str, Any] | None = None, tools: Sequence[Mapping[str, Any]] | None = None
) -> dict[str, Any]:
    """Return the variables of the template for a row: its columns `chat_template_kwargs` and `tools` come first.

    Columns may hold JSON as text. Null entries, with which tables fill in objects of other rows, are left out.

    Args:
        template_options, tools: for rows without such columns; a row's entries replace single `template_options`.

    Raises:
        DataError: a column has another form, or a name that the package sets itself.
    """
    own = _column(row, "chat_template_kwargs", dict, "an object such as {enable_thinking: false}")
    options = {**(template_options or {}), **(own or {})}
    for name in options:
        if name in _TAKEN:
            place = f"{row.place}, column 'chat_template_kwargs'" if name in (own or {}) else "chat_template_kwargs"
            raise DataError(f"{place}: {name!r} is set by grpo itself: leave it out")
    own_tools = _column(row, "tools", list, "a list of objects, one for each tool")
    given = [dict(tool) for tool in tools or ()] if own_tools is None else own_tools
    for tool in given:
        if not isinstance(tool, Mapping):
            raise DataError(f"{row.place}, column 'tools': {kind_of(tool)}: give an object that describes the tool")
    return {**options, "tools": given} if given else options


def unused_options(options: Mapping[str, Any], tokenizer: Any) -> list[str]:
    """Return the names of variables that the tokenizer's chat template does not mention."""
    template = str(getattr(tokenizer, "chat_template", None) or "")
    return [name for name in options if not re.search(rf"\b{re.escape(name)}\b", template)]


def _column(row: Row, name: str, wanted: type, form: str) -> Any:
    """Return the value of a column as `wanted`, None where the row has none."""
    value = plain_value(row.columns.get(name))
    if isinstance(value, str) and value.strip():
        try:
            value = json.loads(value)
        except ValueError as error:
            raise DataError(f"{row.place}, column {name!r}: the text is not JSON: give {form}") from error
    if is_missing(value):
        return None
    if not isinstance(value, wanted):
        raise DataError(f"{row.place}, column {name!r}: {kind_of(value)}: give {form}")
    return _without_null(value)


def _without_null(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_null(entry) for key, entry in value.items() if entry is not None}
    if isinstance(value, list):
        return [_without_null(entry) for entry in value]
    return value
