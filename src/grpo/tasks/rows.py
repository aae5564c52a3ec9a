"""Rows of a data set: a prompt, and columns that reward functions receive by name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from grpo.errors import DataError
from grpo.tasks.messages import SYSTEM_ROLES, read_messages, refuse_images
from grpo.tasks.readers import read_records
from grpo.tasks.shapes import Asked, find_value, recognise, verl_answer, without_reply
from grpo.tasks.values import is_missing, kind_of, plain_value
from grpo.types import Message

__all__ = ["Row", "read_prompt", "read_rows"]


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a data set.

    Attributes:
        number: position in the data set, from 0.
        prompt: text, or chat messages.
        columns: all other columns by name; the reference answer, if any, is `answer`. The prompt is among them if its
            column is not named `prompt`.
        place: the source for error messages: "questions.jsonl:12", "row 3".
    """

    number: int
    prompt: str | tuple[Message, ...]
    columns: Mapping[str, Any]
    place: str = ""

    @property
    def question(self) -> tuple[tuple[str, str], ...]:
        """The prompt as (role, text) without system messages; rows with equal ones must not be in two sets."""
        if isinstance(self.prompt, str):
            return (("user", " ".join(self.prompt.split())),)
        return tuple(
            (message["role"], " ".join(message["content"].split()))
            for message in self.prompt
            if message["role"] not in SYSTEM_ROLES
        )


def read_rows(
    source: object,
    *,
    split: str | None = None,
    config_name: str | None = None,
    prompt_column: str = "prompt",
    answer_column: str = "answer",
    column_names: Mapping[str, str] | None = None,
) -> list[Row]:
    """Return the rows of a data set in its own order.

    Args:
        source: a .jsonl, .json, .csv, .tsv or .parquet file, a folder or a Hub name (`datasets.load_dataset`),
            a `datasets.Dataset`, or a sequence of prompts (texts or lists of messages) or of dictionaries.
        split: split of a data set that has several; None: "train". Files and sequences have no splits.
        config_name: configuration of a Hub data set that has several.
        prompt_column: the column with the prompt: text, or a list of {"role", "content"}; "a.b" is `b` in column `a`.
            Rows without the default column are recognised by their shape (`shapes.recognise`).
        answer_column: the column with the reference answer, which becomes `answer` and keeps its own name besides.
            The default column may be missing, any other must exist. An `answer` that is missing (null, NaN, blank)
            in every row is left out.
        column_names: other columns to rename, {name in the source: name for reward functions}.

    Raises:
        DataError: the source is missing, malformed or empty, or a row lacks a column or a prompt.
    """
    renamed = {**(column_names or {}), answer_column: "answer"}
    in_file = isinstance(source, (str, Path))
    rows: list[Row] = []
    answered: list[bool] = []
    for where, record in read_records(source, split=split, config_name=config_name):
        bare = not in_file and isinstance(record, (str, list, tuple))
        row = _row(len(rows), where, {prompt_column: record} if bare else record, prompt_column, renamed)
        if answer_column != "answer" and "answer" not in row.columns:
            raise DataError(f"{where}: {_no_column(answer_column, record)}: set answer_column to one of them")
        rows.append(row)
        answered.append(row.columns.get("answer") is not None)
    if not rows:
        name = str(source) if in_file else "the data set"
        raise DataError(f"{name} is empty: it needs at least one row with a {prompt_column!r}")
    if not any(answered):
        return [replace(row, columns=_without_answer(row.columns)) for row in rows]
    if not all(answered):
        missing = rows[answered.index(False)].place
        raise DataError(
            f"{missing}: no {answer_column!r}, which other rows have: fill it in, or leave it out of all rows"
        )
    return rows


def _row(number: int, where: str, record: Any, prompt_column: str, renamed: Mapping[str, str]) -> Row:
    if not isinstance(record, Mapping):
        raise DataError(f"{where}: {kind_of(record)} where an object like {{{prompt_column!r}: …}} is needed")
    refuse_images(record, where)
    asked = _asked(record, where, prompt_column)
    columns: dict[str, Any] = {}
    for column, value in record.items():
        if column == "prompt" == prompt_column:
            continue
        ours = renamed.get(column, column)
        if ours in columns:
            raise DataError(f"{where}: two columns would be named {ours!r}: rename one of them with column_names")
        columns[ours] = _answer(value) if ours == "answer" else value
    answer_column = next(column for column, ours in renamed.items() if ours == "answer")
    if answer_column in record:
        # A reward may take the column by the name that it has in the data.
        columns.setdefault(answer_column, record[answer_column])
    else:
        _add_answer(columns, record, answer_column, asked.reply)
    return Row(number, read_prompt(asked.prompt, where), columns, where)


def _asked(record: Mapping[str, Any], where: str, prompt_column: str) -> Asked:
    """Return the prompt of a record, and the reply that the record has to it."""
    found, value = find_value(record, prompt_column)
    if not found:
        asked = recognise(record, where) if prompt_column == "prompt" else None
        if asked is None:
            raise DataError(f"{where}: {_no_column(prompt_column, record)}: set prompt_column to one of them")
        return asked
    value = plain_value(value)
    if isinstance(value, list) and value and all(isinstance(each, Mapping) and "from" in each for each in value):
        return without_reply(read_messages(value, where))
    return Asked(value, None)


def _add_answer(columns: dict[str, Any], record: Mapping[str, Any], answer_column: str, reply: str | None) -> None:
    """Add the answer of a record that has no column of that name: nested, where verl keeps it, or the reply."""
    found, value = find_value(record, answer_column)
    if not found and answer_column == "answer":
        found, value = verl_answer(record)
        if not found and reply is not None:
            found, value = True, reply
    if found:
        columns["answer"] = _answer(value)


def _answer(value: Any) -> Any:
    """Return an answer in Python's own types; None if it is missing (null, NaN, blank, an empty list)."""
    value = plain_value(value)
    return None if is_missing(value) else value


def read_prompt(value: Any, where: str) -> str | tuple[Message, ...]:
    """Return a prompt as a text that is not empty, or as messages that a model can answer (`read_messages`).

    Raises:
        DataError: it is neither, is empty, or ends with a call of a tool.
    """
    if isinstance(value, str):
        if not value.strip():
            raise DataError(f"{where}: the prompt is empty: fill it in, or leave the row out")
        return value
    if not isinstance(value, Iterable) or isinstance(value, (Mapping, bytes)):
        raise DataError(f'{where}: the prompt is {kind_of(value)}: use text or a list of {{"role", "content"}}')
    messages = read_messages(value, where)
    if messages and messages[-1].get("tool_calls"):
        raise DataError(f"{where}: the prompt ends with a call of a tool: add the tool's message, or leave the row out")
    if not messages or not (messages[-1]["content"].strip() or messages[-1]["role"] == "tool"):
        raise DataError(f"{where}: the prompt is empty: fill it in, or leave the row out")
    if all(message["role"] in SYSTEM_ROLES for message in messages):
        raise DataError(f"{where}: the prompt has a system message only: add a user message")
    return messages


def _no_column(column: str, record: Mapping[str, Any]) -> str:
    return f"no column {column!r}: there are {sorted(map(str, record))}"


def _without_answer(columns: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in columns.items() if name != "answer"}
