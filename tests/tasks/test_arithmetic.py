"""Generated arithmetic problems are right, distinct, and never both trained on and evaluated on."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path

import pytest

from grpo.errors import DataError
from grpo.tasks.arithmetic import (
    Problem,
    all_problems,
    reasoned_answer,
    split_problems,
    word_problem,
    word_problems,
)

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_a_problem_is_asked_as_in_the_data_sets_of_the_field():
    problem = Problem(2, "+", 3)
    assert problem.question == "What is 2 + 3? Answer with an integer."
    assert problem.answer == "5"


@pytest.mark.parametrize(("problem", "answer"), [(Problem(3, "-", 12), "-9"), (Problem(12, "*", 12), "144")])
def test_every_operator_gives_the_right_answer(problem, answer):
    assert problem.answer == answer


def test_all_problems_lists_each_problem_once():
    problems = all_problems(12, "+-")
    assert len(problems) == len(set(problems)) == 2 * 13 * 13
    assert Problem(0, "-", 12) in problems


def test_operands_go_to_12_with_plus_and_minus_by_default():
    assert all_problems() == all_problems(12, "+-")
    assert split_problems(None, 4) == split_problems(None, 4, max_operand=12, operators="+-", seed=0)
    assert word_problems(5) == word_problems(5, seed=0)


def test_an_operator_given_twice_counts_once():
    assert all_problems(3, "++") == all_problems(3, "+")


def test_train_and_evaluation_problems_are_distinct_and_never_overlap():
    train, evaluation = split_problems(None, 64, seed=3)
    assert len(evaluation) == 64
    assert len(set(train)) + len(set(evaluation)) == 338
    assert not set(train) & set(evaluation)


def test_the_evaluation_problems_do_not_depend_on_the_training_size():
    assert split_problems(100, 50, seed=1)[1] == split_problems(None, 50, seed=1)[1]


def test_the_seed_decides_the_split():
    assert split_problems(50, 50, seed=1) == split_problems(50, 50, seed=1)
    assert split_problems(50, 50, seed=1) != split_problems(50, 50, seed=2)


@pytest.mark.parametrize(
    "arguments",
    [
        {"train_size": 300, "eval_size": 64},
        {"train_size": -1, "eval_size": 4},
        {"train_size": 1, "eval_size": 1, "operators": "+/"},
        {"train_size": 1, "eval_size": 1, "operators": ""},
        {"train_size": 1, "eval_size": 1, "max_operand": -1},
    ],
)
def test_a_split_that_cannot_be_made_is_refused(arguments):
    with pytest.raises(DataError):
        split_problems(**arguments)


def test_the_refusal_says_how_many_problems_there_are():
    with pytest.raises(DataError, match=r"364 .* give 338"):
        split_problems(300, 64)


def test_a_reasoned_answer_shows_the_sum_and_repeats_its_result():
    for problem in all_problems(5, "+-*"):
        match = re.fullmatch(
            r"<reasoning>(\d+) ([-+*]) (\d+) = (-?\d+)</reasoning>\n<answer>(-?\d+)</answer>", reasoned_answer(problem)
        )
        assert match
        assert (int(match[1]), match[2], int(match[3])) == (problem.left, problem.operator, problem.right)
        assert match[4] == match[5] == problem.answer


def test_stories_are_distinct_and_reproducible():
    stories = word_problems(500, seed=5)
    assert len({story.question for story in stories}) == 500
    assert word_problems(100, seed=5) == stories[:100]


def test_problems_and_stories_of_a_seed_are_the_same_on_every_machine():
    train, evaluation = split_problems(3, 3, seed=0)
    assert [problem.expression for problem in train] == ["0 - 7", "7 + 1", "10 - 12"]
    assert [problem.expression for problem in evaluation] == ["5 - 12", "12 - 9", "7 - 8"]
    assert [(story.question, story.answer) for story in word_problems(3, seed=1)] == [
        ("Iris sold 19 stickers in April and 3 in May. How many stickers did Iris sell altogether?", "22"),
        ("David has 13 toys and gives 7 to Paul. How many toys are left?", "6"),
        ("Olga needs 20 stickers and already has 1. How many more stickers does Olga need?", "19"),
    ]


def test_stories_have_operands_from_the_ranges_they_promise():
    problems = [story.problem for story in word_problems(3000)]
    products = [problem for problem in problems if problem.operator == "*"]
    sums = [problem for problem in problems if problem.operator != "*"]
    assert {problem.left for problem in products} == {problem.right for problem in products} == set(range(2, 11))
    assert {problem.left for problem in sums} == {problem.right for problem in sums} == set(range(1, 21))
    # Each operator comes as often as it stands among "++--*".
    assert len(products) / len(problems) == pytest.approx(0.2, abs=0.03)


def test_a_split_may_take_every_problem_and_not_one_more():
    train, evaluation = split_problems(6, 2, max_operand=1)
    assert len({*train, *evaluation}) == 8
    with pytest.raises(DataError, match=r"^9 arithmetic problems .* operands 0 to 1 with '\+-' give 8"):
        split_problems(7, 2, max_operand=1)
    assert split_problems(0, 0) == ([], [])


def test_a_largest_operand_below_zero_is_refused_by_name():
    assert all_problems(0, "+") == [Problem(0, "+", 0)]
    with pytest.raises(DataError, match=r"max_operand -1: use 0 or more"):
        all_problems(-1)
    for sizes in ((None, -1), (-1, 0)):
        with pytest.raises(DataError, match="use 0 or more"):
            split_problems(*sizes)


def test_a_story_names_both_numbers_and_asks_for_a_result_that_is_not_negative():
    rng = random.Random(0)
    for _ in range(500):
        story = word_problem(rng)
        numbers = [int(number) for number in re.findall(r"\d+", story.question)]
        assert numbers == [story.problem.left, story.problem.right]
        assert int(story.answer) >= 0
        assert story.question.endswith("?")
        assert "{" not in story.question


def test_the_example_files_hold_right_answers_and_do_not_overlap():
    questions = {problem.question: problem.answer for problem in all_problems(12, "+-")}
    prompts = {}
    for name in ("train", "eval"):
        lines = (EXAMPLES / f"arithmetic_{name}.jsonl").read_text(encoding="utf-8").splitlines()
        rows = [json.loads(line) for line in lines]
        assert all(row == {"prompt": row["prompt"], "answer": questions[row["prompt"]]} for row in rows)
        prompts[name] = {row["prompt"] for row in rows}
        assert len(prompts[name]) == len(rows)
    assert len(prompts["train"]) == 200
    assert len(prompts["eval"]) == 64
    assert not prompts["train"] & prompts["eval"]


def test_the_sample_prompts_are_chats_with_integer_answers():
    lines = (EXAMPLES / "sample_prompts.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    assert len(rows) >= 10
    for row in rows:
        assert row["prompt"][-1]["role"] == "user"
        assert all(set(message) == {"role", "content"} for message in row["prompt"])
        assert row["answer"] == str(int(row["answer"]))
