"""Rows in the shapes of other tools: conversations, instructions, nested columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from grpo.tasks.messages import read_messages
from grpo.tasks.values import is_missing
from grpo.types import Message

__all__ = ["SHAPE_COLUMNS", "Asked", "find_value", "recognise", "verl_answer", "without_reply"]

_CONVERSATIONS = ("conversations", "conversation", "messages")

SHAPE_COLUMNS = (*_CONVERSATIONS, "instruction", "input", "output", "system")
"""The columns that `recognise` reads."""


class Asked(NamedTuple):
    """The prompt of a row, and the reply that the row has to it; None if it has none."""

    prompt: Any
    reply: str | None


def find_value(record: Mapping[str, Any], column: str) -> tuple[bool, Any]:
    """Return whether a row has a column, and its value; "a.b" is `b` in the object of column `a`."""
    if column in record:
        return True, record[column]
    head, dot, rest = column.partition(".")
    inner = record.get(head)
    if not dot or not isinstance(inner, Mapping):
        return False, None
    return find_value(inner, rest)


def recognise(record: Mapping[str, Any], where: str) -> Asked | None:
    """Return what a row without a column `prompt` asks, by its shape; None for any other shape.

    A list of messages (`messages`, ShareGPT's `conversations`) asks all up to its last user; what an assistant says
    after that is the reply. `instruction` and `input` (Alpaca) are one question, and `output` is the reply. A text
    `system` becomes the system message.

    Raises:
        DataError: a message is malformed.
    """
    for column in _CONVERSATIONS:
        value = record.get(column)
        if isinstance(value, (list, tuple)) and value and all(isinstance(message, Mapping) for message in value):
            asked = without_reply(read_messages(value, where))
            return Asked(_with_system(asked.prompt, record.get("system")), asked.reply)
    instruction, given = record.get("instruction"), record.get("input")
    if not isinstance(instruction, str) or is_missing(instruction):
        return None
    text = instruction if is_missing(given) else f"{instruction}\n\n{given}"
    output, system = record.get("output"), record.get("system")
    reply = output if isinstance(output, str) and not is_missing(output) else None
    if not isinstance(system, str) or is_missing(system):
        return Asked(text, reply)
    return Asked(_with_system(({"role": "user", "content": text},), system), reply)


def without_reply(messages: Sequence[Message]) -> Asked:
    """Return messages up to the last that no assistant wrote, and the text of the assistant's next message."""
    end = max((place for place, message in enumerate(messages) if message["role"] != "assistant"), default=-1) + 1
    reply = str(messages[end]["content"]) if end < len(messages) else None
    return Asked(tuple(messages[:end]), None if is_missing(reply) else reply)


def verl_answer(record: Mapping[str, Any]) -> tuple[bool, Any]:
    """Return whether a row without a column `answer` has the answer where verl keeps it, and its value."""
    return find_value(record, "reward_model.ground_truth")


def _with_system(messages: tuple[Message, ...], system: Any) -> tuple[Message, ...]:
    if not isinstance(system, str) or is_missing(system) or any(message["role"] == "system" for message in messages):
        return messages
    return ({"role": "system", "content": system}, *messages)
