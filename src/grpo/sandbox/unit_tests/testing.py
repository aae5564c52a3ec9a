"""Tests a program in the sandbox, with a result for each test."""

from __future__ import annotations

import functools
import json
import sys
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

from grpo.errors import SandboxError
from grpo.sandbox.limits import Execution, Limits
from grpo.sandbox.run import run_program
from grpo.sandbox.unit_tests import harness
from grpo.sandbox.unit_tests.asserts import Step
from grpo.sandbox.unit_tests.steps import read_steps

__all__ = ["TestRun", "check_tests", "run_tests"]

_REPORT_KB = 8192
"""Limit of the harness's output; the program's own output is discarded."""
_LONGEST_LINE = harness.LONGEST + 100
"""A value, and the JSON around it."""
_MOST_DIGITS = 10_000


@dataclass(frozen=True, slots=True)
class TestRun:
    """The result of a program's tests.

    Attributes:
        passed: True for each test that passed.
        error: the reason in one line why the program was not tested to the end; None when it was.
        execution: the execution of program and tests together.
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
    entry_point: str | None = None,
    limits: Limits | None = None,
    python: str = sys.executable,
    packages: bool = False,
    namespaces: bool | None = None,
    deadline: float | None = None,
) -> TestRun:
    """Run a program and then its tests in one process of the sandbox, and return the result of each test.

    A test is: an `assert` at the top level; another statement there that asserts, or that calls a function of the
    tests that asserts; a call after the last of these; a function `test_…` without arguments; each test of a
    `unittest.TestCase`, or of a class `Test…` without preparation; and each assert of a `check(candidate)` in
    HumanEval's form (the whole function, if it does more than assert), for the function `entry_point`. Other
    statements run in their place. The value of an expression at the program's end becomes `solution`, unless the
    program sets that name itself.

    In `assert call == literal` the literal stays outside the sandbox. The parent process compares it, by value, with
    the value of the call: a program cannot read the expected value, and an object that claims to be equal to
    everything fails. The same holds for other comparisons with literals, also of `abs(…)`, `round(…, 2)`, a sum or
    difference with a literal, and for `math.isclose(call, literal)`. All other tests run beside the program, and a
    program that knows this harness can fake them: comparisons of two calls, asserts of a truth, loops, functions and
    classes of tests.

    A program that raises, exits or has a syntax error passes no test; a program that is killed keeps the tests that it
    passed before.

    Args:
        program: Python source.
        tests: Python source, in one piece or several. Other arguments are those of `run_program`.
        entry_point: name of the tested function, where the tests call it `candidate`.

    Raises:
        DataError: the tests are not Python, or some test nothing.
        ConfigError: `python` is no interpreter, or the system neither Linux nor macOS.
        SandboxError: the sandbox could not be set up, or the interpreter does not run in it.
        TimeoutError: the deadline came first.
    """
    steps = read_steps(_joined(tests), entry_point)
    order = {"program": program, "steps": [{"kind": step.kind, "source": step.source} for step in steps]}
    limits = limits or Limits()
    execution = run_program(
        _script(),
        stdin=json.dumps(order),
        limits=replace(limits, output_kb=max(limits.output_kb, _REPORT_KB)),
        python=python,
        packages=packages,
        namespaces=namespaces,
        deadline=deadline,
    )
    reports = _reports(execution.stdout)
    if "ready" not in reports:
        reason = " ".join(execution.stderr.split())[-300:] or _ending(execution)
        raise SandboxError(f"{python!r} does not run in the sandbox: {reason}: see `grpo doctor --sandbox`")
    return TestRun(*_outcome(steps, reports, execution), execution)


def check_tests(tests: str | Sequence[str], entry_point: str | None = None) -> int:
    """Return the number of tests.

    Raises:
        DataError: the tests are not Python, or some test nothing.
    """
    return sum(step.is_test for step in read_steps(_joined(tests), entry_point))


def _joined(tests: str | Sequence[str]) -> str:
    return tests if isinstance(tests, str) else "\n".join(tests)


@functools.lru_cache(maxsize=1)
def _script() -> str:
    return Path(harness.__file__).read_text(encoding="utf-8")


def _reports(stdout: str) -> dict[int | str, dict[str, Any]]:
    """Return the harness's reports by the number of their step. The program may have written lines in between."""
    reports: dict[int | str, dict[str, Any]] = {}
    for line in stdout.splitlines():
        try:
            facts = json.loads(line) if len(line) < _LONGEST_LINE else None
        except (ValueError, RecursionError):
            continue
        if isinstance(facts, dict):
            key = next((name for name in ("ready", "loaded") if name in facts), facts.get("step"))
            if isinstance(key, (int, str)):
                reports.setdefault(key, facts)
    return reports


def _outcome(
    steps: Sequence[Step], reports: dict[int | str, dict[str, Any]], execution: Execution
) -> tuple[tuple[bool, ...], str | None]:
    """Return the result of each test, and the reason why the program was not tested to the end."""
    passed, failed_before = [], False
    load_error = reports.get("loaded", {}).get("loaded")
    error = None if load_error is None else str(load_error)
    for number, step in enumerate(steps):
        outcome = reports.get(number)
        if step.is_test:
            passed.append(outcome is not None and not failed_before and _holds(step, outcome))
        elif outcome is not None and "error" in outcome:
            failed_before, error = True, error or str(outcome["error"])
    if error is None and len(steps) - 1 not in reports:
        error = _ending(execution)
    return tuple(passed), error


def _holds(step: Step, outcome: dict[str, Any]) -> bool:
    """Return whether a step's outcome passes this test."""
    if "error" in outcome:
        return False
    if step.kind in ("run", "case"):
        return True
    try:
        return bool(step.holds_for(_value(outcome.get("value"))))
    except Exception:  # a value of the wrong form, or not comparable
        return False


def _ending(execution: Execution) -> str:
    if execution.killed_by is not None:
        return f"killed by {execution.killed_by}"
    return f"ended with exit code {execution.exit_code}"


def _decimal(text: str) -> Decimal:
    number = Decimal(text)
    if number.is_finite() and abs(number.adjusted()) > _MOST_DIGITS:
        raise ValueError("too many digits to compute with")
    return number


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
    "keys": lambda entries: dict.fromkeys(_value(entry) for entry in entries).keys(),
    "values": lambda entries: dict(enumerate(_value(entry) for entry in entries)).values(),
    "items": lambda entries: {_value(key): _value(entry) for key, entry in entries}.items(),
    "range": lambda start, stop, step: range(start, stop, step)[: harness.MOST_MEMBERS],
    "deque": lambda entries: deque(_value(entry) for entry in entries),
    "Fraction": lambda numerator, denominator: Fraction(_value(numerator), _value(denominator)),
    "Decimal": _decimal,
}


def _value(tagged: Any) -> Any:
    """Return the value that the harness wrote as tagged JSON.

    Raises:
        LookupError, TypeError, ValueError: the harness did not write this.
    """
    if tagged is None or isinstance(tagged, (bool, int, str)):
        return tagged
    kind, *content = tagged
    return _KINDS[kind](*content)
