"""How many tests a piece of source has, and what is refused as testing nothing; nothing is run."""

from __future__ import annotations

import pytest

from grpo.errors import DataError
from grpo.sandbox import check_tests


def lines(*text: str) -> str:
    return "\n".join(text)


CHECK = lines("def check(candidate):", "    assert candidate(1) == 1", "    assert candidate(2) == 2")
CASE = lines("import unittest", "class A(unittest.TestCase):", "    def setUp(self): self.x = 1")
RAISES = lines("def g(x):", "    if x: raise {}", "g(f(1))", "assert f(2)")


@pytest.mark.parametrize(
    ("tests", "count"),
    [
        ("assert f(1)\nassert f(2)", 2),
        ("assert True\nassert f(1)", 1),
        ("assert f(1) == f(2)", 1),
        ("x = 3\nassert f(x) == 3\ny = 4", 1),
        # A call is a test after the last assert, and a statement before it.
        ("f(1)", 1),
        ("f(1)\nassert f(2)", 1),
        ("assert f(2)\nf(1)", 2),
        ("assert f(2)\nprint(f(1))", 1),
        # Compound statements are one test if they assert or raise.
        ("for i in range(3):\n    assert f(i)", 1),
        ("if f(1) != 2:\n    raise ValueError", 1),
        ("with pytest.raises(ValueError):\n    f(1)", 1),
        ("for i in range(3):\n    f(i)\nassert f(2)", 1),
        # Functions of the tests that assert make their calls tests; one that raises anything else does not.
        (RAISES.format("ValueError"), 1),
        (RAISES.format("AssertionError('no')"), 2),
        ("def a(x): assert x\ndef b(x): a(x)\nb(f(1))\nassert f(2)", 2),
        ("def a(x): return x\na(f(1))\nassert f(2)", 1),
        ("def test_a():\n    assert f(1)\ndef test_b(x=1):\n    assert f(x)\ndef helper(): return 1", 2),
        ("def test_a(*, x=1):\n    f(x)", 1),
        ("def test_a():\n    assert f(1)\ntest_a()", 1),
        ("def test_a():\n    assert f(1)\ndef test_b():\n    test_a()\n    assert f(2)", 2),
        ("async def test_a():\n    assert await f(1)", 1),
        ("class TestA:\n    def test_a(self): assert f(1)\n    def test_b(self): f(2)\n    def other(self): pass", 2),
        (CASE + "\n    def test_a(self): self.assertEqual(f(1), 1)", 1),
        (CASE + "\n    def test_a(self): self.fail()\nclass B(A):\n    def test_b(self): self.fail()", 3),
        (CASE + "\n    def test_a(self): self.fail()\nunittest.main()", 1),
        ("assert f(1)\nif __name__ == '__main__':\n    assert f(2)\n    unittest.main()", 2),
        (CHECK + "\ncheck(f)", 1),
    ],
)
def test_tests_are_counted(tests: str, count: int) -> None:
    assert check_tests(tests) == count


def test_a_check_of_a_candidate_has_as_many_tests_as_asserts_if_it_does_nothing_else() -> None:
    assert check_tests(CHECK, "f") == 2
    assert check_tests(CHECK + "\n    print(candidate)", "f") == 1
    assert check_tests(lines("def check(candidate):", "    x = candidate(1)", "    assert x == 1"), "A.f") == 1
    assert check_tests(["assert f(1)", "assert f(2)", "assert f(3)"]) == 3


@pytest.mark.parametrize(
    ("tests", "said"),
    [
        ("assert True", "test nothing"),
        ("x = f(1)", "test nothing"),
        ("print(f(1))", "test nothing"),
        ("for i in range(3):\n    f(i)", "test nothing"),
        ("with open('x'):\n    f(1)", "test nothing"),
        ("class A:\n    def test_a(self): assert f(1)", "test nothing"),
        ("def helper():\n    assert f(1)", "test nothing"),
        ("def test_a():\n    pass", "have test_a, which asserts nothing"),
        ("def test_a(x):\n    assert f(x)", r"define test_a\(x\) and never call it"),
        ("def test_a(*, x):\n    assert f(x)", r"define test_a\(\) and never call it"),
        (CHECK, r"define check\(candidate\) and never call it"),
        (
            "class TestA:\n    def setup_method(self): pass\n    def test_a(self): assert f(1)",
            "TestA.test_a, .* pytest",
        ),
        ("class TestA:\n    def test_a(self, tmp_path): assert f(1)", r"TestA\.test_a, which needs pytest"),
        ("class TestA:\n    def test_a(self): pass", r"TestA\.test_a, which asserts nothing"),
        ("assert (", "are not Python"),
    ],
)
def test_what_tests_nothing_is_refused_by_name(tests: str, said: str) -> None:
    with pytest.raises(DataError, match=said):
        check_tests(tests)


def test_an_entry_point_has_to_be_a_name() -> None:
    for name in ("f g", "1f", "f()", "A.", ""):
        with pytest.raises(DataError, match="is no function's name"):
            check_tests(CHECK, name)
    assert check_tests(CHECK, "A.f") == 2
