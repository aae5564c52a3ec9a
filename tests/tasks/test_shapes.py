"""Rows in the shapes of other tools are read as they are."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import datasets
import pandas
import pyarrow
import pyarrow.parquet
import pytest

from grpo.errors import DataError
from grpo.tasks.rows import Row, read_rows

USER = {"role": "user", "content": "2 + 3?"}
SYSTEM = {"role": "system", "content": "Be brief."}
CALL = {"type": "function", "function": {"name": "add", "arguments": {"a": 2, "b": 3}}}


def row_of(record: Any, **options: Any) -> Row:
    (row,) = read_rows([record], **options)
    return row


def test_nested_columns_are_named_with_a_dot() -> None:
    record = {"extra": {"question": {"text": "2 + 3?"}}, "reward_model": {"ground_truth": "5", "style": "rule"}}
    row = row_of(record, prompt_column="extra.question.text", answer_column="reward_model.ground_truth")
    assert row.prompt == "2 + 3?"
    assert row.columns == {**record, "answer": "5"}
    dotted = row_of({"prompt": "2 + 3?", "a.b": "5", "a": {"b": "6"}}, answer_column="a.b")
    assert dotted.columns["answer"] == "5"


@pytest.mark.parametrize("column", ["reward_model.truth", "reward_model.style.x", "model.ground_truth"])
def test_a_nested_column_that_is_not_there_is_refused(column: str) -> None:
    with pytest.raises(DataError, match=rf"row 0: no column '{column}'"):
        row_of({"prompt": "a", "reward_model": {"ground_truth": "5", "style": "rule"}}, answer_column=column)


def test_a_renamed_answer_keeps_its_own_name_too() -> None:
    row = row_of({"problem": "2 + 3?", "solution": "5"}, prompt_column="problem", answer_column="solution")
    assert row.columns == {"answer": "5", "solution": "5", "problem": "2 + 3?"}


@pytest.mark.parametrize(
    "parts",
    [[{"type": "text", "text": "2 + "}, {"type": "text", "text": "3?"}], ["2 + ", {"text": "3?"}], ["2 + 3?"]],
)
def test_parts_of_text_are_one_text(parts: list[Any]) -> None:
    assert row_of({"prompt": [{"role": "user", "content": parts}]}).prompt == (USER,)


def test_an_assistant_that_calls_tools_needs_no_content() -> None:
    as_text = {"type": "function", "function": {"name": "add", "arguments": json.dumps({"a": 2, "b": 3})}}
    result = {"role": "tool", "content": "5", "tool_call_id": "1"}
    for call in (CALL, as_text):
        called = {"role": "assistant", "content": None, "tool_calls": [call]}
        row = row_of({"prompt": [USER, called, result]})
        assert row.prompt == (USER, {"role": "assistant", "content": "", "tool_calls": [CALL]}, result)


def test_calls_out_of_a_table_lose_the_arguments_of_other_calls(tmp_path: Path) -> None:
    def called(arguments: dict[str, int]) -> dict[str, Any]:
        return {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"function": {"name": "f", "arguments": arguments}}],
        }

    records = [{"prompt": [USER, called({name: 1}), {"role": "tool", "content": "5"}]} for name in ("a", "b")]
    datasets.Dataset.from_list(records).to_parquet(tmp_path / "rows.parquet")
    calls = [row.prompt[1]["tool_calls"] for row in read_rows(tmp_path / "rows.parquet")]  # type: ignore[index,call-overload]
    assert calls == [[{"function": {"name": "f", "arguments": {name: 1}}}] for name in ("a", "b")]


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([USER, {"role": "assistant", "content": None}], "row 0, message 1: the content is null: use text"),
        ([USER, {"role": "assistant", "content": None, "tool_calls": []}], "message 1: the content is null"),
        ([USER, {"role": "assistant", "content": None, "tool_calls": [CALL]}], "ends with a call of a tool"),
        ([{"role": "user", "content": [5]}], "message 0: a part of the content is a number"),
        ([{"role": "user", "content": [{"type": "text"}]}], "the text of a part is null: use text"),
        ([{"role": "user", "content": [{"type": "file"}]}], "a part of the content has type 'file': use text"),
        ([{"from": "bot", "value": "a"}], "role 'bot': use one of system"),
    ],
)
def test_messages_that_cannot_be_read_are_refused(messages: list[Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        row_of({"prompt": messages})


SHARED = [
    {"from": "system", "value": "Be brief."},
    {"from": "human", "value": "2 + 3?"},
    {"from": "gpt", "value": "5"},
]


@pytest.mark.parametrize(
    ("record", "options"),
    [
        ({"conversations": SHARED}, {}),
        ({"conversations": SHARED}, {"prompt_column": "conversations"}),
        ({"prompt": SHARED, "answer": "5"}, {}),
        ({"system": "Be brief.", "conversations": SHARED[1:]}, {}),
        ({"messages": [SYSTEM, USER, {"role": "assistant", "content": "5"}]}, {}),
        ({"system": "Be brief.", "instruction": "2 + 3?", "input": "", "output": "5"}, {}),
    ],
)
def test_conversations_ask_up_to_the_last_user_and_have_the_reply_as_answer(
    record: dict[str, Any], options: dict[str, str]
) -> None:
    row = row_of(record, **options)
    assert row.prompt == (SYSTEM, USER)
    assert row.columns["answer"] == "5"


def test_a_conversation_of_several_turns_keeps_those_before() -> None:
    turns = [*SHARED, {"from": "human", "value": "Twice?"}, {"from": "gpt", "value": "10"}]
    row = row_of({"conversations": turns})
    assert [message["role"] for message in row.prompt] == ["system", "user", "assistant", "user"]  # type: ignore[index]
    assert row.columns["answer"] == "10"
    unanswered = row_of({"conversations": turns[:-1]})
    assert unanswered.prompt == row.prompt
    assert "answer" not in unanswered.columns


def test_a_column_that_was_named_is_the_answer_of_a_conversation() -> None:
    row = row_of({"conversations": SHARED, "label": "five"}, answer_column="label")
    assert row.columns["answer"] == "five"
    assert row_of({"conversations": SHARED, "answer": "five"}).columns["answer"] == "five"


@pytest.mark.parametrize(("given", "prompt"), [("2, 3", "Add.\n\n2, 3"), ("", "Add."), (None, "Add."), (" ", "Add.")])
def test_instruction_and_input_are_one_question(given: str | None, prompt: str) -> None:
    row = row_of({"instruction": "Add.", "input": given, "output": "5"})
    assert (row.prompt, row.columns["answer"]) == (prompt, "5")
    assert row.columns["output"] == "5"


def test_verl_s_parquet_is_read_as_it_is(tmp_path: Path) -> None:
    records = [
        {
            "data_source": "openai/gsm8k",
            "prompt": [{"role": "user", "content": f"What is {number} + 1?"}],
            "ability": "math",
            "reward_model": {"ground_truth": str(number + 1), "style": "rule"},
            "extra_info": {"index": number, "split": "train"},
            "images": None,
        }
        for number in range(3)
    ]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(records), tmp_path / "train.parquet")
    for source in (tmp_path / "train.parquet", pandas.read_parquet(tmp_path / "train.parquet")):
        rows = read_rows(source)
        assert [row.columns["answer"] for row in rows] == ["1", "2", "3"]
        assert [row.prompt for row in rows] == [tuple(record["prompt"]) for record in records]
        assert rows[0].columns["extra_info"] == {"index": 0, "split": "train"}
        named = read_rows(source, answer_column="reward_model.ground_truth")
        assert [row.columns["answer"] for row in named] == ["1", "2", "3"]


def test_cells_of_a_csv_may_be_long(tmp_path: Path) -> None:
    long = "word " * 40_000
    with (tmp_path / "long.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["prompt", "context"], ["a", long]])
    assert read_rows(tmp_path / "long.csv")[0].columns["context"] == long


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"prompt": "a", "image": "cat.png"}, "row 0, column 'image': the row has an image, and models are trained on"),
        ({"prompt": "a", "images": [{"bytes": b"x"}]}, "column 'images': the row has images, .*remove the column"),
        ({"conversations": SHARED, "video": {"path": "a"}}, "column 'video': the row has a video"),
        ({"prompt": "a", "audio": {"array": [0.0]}}, "column 'audio': the row has sound"),
        (
            {"prompt": [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What?"}]}]},
            "row 0, message 0: the message has an image",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
            "row 0, message 0: the message has an image",
        ),
        ({"prompt": [{"role": "user", "content": [{"type": "input_audio"}]}]}, "the message has sound"),
    ],
)
def test_rows_with_images_are_refused_in_one_line(record: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        row_of(record)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("empty", [None, [], "", [None], float("nan")])
def test_an_empty_column_of_images_is_no_image(empty: object) -> None:
    assert row_of({"prompt": "a", "images": empty}).prompt == "a"
