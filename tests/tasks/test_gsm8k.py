"""GSM8K rows become system and user messages with a reference number."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from grpo.errors import DataError
from grpo.tasks.answers import FORMATS
from grpo.tasks.gsm8k import gsm8k_rows, gsm8k_task
from grpo.tasks.rows import Row

TAGS = FORMATS["answer_tags"]
WHOLE_FILE = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "gsm8k" / "train.jsonl"


@pytest.fixture
def train_file(tmp_path: Path) -> Path:
    path = tmp_path / "train.jsonl"
    rows = [
        {"question": f"Ann has {number} bags of 2 apples. How many?", "answer": f"2 * {number}\n#### {2 * number}"}
        for number in range(1, 21)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_a_row_becomes_system_and_user_messages_with_its_reference(train_file: Path) -> None:
    row = gsm8k_rows(train_file, split="train", system_prompt=TAGS.system_prompt)[3]
    question = "Ann has 4 bags of 2 apples. How many?"
    assert row.number == 3
    assert row.prompt == (
        {
            "role": "system",
            "content": "Respond in the following format: <reasoning>...</reasoning><answer>...</answer>",
        },
        {"role": "user", "content": question},
    )
    assert row.columns == {"answer": "8", "question": question, "solution": "2 * 4\n#### 8"}


def test_a_format_without_a_system_prompt_gives_the_question_alone(train_file: Path) -> None:
    row = gsm8k_rows(train_file, split="train", system_prompt=None)[0]
    assert row.prompt == ({"role": "user", "content": "Ann has 1 bags of 2 apples. How many?"},)


def test_held_out_rows_come_from_the_train_file_when_there_is_no_other(train_file: Path) -> None:
    task = gsm8k_task(train_file=train_file, eval_file=None, eval_size=5, answer_format=TAGS, seed=0)
    assert task.name == "gsm8k" and len(task.train) == 15 and len(task.evaluation) == 5
    assert not {row.question for row in task.train} & {row.question for row in task.evaluation}


def test_an_evaluation_file_takes_its_rows_out_of_the_train_rows(train_file: Path, tmp_path: Path) -> None:
    eval_file = tmp_path / "eval.jsonl"
    eval_file.write_text(
        "".join(train_file.read_text(encoding="utf-8").splitlines(keepends=True)[:4]), encoding="utf-8"
    )
    task = gsm8k_task(train_file=str(train_file), eval_file=str(eval_file), eval_size=None, answer_format=TAGS, seed=0)
    assert len(task.train) == 16 and len(task.evaluation) == 4 and task.removed == 4


def test_the_system_prompt_can_be_another(train_file: Path) -> None:
    task = gsm8k_task(
        train_file=train_file, eval_file=None, eval_size=5, answer_format=TAGS, seed=0, system_prompt="Be brief."
    )
    assert all(row.prompt[0] == {"role": "system", "content": "Be brief."} for row in task.train + task.evaluation)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"question": "How many?", "answer": "42"}', r"train\.jsonl:21: no reference answer in '42'"),
        ('{"question": "How many?", "answer": 42}', r"train\.jsonl:21: a GSM8K row has the texts"),
        ('{"prompt": "How many?", "answer": "#### 42"}', r"train\.jsonl:21: no column 'question'"),
        ('{"question": "How many?"}', r"train\.jsonl:21: no 'answer', which other rows have"),
    ],
)
def test_a_row_that_is_not_gsm8k_is_refused_with_its_place(train_file: Path, line: str, message: str) -> None:
    with train_file.open("a", encoding="utf-8") as file:
        file.write(line + "\n")
    with pytest.raises(DataError, match=message):
        gsm8k_rows(train_file, split="train", system_prompt=None)


def test_rows_without_any_answer_are_refused() -> None:
    with pytest.raises(DataError, match="row 0: a GSM8K row has the texts 'question' and 'answer'"):
        gsm8k_rows([{"question": "How many?"}], split="train", system_prompt=None)


@pytest.fixture(scope="module")
def whole() -> list[Row]:
    if not WHOLE_FILE.exists():
        pytest.skip("the GSM8K train file is not beside the repository")
    return gsm8k_rows(WHOLE_FILE, split="train", system_prompt=TAGS.system_prompt)


def test_all_reference_answers_of_the_train_file_are_read(whole: list[Row]) -> None:
    assert len(whole) == 7473
    for row in whole:
        written = row.columns["solution"].rpartition("####")[2].strip().replace(",", "")
        assert row.columns["answer"] == written
        assert str(int(written)) == written


def test_a_solution_in_the_format_is_judged_right_for_every_row(whole: list[Row]) -> None:
    task = gsm8k_task(train_file=WHOLE_FILE, eval_file=None, eval_size=200, answer_format=TAGS, seed=0)
    assert len(task.evaluation) == 200 and task.verifier is not None
    assert {row.question for row in task.train}.isdisjoint(row.question for row in task.evaluation)
    for row in task.train + task.evaluation:
        reasoning, _, answer = row.columns["solution"].rpartition("####")
        text = f"<reasoning>{reasoning}</reasoning>\n<answer>{answer}</answer>"
        assert task.verifier.verdicts([text], [row.columns])[0].strict
        assert task.verifier.verdicts([row.columns["solution"]], [row.columns])[0].lenient
        wrong = f"<reasoning>{reasoning}</reasoning><answer>{answer}1</answer>"
        assert not task.verifier.verdicts([wrong], [row.columns])[0].lenient
