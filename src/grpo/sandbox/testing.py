"""Tests a program in the sandbox: what it passed, test by test."""

from __future__ import annotations

import ast
import functools
import json
import operator
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grpo.errors import DataError
from grpo.sandbox.limits import Execution, Limits
from grpo.sandbox.run import run_program

__all__ = ["TestRun", "check_tests", "run_tests"]


@dataclass(frozen=True, slots=True)
class TestRun:
    """What a program passed.

    Attributes:
        passed: for each test whether it passed.
        error: why the program could not be tested to the end, in one line; None when it could.
        execution: of program and tests together.
    """

    __test__ = False  # not a test of pytest's

    passed: tuple[bool, ...]
    error: str | None
    execution: Execution

    @property
    def share(self) -> float:
        """Share of the tests that passed."""
        return sum(self.passed) / len(self.passed)


def run_tests(
    program: str,
    tests: str | Sequence[str],
    *,
    limits: Limits | None = None,
    python: str = sys.executable,
    packages: bool = False,
    namespaces: bool | None = None,
) -> TestRun:
    """Run a program with tests after it, in one process of the sandbox, and return what it passed.

    Each `assert` at the top level is a test, and so is each function `test_…` without arguments; other statements are
    carried out in their place. Tests without either are one test, passed when it runs without an exception. A program
    that ends in an expression has its value as `solution`, unless it sets that name itself.

    In `assert call == literal` (or another comparison with a literal) the literal stays outside the sandbox and is
    compared here, by value, with what comes out: a program cannot read what is expected, and an object that says that
    it is equal to everything fails. Other tests are carried out where the program is and could be deceived by it.

    A program that raises, exits or has the wrong syntax passes nothing; one that is killed keeps what it passed before.

    Args:
        tests: Python source, in one piece or several. The other arguments are `run_program`'s.

    Raises:
        DataError: the tests are not Python, or there are none.
        RunError: the sandbox could not be set up.
    """
    steps = _steps(tests if isinstance(tests, str) else "\n".join(tests))
    order = {"program": program, "steps": [{"kind": step.kind, "source": step.source} for step in steps]}
    execution = run_program(
        _harness(),
        stdin=json.dumps(order),
        limits=limits,
        python=python,
        packages=packages,
        namespaces=namespaces,
    )
    told = _told(execution.stdout)
    passed, error, failed_before = [], _load_error(told), False
    for number, step in enumerate(steps):
        outcome = told.get(number)
        if step.is_test:
            passed.append(outcome is not None and not failed_before and step.holds(outcome))
        elif outcome is not None and "error" in outcome:
            failed_before, error = True, error or str(outcome["error"])
    if error is None and len(steps) not in {number + 1 for number in told if isinstance(number, int)}:
        error = _ending(execution)
    return TestRun(tuple(passed), error, execution)


def check_tests(tests: str | Sequence[str]) -> int:
    """Return how many tests there are.

    Raises:
        DataError: they are not Python, or there are none.
    """
    return sum(step.is_test for step in _steps(tests if isinstance(tests, str) else "\n".join(tests)))


@functools.lru_cache(maxsize=1)
def _harness() -> str:
    return Path(__file__).with_name("harness.py").read_text(encoding="utf-8")


_COMPARISONS: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Is: operator.is_,
    ast.IsNot: operator.is_not,
    ast.In: lambda value, many: value in many,
    ast.NotIn: lambda value, many: value not in many,
}


@dataclass(frozen=True, slots=True)
class _Step:
    """One thing to do after the program.

    Attributes:
        kind: "value" of an expression, to be looked at outside; or "run" statements.
        holds_for: what a value must fulfil to pass.
    """

    kind: str
    source: str
    is_test: bool
    holds_for: Callable[[Any], Any] = bool

    def holds(self, outcome: dict[str, Any]) -> bool:
        """Return whether what came out of the sandbox passes this test."""
        if "error" in outcome:
            return False
        if self.kind == "run":
            return True
        try:
            return bool(self.holds_for(_value(outcome.get("value"))))
        except (ArithmeticError, LookupError, RecursionError, TypeError, ValueError):  # made up, or not comparable
            return False


@functools.lru_cache(maxsize=512)
def _steps(tests: str) -> tuple[_Step, ...]:
    try:
        tree = ast.parse(tests)
    except (SyntaxError, ValueError, RecursionError) as error:
        raise DataError(
            f"tests {tests[:80]!r} are not Python: {error}: give lines such as 'assert f(2) == 4'"
        ) from error
    steps = [_step(statement) for statement in tree.body]
    calls = [
        _Step("run", f"{statement.name}()", is_test=True)
        for statement in tree.body
        if isinstance(statement, ast.FunctionDef) and statement.name.startswith("test") and _takes_nothing(statement)
    ]
    steps += calls
    if not steps:
        raise DataError(f"tests {tests[:80]!r} test nothing: give lines such as 'assert f(2) == 4'")
    if not any(step.is_test for step in steps):
        return (_Step("run", tests, is_test=True),)
    return tuple(steps)


def _takes_nothing(function: ast.FunctionDef) -> bool:
    given = function.args
    required = len(given.posonlyargs) + len(given.args) - len(given.defaults)
    return required == 0 and None not in given.kw_defaults


def _step(statement: ast.stmt) -> _Step:
    if not isinstance(statement, ast.Assert):
        return _Step("run", ast.unparse(statement), is_test=False)
    test = statement.test
    if isinstance(test, ast.Compare) and len(test.ops) == 1:
        compare = _COMPARISONS[type(test.ops[0])]
        found, expected = _literal(test.comparators[0])
        if found:
            return _Step("value", ast.unparse(test.left), True, lambda value: compare(value, expected))
        found, expected = _literal(test.left)
        if found:
            return _Step("value", ast.unparse(test.comparators[0]), True, lambda value: compare(expected, value))
    return _Step("value", f"not not ({ast.unparse(test)})", is_test=True)


def _literal(expression: ast.expr) -> tuple[bool, Any]:
    try:
        return True, ast.literal_eval(expression)
    except (ValueError, TypeError, RecursionError):
        return False, None


def _told(stdout: str) -> dict[int | str, dict[str, Any]]:
    """Return what the harness said by the number of the step. The program may have written in between."""
    told: dict[int | str, dict[str, Any]] = {}
    for line in stdout.splitlines():
        try:
            facts = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(facts, dict):
            key = "loaded" if "loaded" in facts else facts.get("step")
            if isinstance(key, (int, str)):
                told.setdefault(key, facts)
    return told


def _load_error(told: dict[int | str, dict[str, Any]]) -> str | None:
    said = told.get("loaded", {}).get("loaded")
    return None if said is None else str(said)


def _ending(execution: Execution) -> str:
    if execution.killed_by is not None:
        return f"killed by {execution.killed_by}"
    return f"ended with exit code {execution.exit_code}"


_KINDS: dict[str, Callable[..., Any]] = {
    "int": lambda text: int(text, 16),
    "float": float.fromhex,
    "complex": lambda real, imaginary: complex(float.fromhex(real), float.fromhex(imaginary)),
    "bytes": bytes.fromhex,
    "bytearray": bytearray.fromhex,
    "list": lambda entries: [_value(entry) for entry in entries],
    "tuple": lambda entries: tuple(_value(entry) for entry in entries),
    "set": lambda entries: {_value(entry) for entry in entries},
    "frozenset": lambda entries: frozenset(_value(entry) for entry in entries),
    "dict": lambda entries: {_value(key): _value(entry) for key, entry in entries},
}


def _value(told: Any) -> Any:
    """Return the value that the harness wrote as tagged JSON.

    Raises:
        LookupError, TypeError, ValueError: it did not write this.
    """
    if told is None or isinstance(told, (bool, str)):
        return told
    kind, *content = told
    return _KINDS[kind](*content)
