"""Chat messages as data sets have them → messages with a role and a text."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from grpo.errors import DataError
from grpo.tasks.values import is_missing, kind_of
from grpo.types import Message

__all__ = ["ROLES", "SYSTEM_ROLES", "read_messages", "refuse_images"]

SYSTEM_ROLES = ("system", "developer")
ROLES = (*SYSTEM_ROLES, "user", "assistant", "tool")

_SHARED_ROLES = {
    "human": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "function_call": "assistant",
    "observation": "tool",
    "function_response": "tool",
}
"""Roles of ShareGPT's form, {"from", "value"}, besides ours."""

_MEDIA_COLUMNS = ("image", "images", "video", "videos", "audio", "audios")
_TEXT_PARTS = ("text", "input_text")


def read_messages(value: Iterable[Any], where: str) -> tuple[Message, ...]:
    """Return messages with a role and a text as `content`, and their other entries that are not null.

    Messages may be in ShareGPT's form, {"from", "value"}; contents may be lists of parts of text; an assistant that
    calls tools needs no content. Arguments of calls are objects, as chat templates expect, where they are JSON texts.

    Raises:
        DataError: a message has an unknown role, no content, or an image.
    """
    return tuple(_message(message, f"{where}, message {index}") for index, message in enumerate(value))


def refuse_images(record: Mapping[str, Any], where: str) -> None:
    """Raise a DataError for a row that has an image, a video or a sound, which its prompt is about."""
    for column in _MEDIA_COLUMNS:
        value = record.get(column)
        if not is_missing(value) and not isinstance(value, (bool, int, float)):
            raise DataError(
                f"{where}, column {column!r}: the row has {_with_article(column)}, and models are trained on text only "
                f"here: leave such rows out, or remove the column"
            )


def _message(value: Any, where: str) -> Message:
    if not isinstance(value, Mapping):
        raise DataError(f'{where}: {kind_of(value)} where {{"role", "content"}} is needed')
    if "from" in value and "role" not in value:
        role = value["from"]
        others = {key: entry for key, entry in value.items() if key not in ("from", "value")}
        value = {"role": _SHARED_ROLES.get(role, role), "content": value.get("value"), **others}
    if value.get("role") not in ROLES:
        raise DataError(f"{where}: role {value.get('role')!r}: use one of {', '.join(ROLES)}")
    message = {key: entry for key, entry in value.items() if entry is not None}
    if message.get("tool_calls"):
        message["tool_calls"] = [_tool_call(call) for call in message["tool_calls"]]
        message.setdefault("content", "")
    message["content"] = _text(message.get("content"), where)
    return message


def _text(content: Any, where: str) -> str:
    if isinstance(content, str):
        return content
    if isinstance(content, (list, tuple)):
        return "".join(_part(part, where) for part in content)
    raise DataError(f"{where}: the content is {kind_of(content)}: use text")


def _part(part: Any, where: str) -> str:
    if isinstance(part, str):
        return part
    if not isinstance(part, Mapping):
        raise DataError(f'{where}: a part of the content is {kind_of(part)}: use {{"type": "text", "text"}}')
    kind = str(part.get("type", "text"))
    if kind in _TEXT_PARTS and isinstance(part.get("text"), str):
        return str(part["text"])
    if kind in _TEXT_PARTS:
        raise DataError(f"{where}: the text of a part is {kind_of(part.get('text'))}: use text")
    medium = next((name for name in ("image", "video", "audio") if name in kind), None)
    if medium is None:
        raise DataError(f"{where}: a part of the content has type {kind!r}: use text")
    raise DataError(
        f"{where}: the message has {_with_article(medium)}, and models are trained on text only here: leave such rows "
        f"out, or remove the part"
    )


def _with_article(medium: str) -> str:
    if medium.startswith("audio"):
        return "sound"
    return medium if medium.endswith("s") else f"an {medium}" if medium == "image" else f"a {medium}"


def _tool_call(call: Any) -> Any:
    """Return a call without null entries, with its arguments as an object."""
    if not isinstance(call, Mapping):
        return call
    function = call.get("function")
    return _with_arguments(call if function is None else {**call, "function": _with_arguments(function)})


def _with_arguments(call: Any) -> Any:
    if not isinstance(call, Mapping):
        return call
    given = {key: entry for key, entry in call.items() if entry is not None}
    arguments = given.get("arguments")
    if isinstance(arguments, Mapping):
        # Tables fill in the arguments of all other calls as null.
        given["arguments"] = {key: entry for key, entry in arguments.items() if entry is not None}
    elif isinstance(arguments, str):
        try:
            parsed = json.loads(arguments)
        except ValueError:
            return given
        given["arguments"] = parsed if isinstance(parsed, dict) else arguments
    return given
