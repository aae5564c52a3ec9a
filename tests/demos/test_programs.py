from __future__ import annotations

import pytest

from grpo.demos.programs import KINDS, program_problems
from grpo.errors import DataError, SandboxError
from grpo.rewards.code import UnitTestReward
from grpo.sandbox import check_tests
from grpo.tasks import find_format, program_answers
from grpo.tasks.program_answers import ProgramVerifier, extract_program


def test_reference_programs_pass_every_test_of_every_kind() -> None:
    rows = [row for kind in KINDS for row in program_problems(2, seed=7, kinds=[kind])]
    rewards = UnitTestReward()([f"```python\n{row['answer']}\n```" for row in rows], [row["tests"] for row in rows])
    assert rewards == [1.0] * len(rows)


def test_programs_that_do_nothing_pass_few_tests() -> None:
    rows = program_problems(30, seed=3, kinds=[kind for kind in KINDS if kind != "value"])
    idle = [f"```python\n{row['answer'].splitlines()[0]}\n    return None\n```" for row in rows]
    assert UnitTestReward()(idle, [row["tests"] for row in rows]) == [0.0] * len(rows)


def test_functions_have_several_tests_and_values_one() -> None:
    for row in program_problems(100, seed=1):
        number = check_tests(row["tests"])
        assert number == 1 if "solution" in row["tests"][0] else number >= 3


def test_any_expression_with_the_right_value_solves_a_value_problem() -> None:
    (row,) = program_problems(1, seed=2, kinds=["value"])
    total = int(row["answer"])
    given = [f"<answer>{total}</answer>", f"{total - 1} + 1", f"sum([{total}])", f"{total} + 1", "<answer></answer>"]
    assert UnitTestReward()(given, [row["tests"]] * 5) == [1.0, 1.0, 1.0, 0.0, 0.0]


def test_problems_are_different_and_a_longer_list_starts_with_the_shorter_one() -> None:
    rows = program_problems(300, seed=5)
    assert len({row["prompt"] for row in rows}) == 300
    assert program_problems(20, seed=5) == rows[:20]
    assert program_problems(20, seed=6) != rows[:20]
    values = sum("Write" not in row["prompt"] for row in rows)
    assert 100 < values < 200


@pytest.mark.parametrize(
    ("count", "options"),
    [(1000, {"kinds": ["value"]}), (1, {"kinds": ["poem"]}), (1, {"kinds": []}), (1, {"max_operand": -1})],
)
def test_problems_that_there_are_not_are_refused(count: int, options: dict) -> None:
    with pytest.raises(DataError):
        program_problems(count, **options)


@pytest.mark.parametrize(
    ("text", "program"),
    [
        ("7 + 5", "7 + 5"),
        ("<reasoning>7 + 4</reasoning>\n<answer>7 + 5</answer>", "7 + 5"),
        ("<answer>7 + 5", "7 + 5"),
        ("<answer>1</answer> or <answer>2</answer>", "2"),
        ("<answer>7 + 5</answer>\n<reasoning>7 + 4</reasoning>", "7 + 5"),
        ("<think>```python\n1\n```</think>2", "2"),
        ("it began before</think>2", "2"),
        ("a <think>b</think> c <think>d</think> e", "a  c  e"),
        ("```python\nx = 1\n```\nor\n```python\nx = 2\n```", "x = 2"),
        ("```python\nx = 1\n```\nwhich prints\n```\n1\n```", "x = 1"),
        ("```\nx = 1\n```", "x = 1"),
        ("```x = 1```", "x = 1"),
        ("```Python \nx = 1", "x = 1"),
        ("<answer>\n```py\ndef f():\n    return 1\n```\n</answer>", "def f():\n    return 1"),
        ("<answer>\n    def f():\n        return 1\n</answer>", "def f():\n    return 1"),
        ("", ""),
        ("<answer>  </answer>", ""),
        ("```python\n```", ""),
    ],
)
def test_the_program_is_found_in_a_completion(text: str, program: str) -> None:
    assert extract_program(text) == program


def test_the_program_is_found_among_a_hundred_thousand_marks() -> None:
    assert extract_program("<think></think>" * 100_000 + "7") == "7"
    assert extract_program("```" * 100_001 + "python\n7") == "7"


def test_the_judge_runs_the_tests() -> None:
    verifier = ProgramVerifier(find_format("answer_tags"))
    (row,) = program_problems(1, seed=2, kinds=["add"])
    right = verifier.verdicts([f"<reasoning>easy</reasoning><answer>{row['answer']}</answer>"], [row])[0]
    assert (right.strict, right.lenient, right.well_formed, right.answer) == (True, True, True, row["answer"])
    bare = verifier.verdicts([row["answer"]], [row])[0]
    assert (bare.strict, bare.lenient, bare.well_formed) == (False, True, False)
    wrong = verifier.verdicts(["<reasoning>easy</reasoning><answer>def f(): pass</answer>"], [row])[0]
    assert (wrong.strict, wrong.lenient, wrong.well_formed) == (False, False, True)
    assert verifier.verdicts([""], [row])[0].answer is None
    assert not verifier.verdicts(["7"], [{"tests": ["assert ("]}])[0].lenient


def test_one_program_that_cannot_be_tested_does_not_end_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    from grpo.sandbox.unit_tests import tester

    def broken(program: str, *_: object, **__: object) -> None:
        raise SandboxError("no")

    monkeypatch.setattr(tester, "run_tests", broken)
    verifier = ProgramVerifier(find_format("answer_tags"))
    assert not verifier.verdicts(["7"], [{"tests": ["assert solution == 7"]}])[0].lenient
    monkeypatch.setattr(program_answers, "run_program", broken)
    with pytest.raises(SandboxError):
        verifier.verdicts(["7"], [{"tests": ["assert solution == 7"]}])[0]
