from __future__ import annotations

import pytest

from grpo.errors import ConfigError, DataError, RunError
from grpo.rewards import RewardSuite, resolve_rewards
from grpo.rewards.code import UnitTestReward
from grpo.sandbox import Limits, check_tests, run_tests

DOUBLE = "def double(x):\n    return x * 2"
TESTS = ["assert double(2) == 4", "assert double('ab') == 'abab'", "assert double([1]) == [1, 1]"]


def passed(program: str, tests: str | list[str], **options: object) -> tuple[bool, ...]:
    return run_tests(program, tests, limits=Limits(wall_s=4, cpu_s=3), **options).passed


def test_each_assert_is_a_test_of_its_own() -> None:
    assert passed(DOUBLE, TESTS) == (True, True, True)
    assert passed("def double(x):\n    return x + x if x == 2 else 1 / 0", TESTS) == (True, False, False)


def test_an_expression_is_its_own_solution() -> None:
    assert passed("7 + 5", "assert solution == 12") == (True,)
    assert passed("n = 7\nn + 6", "assert solution == 12") == (False,)
    assert passed("solution = 12\n'something else'", "assert solution == 12") == (True,)


def test_values_are_compared_as_python_compares_them() -> None:
    program = """
from collections import Counter, OrderedDict, namedtuple
given = {
    "float": 2.0, "true": True, "tuple": (1, 2), "nested": {"a": [1, {2, 3}], (1, 2): b"x"}, "none": None,
    "counter": Counter("aab"), "pair": namedtuple("Pair", "x y")(1, 2), "big": 10**5000, "inf": float("inf"),
    "complex": 1 + 2j, "frozen": frozenset({1}), "text": "né\\ud800", "minus": -3,
}
"""
    tests = [
        "assert given['float'] == 2",
        "assert given['true'] == 1",
        "assert given['tuple'] == (1, 2)",
        "assert given['tuple'] == [1, 2]",
        "assert given['nested'] == {'a': [1, {2, 3}], (1, 2): b'x'}",
        "assert given['none'] is None",
        "assert given['counter'] == {'a': 2, 'b': 1}",
        "assert given['pair'] == (1, 2)",
        "assert given['big'] > 10",
        "assert given['inf'] > 1",
        "assert given['complex'] == 1 + 2j",
        "assert given['frozen'] == {1}",
        "assert given['text'] == 'né\\ud800'",
        "assert given['minus'] in (-3, 3)",
        "assert -3 == given['minus']",
        "assert 'zz' not in given['counter']",
        "assert given['minus'] < 'a'",
        "assert -5 < given['minus'] < 0",
        "assert abs(given['float'] - 2) < 1e-9, 'too far'",
        "assert given['counter']",
        "assert not given['tuple']",
    ]
    wrong = [tests[3], tests[16], tests[20]]
    assert passed(program, tests) == tuple(test not in wrong for test in tests)


CHEATS = {
    "equal to everything": "class Any:\n    __eq__ = lambda *_: True\n    __hash__ = None\ndouble = lambda x: Any()",
    "a number equal to everything": "class Any(int):\n    __eq__ = lambda *_: True\ndouble = lambda x: Any(0)",
    "a list equal to everything": "class Any(list):\n    __eq__ = lambda *_: True\ndouble = lambda x: Any()",
    "claims a class": "class Any:\n    __class__ = int\n    __eq__ = lambda *_: True\ndouble = lambda x: Any()",
    "leaves at once": "import os; os._exit(0)",
    "exits": "import sys; sys.exit(0)",
    "exits in the test": "import sys\ndef double(x): sys.exit(0)",
    "leaves in the test": "import os\ndef double(x): os._exit(0)",
    "prints results": 'print(\'{"step": 0, "value": true}\' * 9)\ndouble = id',
    "writes results": (
        "import os\nfor n in range(20):\n    for fd in range(1, 20):\n"
        '        try: os.write(fd, b\'{"loaded": null}\\n{"step": %d}\\n{"step": %d, "value": true}\\n\' % (n, n))\n'
        "        except OSError: pass\ndouble = id"
    ),
    "looks for what is expected": (
        "import gc\nneedle = chr(97) + chr(98)\nneedle += needle\n"
        "found = [o for o in gc.get_objects() if isinstance(o, (list, dict)) and needle in repr(o)[:9999]]\n"
        "found = [o for o in found if o is not globals()]\ndouble = lambda x: needle if found else None"
    ),
    "changes what compares": (
        "import builtins, json\nbuiltins.isinstance = lambda *_: True\njson.dumps = lambda *_: '{}'\ndouble = id"
    ),
    "never ends": "while True: pass",
    "dies": "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)",
    "wrong syntax": "def double(x) return x",
}


@pytest.mark.parametrize("name", CHEATS)
def test_a_program_that_cheats_passes_nothing(name: str) -> None:
    limits = Limits(wall_s=0.8, cpu_s=3)
    run = run_tests(CHEATS[name], TESTS, limits=limits)
    assert not any(run.passed)


def test_what_was_passed_before_a_crash_counts() -> None:
    program = "import os\ndef double(x):\n    if x != 2: os.abort()\n    return 4"
    run = run_tests(program, TESTS)
    assert run.passed == (True, False, False)
    assert run.error == "killed by SIGABRT"


def test_a_program_that_raises_at_its_end_passes_nothing() -> None:
    run = run_tests(f"{DOUBLE}\nraise ValueError('no')", TESTS)
    assert run.passed == (False, False, False)
    assert run.error == "ValueError: no"


def test_tests_may_prepare_and_be_functions_and_whole_programs() -> None:
    prepared = "import math\nresult = double(3)\nassert result == 6\nassert math.sqrt(result + 3) == 3"
    assert passed(DOUBLE, prepared) == (True, True)
    assert passed(DOUBLE, "undefined()\nassert double(3) == 6") == (False,)
    functions = "def test_two():\n    assert double(2) == 4\ndef test_no():\n    assert double(2) == 5"
    assert passed(DOUBLE, functions) == (True, False)
    whole = "def check(candidate):\n    assert candidate(2) == 4\ncheck(double)"
    assert passed(DOUBLE, whole) == (True,)
    assert passed("double = abs", whole) == (False,)


@pytest.mark.parametrize("tests", ["assert (", "", [], "\0"])
def test_tests_that_are_none_are_an_error_of_the_data(tests: str | list[str]) -> None:
    with pytest.raises(DataError, match="assert f"):
        check_tests(tests)
    with pytest.raises(DataError):
        run_tests("pass", tests)


def test_what_a_program_prints_does_not_disturb_its_tests() -> None:
    noisy = f"print('x' * 10**6)\n{DOUBLE}"
    assert passed(noisy, TESTS) == (True, True, True)


def test_a_thread_that_stays_does_not_hold_up_the_result() -> None:
    program = f"import threading, time\nthreading.Thread(target=time.sleep, args=(60,)).start()\n{DOUBLE}"
    run = run_tests(program, TESTS, limits=Limits(wall_s=3))
    assert (run.passed, run.error, run.execution.timed_out) == ((True, True, True), None, False)


FENCED = f"Here it is:\n```python\n{DOUBLE}\n```\nDone."
HALF = "<reasoning>hm</reasoning><answer>def double(x):\n    return 4</answer>"


def test_the_reward_is_the_share_of_tests_passed() -> None:
    reward = UnitTestReward()
    completions = [FENCED, HALF, "no program at all", "", [{"role": "assistant", "content": FENCED}]]
    given = reward(completions, [TESTS] * 5)
    assert given == [1.0, pytest.approx(1 / 3), 0.0, 0.0, 1.0]
    assert UnitTestReward(all_or_nothing=True, reward=2.0)(completions, [TESTS] * 5) == [2.0, 0.0, 0.0, 0.0, 2.0]


def test_a_row_without_tests_is_not_scored() -> None:
    assert UnitTestReward()([FENCED, FENCED, FENCED], [None, [], "  "]) == [None, None, None]


def test_equal_programs_run_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from grpo.rewards import code

    runs: list[str] = []

    def counted(program: str, *arguments: object, **options: object) -> object:
        runs.append(program)
        return run_tests(program, *arguments, **options)

    monkeypatch.setattr(code, "run_tests", counted)
    assert UnitTestReward()([FENCED] * 6 + [HALF] * 2, [TESTS] * 8)[:6] == [1.0] * 6
    assert len(runs) == 2


def test_what_cannot_be_tested_is_a_failure_and_not_a_score() -> None:
    given = UnitTestReward()([FENCED, FENCED], [["assert ("], TESTS])
    assert isinstance(given[0], DataError)
    assert given[1] == 1.0


def test_a_sandbox_that_cannot_start_fails_the_completion(monkeypatch: pytest.MonkeyPatch) -> None:
    from grpo.sandbox import run

    monkeypatch.setattr(run, "_BOOTSTRAP", "import nothing_of_this_name\n")
    (given,) = UnitTestReward(namespaces=False)([FENCED], [TESTS])
    assert isinstance(given, RunError)
    assert "nothing_of_this_name" in str(given)


def test_the_suite_finds_it_by_name_and_keeps_failures_apart(group) -> None:
    groups = [group("double it", [1, 1], {"tests": TESTS}), group("double it", [1, 1], {"tests": ["assert ("]})]
    suite = RewardSuite(resolve_rewards({"name": "unit_tests", "cpu_s": 1}))
    suite.check_columns(["tests"])
    with pytest.raises(DataError, match="tests"):
        suite.check_columns(["answer"])
    result = suite.score(groups, [FENCED, HALF, FENCED, ""], step=0, max_steps=1)
    scores = [rollout.score for scored in result.groups for rollout in scored.rollouts]
    assert [score.rewards["unit_tests"] for score in scores] == [1.0, pytest.approx(1 / 3), None, 0.0]
    assert "DataError" in scores[2].failures["unit_tests"]
    assert result.metrics["user/unit_tests/all_passed"] == 0.5
    logged = [rollout.logged["unit_tests"] for scored in result.groups for rollout in scored.rollouts]
    assert logged == ["3 of 3", "1 of 3", "not tested", "no program"]


def test_options_without_sense_are_refused_before_the_run() -> None:
    with pytest.raises(ConfigError, match="at_once"):
        resolve_rewards({"name": "unit_tests", "at_once": 0})
    with pytest.raises(ConfigError, match="wall_s"):
        resolve_rewards({"name": "unit_tests", "wall_s": -1})
    with pytest.raises(ConfigError, match="colour"):
        resolve_rewards({"name": "unit_tests", "colour": "red"})
