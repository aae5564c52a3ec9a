"""Answers of every type that data sets have."""

from __future__ import annotations

import datetime
import json
from decimal import Decimal
from pathlib import Path

import numpy
import pandas
import pytest

from grpo.errors import DataError
from grpo.tasks.rows import read_rows
from grpo.tasks.values import is_missing, plain_value, reference_texts


@pytest.mark.parametrize(
    ("value", "texts"),
    [
        ("5", ("5",)),
        (" five ", (" five ",)),
        (5, ("5",)),
        (5.5, ("5.5",)),
        (numpy.int32(5), ("5",)),
        (numpy.float32(0.1), ("0.1",)),
        (numpy.float16(0.1), ("0.1",)),
        (numpy.bool_(True), ("true",)),
        (numpy.str_("five"), ("five",)),
        (Decimal("1E+3"), ("1000",)),
        (True, ("true",)),
        (["5", 5.0, False], ("5", "5.0", "false")),
        (numpy.array([5, 6]), ("5", "6")),
        (None, ()),
        (float("nan"), ()),
        (numpy.float64("nan"), ()),
        (Decimal("nan"), ()),
        (pandas.NA, ()),
        (pandas.NaT, ()),
        ("", ()),
        ([], ()),
        ([None, " ", float("nan")], ()),
    ],
)
def test_an_answer_stands_for_its_texts(value: object, texts: tuple[str, ...]) -> None:
    assert reference_texts(value) == texts
    assert is_missing(plain_value(value)) is not bool(texts)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"a": 1}, "an object where an answer is needed: use a text, a number, or a list of these"),
        ([["5"]], "a list where an answer is needed"),
        (["5", {"a": 1}], "an object where"),
        (float("inf"), "a number that is not finite where"),
        (b"5", "a bytes where"),
        (datetime.date(2024, 1, 1), "a date where"),
        ([10**5000], "a number of thousands of digits"),
    ],
)
def test_what_no_text_can_be_compared_with_is_refused(value: object, message: str) -> None:
    with pytest.raises(DataError, match=message):
        reference_texts(value)


def test_the_cells_of_a_data_frame_become_plain_values() -> None:
    frame = pandas.DataFrame(
        {
            "prompt": ["a", "b"],
            "answer": [numpy.array(["5", "five"], dtype=object), numpy.array(["6"], dtype=object)],
            "level": [1.0, float("nan")],
            "when": [pandas.Timestamp("2024-01-01"), pandas.NaT],
        }
    )
    first, second = read_rows(frame)
    assert first.columns["answer"] == ["5", "five"]
    assert (first.columns["level"], second.columns["level"], second.columns["when"]) == (1.0, None, None)


def test_whole_numbers_that_a_data_frame_made_floats_are_the_same_answers() -> None:
    frame = pandas.DataFrame({"prompt": ["a", "b"], "answer": [5, 6], "extra": [1, None]}).astype({"answer": float})
    assert [reference_texts(row.columns["answer"]) for row in read_rows(frame)] == [("5.0",), ("6.0",)]


@pytest.mark.parametrize(
    "missing", [None, float("nan"), "", " ", [], pandas.NA], ids=["null", "NaN", "empty", "blank", "list", "NA"]
)
def test_a_missing_answer_is_refused_with_its_row_where_others_have_one(missing: object) -> None:
    rows = [{"prompt": "a", "answer": "5"}, {"prompt": "b", "answer": missing}]
    for source in (rows, pandas.DataFrame(rows)):
        with pytest.raises(DataError, match="row 1: no 'answer', which other rows have: fill it in"):
            read_rows(source)
    assert "answer" not in read_rows([{"prompt": "a", "answer": missing}])[0].columns


def test_an_empty_cell_and_a_nan_of_a_file_are_refused_with_their_place(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("prompt,answer\na,5\nb,\n")
    with pytest.raises(DataError, match=r"a\.csv:3: no 'answer'"):
        read_rows(tmp_path / "a.csv")
    rows = [{"prompt": "a", "answer": 5.0}, {"prompt": "b", "answer": float("nan")}]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(DataError, match=r"a\.jsonl:2: no 'answer'"):
        read_rows(tmp_path / "a.jsonl")
    pandas.DataFrame(rows).to_parquet(tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"a\.parquet, row 1: no 'answer'"):
        read_rows(tmp_path / "a.parquet")


@pytest.mark.parametrize("prompt", [10**400, -(10**400)])
def test_a_whole_number_beyond_any_float_is_a_number(prompt):
    with pytest.raises(DataError, match="the prompt is a number: use text"):
        read_rows([{"prompt": prompt}])
