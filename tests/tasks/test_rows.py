"""Rows out of every kind of source, and one clear line for every kind of bad input."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest

from grpo.errors import DataError
from grpo.tasks.rows import Row, read_rows

RECORDS = [
    {"prompt": "What is 2 + 3?", "answer": "5", "level": "easy"},
    {"prompt": "What is 12 * 12?", "answer": "144", "level": "hard"},
]
PLAIN_ROWS = [
    (0, "What is 2 + 3?", {"answer": "5", "level": "easy"}),
    (1, "What is 12 * 12?", {"answer": "144", "level": "hard"}),
]


def contents(rows: list[Row]) -> list[tuple[int, Any, dict[str, Any]]]:
    return [(row.number, row.prompt, dict(row.columns)) for row in rows]


def write_lines(path: Path) -> None:
    path.write_text("".join(json.dumps(record) + "\n" for record in RECORDS), encoding="utf-8")


def write_array(path: Path) -> None:
    path.write_text(json.dumps(RECORDS, indent=2), encoding="utf-8")


def write_csv(path: Path) -> None:
    separator = "\t" if path.suffix == ".tsv" else ","
    lines = [list(RECORDS[0]), *([record[name] for name in RECORDS[0]] for record in RECORDS)]
    path.write_text("".join(separator.join(line) + "\r\n" for line in lines), encoding="utf-8")


def write_parquet(path: Path) -> None:
    datasets.Dataset.from_list(RECORDS).to_parquet(str(path))


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("rows.jsonl", write_lines),
        ("rows.json", write_lines),
        ("rows.json", write_array),
        ("rows.csv", write_csv),
        ("rows.tsv", write_csv),
        ("rows.parquet", write_parquet),
    ],
)
@pytest.mark.parametrize("as_text", [True, False])
def test_every_file_format_gives_the_same_rows(
    tmp_path: Path, name: str, write: Callable[[Path], None], as_text: bool
) -> None:
    path = tmp_path / name
    write(path)
    assert contents(read_rows(str(path) if as_text else path)) == PLAIN_ROWS


@pytest.mark.parametrize(
    "source",
    [
        RECORDS,
        tuple(RECORDS),
        datasets.Dataset.from_list(RECORDS),
        datasets.DatasetDict(train=datasets.Dataset.from_list(RECORDS)),
    ],
    ids=["list", "tuple", "Dataset", "DatasetDict"],
)
def test_every_object_gives_the_same_rows(source: object) -> None:
    assert contents(read_rows(source)) == PLAIN_ROWS


def test_a_data_frame_gives_its_records() -> None:
    assert contents(read_rows(datasets.Dataset.from_list(RECORDS).to_pandas())) == PLAIN_ROWS


def test_a_torch_data_set_gives_its_items() -> None:
    class Questions:
        def __len__(self) -> int:
            return len(RECORDS)

        def __getitem__(self, number: int) -> dict[str, str]:
            return RECORDS[number]

    assert contents(read_rows(Questions())) == PLAIN_ROWS


def test_folders_are_read_whether_saved_to_disk_or_with_data_files_in_them(tmp_path: Path) -> None:
    datasets.DatasetDict(train=datasets.Dataset.from_list(RECORDS)).save_to_disk(str(tmp_path / "saved"))
    assert contents(read_rows(tmp_path / "saved")) == PLAIN_ROWS
    (tmp_path / "files").mkdir()
    write_lines(tmp_path / "files" / "train.jsonl")
    assert contents(read_rows(str(tmp_path / "files"))) == PLAIN_ROWS
    (tmp_path / "nothing").mkdir()
    with pytest.raises(DataError, match="nothing"):
        read_rows(tmp_path / "nothing")


def test_a_list_of_strings_becomes_prompts_without_columns() -> None:
    assert contents(read_rows(["one", "two"])) == [(0, "one", {}), (1, "two", {})]
    column = datasets.Dataset.from_list(RECORDS)["prompt"]
    assert [row.prompt for row in read_rows(column)] == [record["prompt"] for record in RECORDS]


def test_chat_messages_are_kept_as_messages(tmp_path: Path) -> None:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    (tmp_path / "chat.jsonl").write_text(json.dumps({"prompt": messages}), encoding="utf-8")
    assert contents(read_rows(tmp_path / "chat.jsonl")) == [(0, tuple(messages), {})]
    assert read_rows([messages])[0].prompt == tuple(messages)
    assert read_rows(datasets.Dataset.from_list([{"prompt": messages}]))[0].prompt == tuple(messages)


def test_columns_are_mapped_and_renamed() -> None:
    source = [{"question": "2 + 3?", "label": 5, "difficulty": 1, "answer": "five"}]
    rows = read_rows(
        source,
        prompt_column="question",
        answer_column="label",
        column_names={"difficulty": "level", "answer": "solution"},
    )
    own_names = {"question": "2 + 3?", "label": 5}
    assert contents(rows) == [(0, "2 + 3?", {"answer": 5, "level": 1, "solution": "five", **own_names})]


def test_two_columns_of_one_name_are_refused() -> None:
    with pytest.raises(DataError, match="row 0: two columns would be named 'answer'"):
        read_rows([{"prompt": "2 + 3?", "label": 5, "answer": "five"}], answer_column="label")


def test_the_split_of_a_data_set_is_chosen() -> None:
    source = datasets.DatasetDict(
        train=datasets.Dataset.from_list(RECORDS[:1]), test=datasets.Dataset.from_list(RECORDS[1:])
    )
    assert read_rows(source)[0].prompt == RECORDS[0]["prompt"]
    assert read_rows(source, split="test")[0].prompt == RECORDS[1]["prompt"]
    with pytest.raises(DataError, match=r"no split 'dev' in the data set: use one of \['test', 'train'\]"):
        read_rows(source, split="dev")


def test_blank_lines_and_a_byte_order_mark_are_skipped(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('\ufeff{"prompt": "a\u2028b"}\n\n  \n{"prompt": "c"}\n', encoding="utf-8")
    rows = read_rows(path)
    assert [(row.number, row.prompt, row.place) for row in rows] == [
        (0, "a\u2028b", f"{path}:1"),
        (1, "c", f"{path}:4"),
    ]


def test_an_answer_that_is_null_everywhere_is_no_answer() -> None:
    assert contents(read_rows([{"prompt": "a", "answer": None}])) == [(0, "a", {})]


def test_rows_that_ask_the_same_have_equal_questions() -> None:
    system = {"role": "system", "content": "Be brief."}
    rows = read_rows(["What is  2 + 3?\n", [system, {"role": "user", "content": "What is 2 + 3?"}], "What is 3 + 2?"])
    assert rows[0].question == rows[1].question != rows[2].question


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.jsonl", '{"prompt": "a"}\n{"prompt": \n', r"a\.jsonl:2: not valid JSON: Expecting value \(.*column"),
        ("a.jsonl", '{"prompt": "a"}\n["a"]\n', r"a\.jsonl:2: a list where an object like \{'prompt': …\} is needed"),
        ("a.jsonl", '"a"\n', r"a\.jsonl:1: a text where an object"),
        (
            "a.jsonl",
            '{"prompt": "a"}\n\n{"question": "b"}\n',
            r"a\.jsonl:3: no column 'prompt': there are \['question'\]",
        ),
        ("a.jsonl", '{"prompt": " "}\n', r"a\.jsonl:1: the prompt is empty"),
        ("a.jsonl", '{"prompt": []}\n', r"a\.jsonl:1: the prompt is empty"),
        ("a.jsonl", '{"prompt": 5}\n', r"a\.jsonl:1: the prompt is a number: use text or a list"),
        ("a.jsonl", '{"prompt": null}\n', r"a\.jsonl:1: the prompt is null"),
        ("a.jsonl", '{"prompt": {"role": "user"}}\n', r"a\.jsonl:1: the prompt is an object"),
        ("a.jsonl", '{"prompt": ["a"]}\n', r"a\.jsonl:1, message 0: a text where \{\"role\""),
        (
            "a.jsonl",
            '{"prompt": [{"role": "bot", "content": "a"}]}\n',
            r"message 0: role 'bot': use one of system, dev",
        ),
        ("a.jsonl", '{"prompt": [{"content": "a"}]}\n', r"message 0: role None: use one of"),
        ("a.jsonl", '{"prompt": [{"role": "user"}]}\n', r"message 0: the content is null: use text"),
        ("a.jsonl", '{"prompt": [{"role": "user", "content": " "}]}\n', r"a\.jsonl:1: the prompt is empty"),
        ("a.jsonl", '{"prompt": [{"role": "system", "content": "a"}]}\n', r"a\.jsonl:1: .*a system message only"),
        ("a.jsonl", '{"prompt": "a", "answer": "5"}\n{"prompt": "b"}\n', r"a\.jsonl:2: no 'answer', which other rows"),
        ("a.jsonl", "[" * 100_000 + "\n", r"a\.jsonl:1: not usable JSON"),
        ("a.jsonl", "", r"a\.jsonl is empty: it needs at least one row"),
        ("a.jsonl", "\n\n", r"a\.jsonl is empty"),
        ("a.json", "[]", r"a\.json is empty"),
        ("a.json", '[{"prompt": "a"},\n{"prompt": }]', r"a\.json: not valid JSON: Expecting value \(line 2, column"),
        ("a.csv", "prompt,answer\n", r"a\.csv is empty"),
        ("a.csv", "", r"a\.csv is empty"),
        ("a.csv", "prompt,answer\na,1\nb\n", r"a\.csv:3: the row does not have the 2 fields of the header"),
        ("a.csv", "prompt,answer\na,1,2\n", r"a\.csv:2: the row does not have the 2 fields"),
        ("a.csv", "prompt,prompt\na,1\n", r"a\.csv:1: column 'prompt' occurs twice"),
        ("a.csv", 'prompt\n"a" b\n', r"a\.csv:2: not valid CSV"),
        ("a.csv", "question\na\n", r"a\.csv:2: no column 'prompt': there are \['question'\]"),
        ("a.parquet", "not parquet", r"a\.parquet: not a Parquet file"),
        ("a.txt", "a", r"a\.txt: its name must end with one of \.jsonl, \.json, \.csv, \.tsv, \.parquet"),
    ],
)
def test_a_bad_file_is_refused_with_the_place_and_the_reason(
    tmp_path: Path, name: str, text: str, message: str
) -> None:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=message) as caught:
        read_rows(path)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_utf_8_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes('{"prompt": "Größe"}\n'.encode("latin-1"))
    with pytest.raises(DataError, match=r"a\.jsonl: not UTF-8 text"):
        read_rows(tmp_path / "a.jsonl")


def test_a_missing_file_is_refused_with_the_nearest_name(tmp_path: Path) -> None:
    write_lines(tmp_path / "math_train.jsonl")
    with pytest.raises(DataError, match=r"no file .*math_trian\.jsonl: did you mean .*math_train\.jsonl\?"):
        read_rows(str(tmp_path / "math_trian.jsonl"))
    with pytest.raises(DataError, match=r"no file .*: check the path"):
        read_rows(tmp_path / "q.csv")
    with pytest.raises(DataError, match=r"there is no folder .*elsewhere"):
        read_rows(str(tmp_path / "elsewhere" / "math_train.jsonl"))


def test_a_missing_answer_column_is_refused_only_when_it_was_asked_for() -> None:
    with pytest.raises(DataError, match=r"row 0: no column 'label': there are \['prompt'\]"):
        read_rows([{"prompt": "a"}], answer_column="label")
    assert contents(read_rows([{"prompt": "a"}])) == [(0, "a", {})]


@pytest.mark.parametrize("source", [[], (), datasets.Dataset.from_list([])])
def test_an_empty_data_set_is_refused(source: object) -> None:
    with pytest.raises(DataError, match="the data set is empty"):
        read_rows(source)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (5, "data of type int: give a file"),
        (None, "data of type NoneType"),
        (b"abc", "data of type bytes"),
        ({"prompt": ["a"]}, "data of type dict"),
        (["a", 5], "row 1: a number where an object"),
        (["a", ""], "row 1: the prompt is empty"),
        (datasets.Dataset.from_list(RECORDS).to_iterable_dataset(), "streamed data set may be endless"),
    ],
)
def test_other_objects_are_refused(source: object, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_rows(source)


def test_a_hub_name_without_a_network_is_one_clear_line_at_once(tmp_path: Path) -> None:
    script = """
from grpo.errors import DataError
from grpo.tasks.rows import read_rows
try:
    read_rows("openai/gsm8k", config_name="main", prompt_column="question")
except DataError as error:
    print(error)
"""
    environment = {
        "HF_ENDPOINT": "http://127.0.0.1:9",  # the discard port: nothing listens
        "HF_HOME": str(tmp_path),
        "PYTHONPATH": os.pathsep.join(sys.path),
        "NO_PROXY": "127.0.0.1",
    }
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, **environment},
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "data set 'openai/gsm8k': the Hub cannot be reached and no downloaded copy has split 'train' of "
        "configuration 'main': check the network, or give a local .jsonl, .json, .csv or .parquet file"
    ]


@pytest.mark.parametrize(
    ("name", "text", "remedy"),
    [
        ("a.jsonl", "{", "correct it"),
        ("a.csv", "prompt,answer\n1\n", "correct it, or quote commas"),
        ("a.parquet", "text", "write it again, or use .jsonl"),
    ],
)
def test_a_file_that_cannot_be_parsed_is_refused_with_a_remedy(tmp_path, name, text, remedy):
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=f": {remedy}$"):
        read_rows(str(tmp_path / name))
