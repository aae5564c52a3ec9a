"""Train and evaluation rows never ask the same, and the judge compares with the column `answer`."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from decimal import Decimal
from pathlib import Path

import numpy
import pytest

from grpo.errors import DataError
from grpo.tasks.answers import FORMATS
from grpo.tasks.rows import Row, read_rows
from grpo.tasks.task import Task, arithmetic_task, rows_task

PLAIN = FORMATS["plain"]


def task_of(
    train: list[Row], evaluation: list[Row] | None = None, *, eval_size: int | None = None, seed: int = 0
) -> Task:
    return rows_task(train, evaluation, eval_size=eval_size, answer_format=PLAIN, seed=seed)


def sums(count: int) -> list[Row]:
    return read_rows([{"prompt": f"What is {number} + 1?", "answer": str(number + 1)} for number in range(count)])


def questions(rows: list[Row]) -> set[object]:
    return {row.question for row in rows}


def test_held_out_rows_are_taken_from_the_train_rows_by_seed() -> None:
    rows = sums(50)
    task = task_of(rows, eval_size=10)
    assert len(task.evaluation) == 10 and len(task.train) == 40 and task.removed == 0
    assert questions(task.train) | questions(task.evaluation) == questions(rows)
    assert not questions(task.train) & questions(task.evaluation)
    assert task_of(rows, eval_size=10) == task
    assert task_of(rows, eval_size=10, seed=1).evaluation != task.evaluation


def test_rows_keep_their_numbers_and_their_order_when_some_are_held_out() -> None:
    rows = sums(50)
    task = task_of(rows, eval_size=10)
    for part in (task.train, task.evaluation):
        assert part == sorted(part, key=lambda row: row.number)
        assert all(row is rows[row.number] for row in part)


def test_repetitions_of_a_held_out_row_are_not_trained_on() -> None:
    task = task_of(read_rows([f"question {number % 5}" for number in range(50)]), eval_size=2)
    assert len(task.evaluation) == 2 and len(questions(task.evaluation)) == 2
    assert len(task.train) == 30
    assert task.removed == 18, "two of the twenty rows with these questions are evaluated on"
    assert not questions(task.train) & questions(task.evaluation)


def test_train_rows_that_ask_what_evaluation_rows_ask_are_removed_and_counted() -> None:
    train = read_rows(["What is 1 + 1?", "What is 2 + 1?", " What is  1 + 1?", "What is 3 + 1?"])
    chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is 1 + 1?"}]
    task = task_of(train, read_rows([chat]))
    assert [row.prompt for row in task.train] == ["What is 2 + 1?", "What is 3 + 1?"]
    assert task.removed == 2


def test_evaluating_on_fewer_rows_does_not_change_the_train_rows() -> None:
    train, evaluation = sums(30), sums(40)[20:]
    whole, part = task_of(train, evaluation), task_of(train, evaluation, eval_size=5)
    assert len(whole.evaluation) == 20 and len(part.evaluation) == 5
    assert part.train == whole.train and len(part.train) == 20 and part.removed == 10


def test_nothing_is_held_out_unless_asked_for() -> None:
    for eval_size in (None, 0):
        task = task_of(sums(5), eval_size=eval_size)
        assert len(task.train) == 5 and task.evaluation == []


@pytest.mark.parametrize("eval_size", [5, 6])
def test_holding_out_everything_is_refused(eval_size: int) -> None:
    with pytest.raises(DataError, match=rf"eval_size {eval_size}, but there are 5 different prompts"):
        task_of(sums(5), eval_size=eval_size)


def test_evaluation_rows_that_cover_all_train_rows_are_refused() -> None:
    with pytest.raises(DataError, match="no training row of 5 is left"):
        task_of(sums(5), sums(5))


def test_a_negative_size_is_refused() -> None:
    with pytest.raises(DataError, match="eval_size -1: use 0 or more"):
        task_of(sums(5), eval_size=-1)


@pytest.mark.parametrize(
    ("answer", "text", "right"),
    [
        ("5", "2 + 3 = 5", True),
        (5, "5", True),
        (5.0, "5", True),
        (1e-7, "0.0000001", True),
        ("5", "6", False),
        (["5", "five"], "five", True),
        (["five", 5], "2 + 3 = 5", True),
        (["5", None, ""], "5", True),
        (["5", "five"], "6", False),
        (True, "True", True),
        (True, "false", False),
        (False, " false", True),
        (Decimal("5.00"), "5", True),
        (numpy.float32(0.1), "0.1", True),
        (numpy.int64(5), "5", True),
        (numpy.array(["5", "five"], dtype=object), "five", True),
        (("5", "five"), "five", True),
    ],
)
def test_the_judge_compares_with_the_answer_column(answer: object, text: str, right: bool) -> None:
    task = task_of(read_rows([{"prompt": "2 + 3?", "answer": answer}]))
    assert task.verifier is not None
    assert task.verifier.verdicts([text], [task.train[0].columns])[0].strict is right


def test_the_judge_can_be_sent_to_another_process() -> None:
    task = task_of(sums(3))
    assert pickle.loads(pickle.dumps(task.verifier)) == task.verifier


@pytest.mark.parametrize("answer", [None, [], [""], {"tests": []}, [["5"]], " ", float("nan"), float("inf")])
def test_rows_without_an_answer_to_compare_with_have_no_judge(answer: object) -> None:
    assert task_of(read_rows([{"prompt": "2 + 3?", "answer": answer}])).verifier is None


def test_the_evaluation_rows_decide_whether_there_is_a_judge() -> None:
    unanswered = read_rows(["a", "b"])
    assert task_of(unanswered, sums(2)).verifier is not None
    assert task_of(sums(2), unanswered).verifier is None


@pytest.mark.parametrize("answer_format", FORMATS.values(), ids=list(FORMATS))
def test_arithmetic_has_as_many_rows_as_asked_for_and_right_answers(answer_format: object) -> None:
    task = arithmetic_task(
        train_size=60, eval_size=20, max_operand=9, operators="+-", answer_format=answer_format, seed=0
    )
    assert len(task.train) == 60 and len(task.evaluation) == 20 and task.removed == 0
    assert not questions(task.train) & questions(task.evaluation)
    for row in task.train + task.evaluation:
        expression = str(row.prompt).removeprefix("What is ").removesuffix("? Answer with an integer.")
        left, operator, right = expression.split()
        assert row.columns["answer"] == str(int(left) + int(right) * (1 if operator == "+" else -1))


def test_arithmetic_depends_on_its_seed() -> None:
    def rows(seed: int) -> list[Row]:
        return arithmetic_task(
            train_size=None, eval_size=20, max_operand=9, operators="+", answer_format=PLAIN, seed=seed
        ).train

    assert rows(0) == rows(0) != rows(1)
    assert len(rows(0)) == 80


def test_too_few_problems_are_refused() -> None:
    with pytest.raises(DataError, match="lower the sizes or raise max_operand"):
        arithmetic_task(train_size=90, eval_size=20, max_operand=9, operators="+", answer_format=PLAIN, seed=0)


def test_arithmetic_can_be_given_as_json_lines(tmp_path: Path) -> None:
    task = arithmetic_task(train_size=30, eval_size=10, max_operand=9, operators="+-", answer_format=PLAIN, seed=0)
    parts = []
    for name, rows in (("train", task.train), ("eval", task.evaluation)):
        path = tmp_path / f"math_tasks_{name}.jsonl"
        path.write_text(
            "".join(json.dumps({"prompt": row.prompt, "answer": row.columns["answer"]}) + "\n" for row in rows),
            encoding="utf-8",
        )
        parts.append(read_rows(path))
    again = task_of(*parts)
    for written, read in ((task.train, again.train), (task.evaluation, again.evaluation)):
        assert [(row.prompt, row.columns) for row in read] == [(row.prompt, row.columns) for row in written]


def test_importing_the_room_loads_no_heavy_package() -> None:
    script = (
        "import grpo.tasks, sys; print({'torch', 'transformers', 'datasets', 'pyarrow', 'jinja2'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
