from __future__ import annotations

import pickle
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml

from grpo import recipes
from grpo.errors import ConfigError, DataError, RunError
from grpo.rewards import RewardSuite, resolve_rewards
from grpo.rewards.code import UnitTestReward, verifier_as_rewarded
from grpo.sandbox import Case, Limits, Tester, TestRun, check_tests, run_tests
from grpo.tasks import AnswerVerifier, find_format
from grpo.tasks.program_answers import ProgramVerifier

DOUBLE = "def double(x):\n    return x * 2"
TESTS = ["assert double(2) == 4", "assert double('ab') == 'abab'", "assert double([1]) == [1, 1]"]

LIMITS = Limits(wall_s=30, cpu_s=3)


def passed(program: str, tests: str | list[str], **options: object) -> tuple[bool, ...]:
    return run_tests(program, tests, limits=LIMITS, **options).passed


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
        "found = [o for o in gc.get_objects() if isinstance(o, (list, dict)) and repr(needle) in repr(o)[:9999]]\n"
        "found = [o for o in found if o is not globals()]\ndouble = lambda x: needle if found else None"
    ),
    "changes what compares": (
        "import builtins, json\nbuiltins.isinstance = lambda *_: True\njson.dumps = lambda *_: '{}'\ndouble = id"
    ),
    "never ends": "while True: pass",
    "dies": "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)",
    "wrong syntax": "def double(x) return x",
}


ENDINGS = {
    "leaves at once": "ended with exit code 0",
    "exits": "SystemExit: 0",
    "leaves in the test": "ended with exit code 0",
    "changes what compares": "ended with exit code 0",
    "never ends": "killed by cpu time",
    "dies": "killed by SIGKILL",
    "wrong syntax": "SyntaxError: ",
}
"""What keeps some of them from being tested to the end; the others are."""


@pytest.mark.parametrize("name", CHEATS)
def test_a_program_that_cheats_passes_nothing(name: str) -> None:
    limits = Limits(wall_s=30, cpu_s=2)
    run = run_tests(CHEATS[name], TESTS, limits=limits)
    assert not any(run.passed)
    if name in ENDINGS:
        assert (run.error or "").startswith(ENDINGS[name])
    else:
        assert run.error is None
    assert (run.execution.killed_by or "") == ENDINGS.get(name, "").partition("killed by ")[2]
    assert run_tests(DOUBLE, TESTS, limits=limits).passed == (True, True, True)  # what is honest has time enough


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
    assert passed(DOUBLE, "double(2)") == (True,)
    functions = "def test_two():\n    assert double(2) == 4\ndef test_no():\n    assert double(2) == 5"
    assert passed(DOUBLE, functions) == (True, False)
    whole = "def check(candidate):\n    assert candidate(2) == 4\ncheck(double)"
    assert passed(DOUBLE, whole) == (True,)
    assert passed("double = abs", whole) == (False,)


NO_TESTS = [
    "import math",
    "x = double(2)",
    "assert True",
    "print(double(2))",
    "def test_a(n):\n    assert double(n) == 2 * n",
    "def test_a(n):\n    assert double(n) == 2 * n\nassert double(2) == 4",
    "def check(candidate):\n    assert candidate(2) == 4",
    "def check(a, b):\n    assert a(2) == 4",
    "def helper():\n    assert double(2) == 4",
    "class TestDouble:\n    def test(self, fixture):\n        assert double(2) == 4",
    "class TestDouble:\n    def setup_method(self): self.x = 2\n    def test(self): assert double(self.x) == 4",
    "import unittest\nclass Double(unittest.TestCase):\n    def setUp(self): pass\nunittest.main()",
    "if __name__ == '__main__':\n    unittest.main()",
    "for x in range(3): double(x)",
    "def test_a(): return double(2) == 4",
    "def check(candidate): return candidate(2) == 4\nassert double(2) == 4\ndef test_a(): pass",
    "import unittest\nclass Double(unittest.TestCase):\n    def test_it(self): double(2) == 4",
]


@pytest.mark.parametrize("tests", NO_TESTS)
def test_tests_that_test_nothing_are_refused_and_the_form_wanted_is_named(tests: str) -> None:
    with pytest.raises(DataError, match=r"assert f.*unittest\.TestCase.*entry_point"):
        check_tests(tests)
    with pytest.raises(DataError, match="row 2"):
        UnitTestReward().check_rows([{"tests": TESTS}, {"tests": tests}])


CHECK = "METADATA = {}\n\ndef check(candidate):\n    'What it does.'\n    assert True, 'fine'\n"
HUMAN_EVAL = f"{CHECK}    assert candidate(2) == 4\n    assert abs(candidate(1.5) - 3) < 1e-6, 'no'\n"
IN_A_LOOP = f"{CHECK}    for x in range(3):\n        assert candidate(x) == 2 * x\n    assert candidate('a') == 'aa'\n"


def test_a_check_of_a_candidate_is_called_with_the_entry_point() -> None:
    assert passed(DOUBLE, HUMAN_EVAL, entry_point="double") == (True, True)
    assert passed("def double(x): return 4", HUMAN_EVAL, entry_point="double") == (True, False)
    assert passed(CHEATS["equal to everything"], HUMAN_EVAL, entry_point="double") == (False, False)
    assert passed(DOUBLE, IN_A_LOOP, entry_point="double") == (True,)
    assert passed("def double(x): return 2 * x if x != 'a' else ''", IN_A_LOOP, entry_point="double") == (False,)
    with pytest.raises(DataError, match="entry_point"):
        check_tests(HUMAN_EVAL, "double; print()")
    completions, tests = [FENCED, "def double(x): return 4"], [HUMAN_EVAL] * 2
    assert UnitTestReward()(completions, tests, entry_point=["double"] * 2) == [1.0, 0.5]


CASES = """
import unittest
class Prepared(unittest.TestCase):
    @classmethod
    def setUpClass(cls): cls.two = 2
class TestDouble(Prepared):
    def setUp(self): self.four = 4
    def test_number(self): self.assertEqual(double(self.two), self.four)
    def test_text(self): self.assertEqual(double("a"), "aa")
    def test_error(self):
        with self.assertRaises(TypeError): double(None)
class TestPlain:
    def test_it(self): assert double(3) == 6
if __name__ == "__main__":
    unittest.main()
"""


def test_each_method_of_a_class_of_tests_is_a_test() -> None:
    assert passed(DOUBLE, CASES) == (True, True, True, True)
    assert passed("def double(x): return x + x if x != 'a' else ''", CASES) == (True, False, True, True)
    skips = "import unittest\ndef double(x): raise unittest.SkipTest('no')"
    assert passed(skips, CASES) == (False, False, False, False)


def test_every_statement_that_asserts_is_a_test_wherever_it_stands() -> None:
    tests = """
def same(x, y): assert double(x) == y
assert double(1) == 2
for x in range(3): assert double(x) == 2 * x
if double(2):
    assert double(2) == 4
same(3, 6)
with open(__import__("os").devnull):
    assert double(5) == 10
try:
    double(None)
except TypeError: pass
else: raise AssertionError("no error")
double("later")
"""
    assert passed(DOUBLE, tests) == (True,) * 7
    assert passed("def double(x): return {1: 2}.get(x, 0)", tests) == (True, False, True, False, False, False, True)
    late = "assert double(1) == 2\nfor x in range(3): assert double(x) == 2 * x"
    assert passed("def double(x): return 2", late) == (True, False)


def test_what_stands_under_main_is_tested_and_a_coroutine_awaited() -> None:
    tests = "async def test_it():\n    assert double(2) == 4\nif __name__ == '__main__':\n    assert double(3) == 6"
    assert passed(DOUBLE, tests) == (True, True)
    assert passed("def double(x): return 0", tests) == (False, False)


UNUSUAL = """
from collections import deque
from decimal import Decimal
from fractions import Fraction
from itertools import count
from types import MappingProxyType
class Ring:
    def __iter__(self): return iter((1, 2))
given = {
    "dict": {"a": 1, "b": 2}, "range": range(5), "deque": deque([1, 2]), "half": Fraction(7, 2),
    "decimal": Decimal("0.5"), "long": list(range(10000)), "text": "x" * 30_000, "ring": Ring(),
    "proxy": MappingProxyType({"a": 1}), "few": (n for n in (1, 2, 3)),
}
"""
UNUSUAL_TESTS = [
    "assert 'a' in given['dict'].keys()",
    "assert 1 in given['dict'].values()",
    "assert ('b', 2) in given['dict'].items()",
    "assert given['dict'].keys() == {'a', 'b'}",
    "assert 3 in given['range']",
    "assert 5 not in given['range']",
    "assert 2 in given['deque']",
    "assert given['half'] == 3.5",
    "assert given['decimal'] == 0.5",
    "assert 99 in given['long']",
    "assert given['text'] != 'y'",
    "assert 1 in given['ring']",
    "assert given['proxy'] == {'a': 1}",
    "assert 2 in given['few']",
    "assert 'a' in {'a': 1}.keys() | given['dict'].keys()",
]


def test_right_values_of_unusual_types_are_right() -> None:
    assert passed(UNUSUAL, UNUSUAL_TESTS) == (True,) * len(UNUSUAL_TESTS)
    wrong = ["assert 'c' in given['dict'].keys()", "assert given['deque'] == [1, 2]", "assert given['ring'] == [1, 2]"]
    assert passed(UNUSUAL, wrong) == (False, False, False)


NEAR = [
    "assert abs(double(1.5) - 3) < 1e-6",
    "assert abs(4 - double(2)) <= 0.1",
    "assert round(double(1.234), 1) == 2.5",
    "assert 1e-6 > abs(double(0) - 0)",
    "import math\nassert math.isclose(double(2), 4.0, rel_tol=1e-9)",
    "assert 3 < double(2) < 5",
]


def test_values_that_are_near_are_compared_outside() -> None:
    assert passed(DOUBLE, NEAR) == (True,) * 6
    assert passed("def double(x): return x * 2.1", NEAR) == (False, False, False, True, False, True)
    fits_all = """
class Any(float):
    __sub__ = __rsub__ = __abs__ = __round__ = lambda *_: Any(0)
    __lt__ = __gt__ = __le__ = __ge__ = __eq__ = lambda *_: True
    __hash__ = None
double = lambda x: Any(1e9)
"""
    assert passed(fits_all, NEAR) == (False,) * 6


TRUTHS = ["assert f() is True", "assert f() is not True", "assert f() == True", "assert f()", "assert not f()"]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("True", (True, False, True, True, False)),
        ("1", (False, True, True, True, False)),
        ("'yes'", (False, True, False, True, False)),
        ("False", (False, True, False, False, True)),
        ("None", (False, True, False, False, True)),
    ],
)
def test_identity_with_true_is_more_than_being_true(value: str, expected: tuple[bool, ...]) -> None:
    assert passed(f"def f(): return {value}", TRUTHS) == expected


def test_an_assert_of_what_is_never_true_is_never_passed() -> None:
    never = ["assert False", "assert 0", "assert ''", "assert None"]
    assert passed("def f(): return 1", [*never, "assert f() == 1"]) == (False,) * 4 + (True,)


CLOSE = [
    "import math\nassert math.isclose(4.0, f(2))",
    "import math\nassert math.isclose(f(2), 4.0)",
    "from math import isclose\nassert isclose(4.1, f(2), abs_tol=0.2)",
    "from math import isclose\nassert isclose(f(2), 4.1)",
    "from math import isclose\nassert isclose(f(2), f(2))",
]


def test_closeness_is_judged_from_both_sides_and_within_the_tolerance_that_is_given() -> None:
    assert passed("def f(x): return 2.0 * x", CLOSE) == (True, True, True, False, True)
    assert passed("def f(x): return 2.5 * x", CLOSE) == (False, False, False, False, True)


def test_what_a_program_makes_of_built_in_functions_does_not_change_its_tests() -> None:
    redefined = """
def round(value, digits=0): return 3.14
def abs(value): return 0
def f(x): return 1000.0 * x
"""
    tests = ["assert round(f(2), 2) == 3.14", "assert abs(f(2) - 4) < 1e-6", "assert round(f(2), 2) == 2000.0"]
    assert passed(redefined, tests) == (False, False, True)


def test_a_value_that_would_take_long_to_compare_fails() -> None:
    program = "from decimal import Decimal\ngiven = [Decimal('1e999999999'), range(10**15), iter(int, 1)]"
    tests = ["assert round(given[0], 2) == 1", "assert 'a' in given[1]", "assert 5 in given[2]"]
    assert passed(program, tests) == (False, False, False)


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
    run = run_tests(program, TESTS, limits=LIMITS)
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
    from grpo.sandbox.unit_tests import tester

    runs: list[str] = []

    def counted(program: str, *arguments: object, **options: object) -> object:
        runs.append(program)
        return run_tests(program, *arguments, **options)

    monkeypatch.setattr(tester, "run_tests", counted)
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


SLEEPER = "```python\nimport time\ntime.sleep({})\ndef double(x): return x * 2\n```"


def test_at_its_deadline_a_call_fails_what_is_not_tested_and_leaves_nothing_running() -> None:
    reward = UnitTestReward(wall_s=60, at_once=1, deadline_s=4.0)
    completions = [FENCED, SLEEPER.format(60), *(SLEEPER.format(number) for number in range(61, 70))]
    given = reward(completions, [TESTS] * len(completions))
    assert given[0] == 1.0
    assert all(isinstance(one, TimeoutError) for one in given[1:])
    assert reward([HALF], [TESTS]) == [pytest.approx(1 / 3)]  # before its deadline: no sleeper is before it


def test_programs_of_all_calls_together_are_never_more_than_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from grpo.sandbox.unit_tests import tester

    running, most, lock = 0, 0, threading.Lock()

    def counted(*arguments: object, **options: object) -> object:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.05)
        with lock:
            running -= 1
        return run_tests(*arguments, **options)

    monkeypatch.setattr(tester, "run_tests", counted)
    reward = UnitTestReward(at_once=2)
    texts = [[f"def double(x): return x * {call * 4 + number}" for number in range(4)] for call in range(3)]
    with ThreadPoolExecutor(3) as pool:
        given = list(pool.map(lambda several: reward(several, [TESTS] * 4), texts))
    assert most == 2
    assert [value for values in given for value in values].count(1.0) == 1


def test_a_group_of_programs_that_never_end_scores_nothing_within_the_time_of_the_recipe() -> None:
    recipe = yaml.safe_load(Path(recipes.__file__).with_name("code.yaml").read_text(encoding="utf-8"))
    (options,) = (one for one in recipe["rewards"] if one != "strict_format")
    (function,) = resolve_rewards(options)
    assert function.overlap
    limits, deadline_s = function.function.tester.limits, function.function.deadline_s
    on_one_core_s = recipe["rollout"]["group_size"] * max(limits.wall_s, limits.cpu_seconds)
    assert on_one_core_s < deadline_s < 60
    assert recipe["rollout"]["prompts_per_step"] * recipe["rollout"]["group_size"] * limits.cpu_seconds <= 64


def test_a_reward_can_be_sent_to_another_process() -> None:
    reward = pickle.loads(pickle.dumps(UnitTestReward(cpu_s=1, at_once=3)))
    assert (reward.tester.limits.cpu_s, reward.tester.at_once) == (1, 3)
    assert reward([FENCED], [TESTS]) == [1.0]


def test_a_judge_with_a_rewards_options_knows_what_that_found(monkeypatch: pytest.MonkeyPatch) -> None:
    from grpo.sandbox.unit_tests import tester

    reward = UnitTestReward(packages=True, memory_mb=300)
    functions = resolve_rewards(["strict_format", reward])
    verifier = verifier_as_rewarded(ProgramVerifier(find_format("answer_tags")), functions)
    assert isinstance(verifier, ProgramVerifier)
    assert verifier.tester is reward.tester
    of_answers = AnswerVerifier(find_format("answer_tags"))
    assert verifier_as_rewarded(of_answers, functions) is of_answers
    assert verifier_as_rewarded(None, functions) is None
    reward([FENCED, HALF], [TESTS] * 2)
    tested: list[str] = []

    def noted(program: str, *arguments: object, **options: object) -> object:
        tested.append(program)
        return run_tests(program, *arguments, **options)

    monkeypatch.setattr(tester, "run_tests", noted)
    verdicts = verifier.verdicts([FENCED, HALF, "other"], [{"tests": TESTS}] * 3)
    assert [verdict.lenient for verdict in verdicts] == [True, False, False]
    assert tested == ["other"]


def test_an_interpreter_that_says_nothing_is_reported_with_its_exit_code(tmp_path: Path) -> None:
    silent = tmp_path / "python"
    silent.write_text('#!/bin/sh\ncase "$*" in *base_prefix*) echo \'["/usr", "/usr", "/usr"]\';; *) exit 3;; esac\n')
    silent.chmod(0o755)
    with pytest.raises(RunError, match=r"does not run in the sandbox: ended with exit code \d+: see `grpo doctor"):
        run_tests(FENCED, TESTS, python=str(silent), namespaces=False)


def test_results_are_kept_and_reused_only_where_that_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    tester, tested = Tester(), []
    run = tester._run

    def noted(case: Case, deadline: float | None) -> object:
        tested.append(case)
        return run(case, deadline)

    monkeypatch.setattr(tester, "_run", noted)
    case = Case("def double(x):\n    return 2 * x", "assert double(2) == 4")
    for known, count in ((False, 1), (False, 2), (True, 2)):
        assert isinstance(tester.run_all([case], known=known)[case], TestRun)
        assert len(tested) == count


def test_namespaces_that_the_system_refuses_are_an_error_only_where_they_are_demanded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[bool] = []

    def refused() -> str:
        asked.append(True)
        return "the kernel refuses them"

    monkeypatch.setattr("grpo.rewards.code.namespaces_refused", refused)
    with pytest.raises(ConfigError, match="namespaces=true, but the kernel refuses them: see `grpo doctor"):
        UnitTestReward(namespaces=True)
    UnitTestReward(namespaces=None)
    assert len(asked) == 2
    UnitTestReward(namespaces=False)
    assert len(asked) == 2


def test_amounts_just_inside_their_limits_are_taken() -> None:
    resolve_rewards({"name": "unit_tests", "deadline_s": 0.01, "at_once": 1, "memory_mb": 48, "wall_s": 0.1})


def test_an_interpreter_that_dies_before_the_program_is_a_failure_and_not_a_score(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from grpo.sandbox import run

    monkeypatch.setitem(run._ENVIRONMENT, "PYTHONHOME", "/nowhere")
    (given,) = UnitTestReward(namespaces=False)([FENCED], [TESTS])
    assert isinstance(given, RunError)
    assert "does not run in the sandbox" in str(given)


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
    for name, value in (
        ("at_once", 0),
        ("at_once", 1.5),
        ("at_once", True),
        ("reward", float("nan")),
        ("deadline_s", 0),
    ):
        with pytest.raises(ConfigError, match=name):
            resolve_rewards({"name": "unit_tests", name: value})
    with pytest.raises(ConfigError, match=r"memory_mb.*from 48"):
        resolve_rewards({"name": "unit_tests", "memory_mb": 5})
    with pytest.raises(ConfigError, match="wall_s"):
        resolve_rewards({"name": "unit_tests", "wall_s": -1})
    with pytest.raises(ConfigError, match="colour"):
        resolve_rewards({"name": "unit_tests", "colour": "red"})
