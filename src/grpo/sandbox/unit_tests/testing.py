"""Tests programs in the sandbox: what they passed, test by test."""

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

_TOLD_KB = 8192
"""What the harness may write; what the program prints goes nowhere."""
_LONGEST_LINE = harness.LONGEST + 100
"""A value, and what stands around it."""
_MOST_DIGITS = 10_000


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
    entry_point: str | None = None,
    limits: Limits | None = None,
    python: str = sys.executable,
    packages: bool = False,
    namespaces: bool | None = None,
    deadline: float | None = None,
) -> TestRun:
    """Run a program with tests after it, in one process of the sandbox, and return what it passed.

    A test is: an `assert` at the top level; another statement there that asserts or calls a function of the tests
    which does; a call after the last of these; a function `test_…` without arguments; each test of a
    `unittest.TestCase`, or of a class `Test…` that prepares nothing; and each assert of a `check(candidate)`, as
    HumanEval has it (the whole function, if it does more than assert), for the function `entry_point`. Other
    statements are carried out in their place. A program that ends in an expression has its value as `solution`,
    unless it sets that name itself.

    In `assert call == literal` the literal stays outside the sandbox and is compared here, by value, with what comes
    out: a program cannot read what is expected, and an object that says that it is equal to everything fails. So it is
    with other comparisons with literals, also of `abs(…)`, `round(…, 2)`, a sum or difference with a literal, and with
    `math.isclose(call, literal)`. All other tests are carried out where the program is, and one that knows this
    harness can fake them: comparisons of two calls, asserts of a truth, loops, functions and classes of tests.

    A program that raises, exits or has the wrong syntax passes nothing; one that is killed keeps what it passed before.

    Args:
        tests: Python source, in one piece or several. Other arguments are those of `run_program`.
        entry_point: name of the function that the tests are about, where they call it `candidate`.

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
        limits=replace(limits, output_kb=max(limits.output_kb, _TOLD_KB)),
        python=python,
        packages=packages,
        namespaces=namespaces,
        deadline=deadline,
    )
    told = _told(execution.stdout)
    if "ready" not in told:
        said = " ".join(execution.stderr.split())[-300:] or _ending(execution)
        raise SandboxError(f"{python!r} does not run in the sandbox: {said}: see `grpo doctor --sandbox`")
    return TestRun(*_outcome(steps, told, execution), execution)


def check_tests(tests: str | Sequence[str], entry_point: str | None = None) -> int:
    """Return how many tests there are.

    Raises:
        DataError: they are not Python, or some test nothing.
    """
    return sum(step.is_test for step in read_steps(_joined(tests), entry_point))


def _joined(tests: str | Sequence[str]) -> str:
    return tests if isinstance(tests, str) else "\n".join(tests)


@functools.lru_cache(maxsize=1)
def _script() -> str:
    return Path(harness.__file__).read_text(encoding="utf-8")


def _told(stdout: str) -> dict[int | str, dict[str, Any]]:
    """Return what the harness said by the number of the step. The program may have written in between."""
    told: dict[int | str, dict[str, Any]] = {}
    for line in stdout.splitlines():
        try:
            facts = json.loads(line) if len(line) < _LONGEST_LINE else None
        except (ValueError, RecursionError):
            continue
        if isinstance(facts, dict):
            key = next((name for name in ("ready", "loaded") if name in facts), facts.get("step"))
            if isinstance(key, (int, str)):
                told.setdefault(key, facts)
    return told


def _outcome(
    steps: Sequence[Step], told: dict[int | str, dict[str, Any]], execution: Execution
) -> tuple[tuple[bool, ...], str | None]:
    """Return for each test whether it passed, and what kept the program from being tested to the end."""
    passed, failed_before = [], False
    said = told.get("loaded", {}).get("loaded")
    error = None if said is None else str(said)
    for number, step in enumerate(steps):
        outcome = told.get(number)
        if step.is_test:
            passed.append(outcome is not None and not failed_before and _holds(step, outcome))
        elif outcome is not None and "error" in outcome:
            failed_before, error = True, error or str(outcome["error"])
    if error is None and len(steps) - 1 not in told:
        error = _ending(execution)
    return tuple(passed), error


def _holds(step: Step, outcome: dict[str, Any]) -> bool:
    """Return whether what came out of the sandbox passes this test."""
    if "error" in outcome:
        return False
    if step.kind in ("run", "case"):
        return True
    try:
        return bool(step.holds_for(_value(outcome.get("value"))))
    except Exception:  # made up, or not comparable
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


def _value(told: Any) -> Any:
    """Return the value that the harness wrote as tagged JSON.

    Raises:
        LookupError, TypeError, ValueError: it did not write this.
    """
    if told is None or isinstance(told, (bool, int, str)):
        return told
    kind, *content = told
    return _KINDS[kind](*content)
